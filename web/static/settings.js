// Settings: what is wrong with a field while it is typed into, how many are changed, and a search that needs no request.

const form = document.querySelector("[data-settings]");
if (form) prepareForm(form);
const list = document.getElementById("settings-list");
if (list) prepareSearch(list);
document.querySelector(".parts [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

function prepareForm(form) {
  const told = form.querySelector("[data-changed]");
  const before = new Map(fieldsOf(form).map((field) => [field, stateOf(field)]));

  const count = () => {
    let changed = 0;
    form.querySelectorAll(".setting").forEach((setting) => {
      const is = fieldsOf(setting).some((field) => before.get(field) !== stateOf(field));
      setting.classList.toggle("changed", is);
      changed += is;
    });
    if (told) told.textContent = words(told.dataset, changed);
  };
  form.addEventListener("input", count);
  window.addEventListener("pageshow", count); // a browser that goes back fills the form again
  count();

  // The answer to what was just typed: {"addr": "what is wrong with it"}, "" when nothing is.
  form.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful) return;
    for (const [name, error] of Object.entries(JSON.parse(event.detail.xhr.responseText))) {
      const input = form.elements.namedItem(name);
      if (input) tell(input, error);
    }
  });
}

function tell(input, error) {
  const field = input.closest(".field");
  const id = `${input.id}-error`;
  const described = new Set((input.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  let place = document.getElementById(id);
  if (!error) {
    place?.remove();
    described.delete(id);
    input.removeAttribute("aria-invalid");
  } else {
    if (!place) {
      place = document.createElement("p");
      place.id = id;
      place.className = "error";
      place.setAttribute("role", "status");
      field.insertBefore(place, field.querySelector(".help"));
    }
    if (place.textContent !== error) place.textContent = error;
    described.add(id);
    input.setAttribute("aria-invalid", "true");
  }
  field.classList.toggle("wrong", Boolean(error));
  if (described.size) input.setAttribute("aria-describedby", [...described].join(" "));
  else input.removeAttribute("aria-describedby");
}

function prepareSearch(list) {
  const input = document.getElementById("search");
  const told = document.getElementById("settings-count");
  const none = document.getElementById("settings-none");
  const rows = [...list.querySelectorAll("[data-words]")];
  const search = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row) => {
      row.hidden = !wanted.every((word) => row.dataset.words.includes(word));
      found += !row.hidden;
    });
    list.querySelectorAll(".card").forEach((card) => (card.hidden = !card.querySelector("[data-words]:not([hidden])")));
    none.hidden = found > 0;
    told.textContent = wanted.length ? words(told.dataset, found) : "";
  };
  input.addEventListener("input", search);
}

function fieldsOf(part) {
  return [...part.querySelectorAll("input:not([type=hidden]), select, textarea")];
}

function stateOf(field) {
  return field.type === "checkbox" ? field.checked : field.value;
}

function words(texts, count) {
  if (count === 0) return texts.none ?? "";
  return count === 1 ? texts.one : texts.many.replace("{count}", count);
}
