// The first run: the token from the URL, what is shown for which choice, and the wait for the console that goes on.

// The token comes in the fragment, which browsers send to nobody, and does not stay in the address bar.

const KEY = "gt-setup-token";
const fragment = location.hash.replace(/^#(token=)?/, "");
if (fragment && fragment !== "content") {
  sessionStorage.setItem(KEY, decodeURIComponent(fragment));
  history.replaceState(null, "", location.pathname + location.search);
}
const places = document.querySelectorAll("[data-setup-token]");
for (const each of places) if (!each.value) each.value = sessionStorage.getItem(KEY) ?? "";
const entered = document.querySelector(".wizard [data-setup-token]");
if (entered?.value) sessionStorage.removeItem(KEY); // it has been filled in; should it be wrong, it is not tried again
if (!places.length) sessionStorage.removeItem(KEY);

// Choices: what belongs to one is shown as long as it is the one

function showChosen() {
  for (const part of document.querySelectorAll("[data-shown-for]"))
    part.hidden = document.querySelector(`input[name="kind"][value="${part.dataset.shownFor}"]`)?.checked === false;
  for (const part of document.querySelectorAll("[data-shown-for-check]"))
    part.hidden = !document.getElementById(part.dataset.shownForCheck).checked;
}
document.addEventListener("change", showChosen);
showChosen();

// Services: host names are for web pages, ports for everything else; and rows for more of them

document.addEventListener("input", (event) => {
  if (!event.target.matches("[data-local]")) return;
  const service = event.target.closest("[data-service]");
  const isTCP = event.target.value.trim().toLowerCase().startsWith("tcp:");
  service.querySelector('[data-for="http"]').hidden = isTCP;
  service.querySelector('[data-for="tcp"]').hidden = !isTCP;
});
for (const each of document.querySelectorAll("[data-local]"))
  each.dispatchEvent(new Event("input", { bubbles: true }));

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add]");
  if (!button) return;
  const taken = document.querySelectorAll('input[name^="local-"]').length;
  const holder = document.createElement("div");
  holder.innerHTML = document.getElementById(button.dataset.template).innerHTML.replaceAll("NUMBER", taken);
  const row = holder.firstElementChild;
  document.getElementById(button.dataset.add).append(row);
  row.querySelector("[data-local]").dispatchEvent(new Event("input", { bubbles: true }));
  row.querySelector("[data-local]").focus();
});

// How good a password is, roughly: length counts, and more kinds of letters a little

function strengthOf(password, least) {
  if (password.length < least) return "short";
  const kinds = [/[a-z]/, /[A-Z]/, /[0-9]/, /[^a-zA-Z0-9]/].filter((each) => each.test(password)).length;
  const score = Math.min(new Set(password).size, password.length) + 2 * kinds;
  return score < 12 ? "weak" : score < 18 ? "fair" : "strong";
}

for (const input of document.querySelectorAll("[data-strength]")) {
  const words = document.getElementById(input.dataset.strength);
  input.addEventListener("input", () => {
    const strength = strengthOf(input.value, Number(words.dataset.min));
    words.hidden = !input.value;
    words.textContent = words.dataset[strength];
    words.dataset.is = strength;
  });
}

// What is wrong is no longer said once it is being put right

document.addEventListener("input", (event) => {
  const input = event.target.closest('.wizard [aria-invalid="true"]');
  if (!input) return;
  input.removeAttribute("aria-invalid");
  input.closest(".field")?.querySelector(".error")?.remove();
});

// What takes a moment says so, and is not done twice

for (const button of document.querySelectorAll("[data-busy]"))
  button.form.addEventListener("submit", () => {
    button.textContent = button.dataset.busy;
    button.setAttribute("aria-disabled", "true");
    setTimeout(() => (button.disabled = true)); // when its form is on the way
  });

// The new console answers at the same address: as long as it is the old one, it says so

const starting = document.querySelector("[data-starting]");
if (starting) {
  const target = starting.dataset.starting;
  history.replaceState(null, "", target); // loading the page again must not send the form again
  const began = Date.now();
  const look = async () => {
    try {
      const answer = await fetch(target, { cache: "no-store" });
      if (answer.ok && !answer.headers.has("X-GT-Setup")) {
        location.replace(target);
        return;
      }
    } catch {
      // nobody answers just now
    }
    if (Date.now() - began > 20000) document.querySelector(".late").hidden = false;
    setTimeout(look, 1000 * Number(starting.dataset.poll));
  };
  look();
}
