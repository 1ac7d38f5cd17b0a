// What every page needs: theme, menu, questions before what can't be undone, copying, htmx. Pages work without it.

const text = document.body.dataset;

// Theme: the system's, or the one that was chosen. theme.js sets it before the page is painted.

const themeSwitch = document.querySelector("[data-theme-switch]");
if (themeSwitch) {
  themeSwitch.value = document.documentElement.dataset.theme ?? "";
  themeSwitch.addEventListener("change", () => {
    const theme = themeSwitch.value;
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    try {
      if (theme) localStorage.setItem("theme", theme);
      else localStorage.removeItem("theme");
    } catch {
      // no storage: for this page alone
    }
    document.dispatchEvent(new Event("theme"));
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));

// The navigation on a phone

const menu = document.querySelector(".menu");
if (menu) {
  const side = document.getElementById(menu.getAttribute("aria-controls"));
  const open = (is) => {
    menu.setAttribute("aria-expanded", String(is));
    side.classList.toggle("open", is);
  };
  menu.addEventListener("click", () => open(menu.getAttribute("aria-expanded") !== "true"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && side.classList.contains("open")) {
      open(false);
      menu.focus();
    }
  });
}

// Questions: data-confirm="…" on a button

const confirmation = document.getElementById("confirm");

function ask(question) {
  confirmation.querySelector("#confirm-text").textContent = question;
  confirmation.returnValue = "no";
  confirmation.showModal();
  return new Promise((answer) =>
    confirmation.addEventListener("close", () => answer(confirmation.returnValue === "yes"), { once: true }),
  );
}

let agreed = null; // the button whose question was answered

document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest("[data-confirm]");
    if (!button) return;
    if (agreed === button) {
      agreed = null;
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
    ask(button.dataset.confirm).then((yes) => {
      // htmx may have brought the table anew meanwhile: the button of the same id is the same
      const now = button.isConnected ? button : button.id && document.getElementById(button.id);
      if (!yes || !now) return;
      agreed = now;
      now.click();
      agreed = null;
    });
  },
  true,
);

// Dialogs: data-open="id" on a button. Copying: data-copy on a button beside a <pre>, or data-copy="text".

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  if (opener) document.getElementById(opener.dataset.open)?.showModal();
  const closer = event.target.closest("dialog [data-close]");
  if (closer) closer.closest("dialog").close();
  const copier = event.target.closest("[data-copy]");
  if (copier) copy(copier);
  const revealer = event.target.closest("[data-reveal]");
  if (revealer) reveal(revealer);
});

async function copy(button) {
  const source = button.closest(".code")?.querySelector("pre");
  const what = button.dataset.copy || source?.textContent || "";
  try {
    await navigator.clipboard.writeText(what);
  } catch {
    // only allowed over TLS and on localhost: the old way
    const area = document.createElement("textarea");
    area.value = what;
    area.className = "hidden";
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (!copied) return;
  }
  const before = button.textContent;
  button.textContent = text.copied;
  notify(text.copied, "hidden");
  setTimeout(() => (button.textContent = before), 2000);
}

// data-reveal="id of an input": shows what is typed, or hides it

function reveal(button) {
  const input = document.getElementById(button.dataset.reveal);
  const shown = input.type === "password";
  input.type = shown ? "text" : "password";
  button.setAttribute("aria-pressed", String(shown));
}

// Notices of scripts stand where those of the server do

function notify(words, kind = "bad") {
  const place = document.getElementById("notices");
  place.querySelectorAll("[data-told]").forEach((each) => each.remove());
  const notice = document.createElement("div");
  notice.className = kind === "hidden" ? "hidden" : `notice ${kind}`;
  notice.dataset.told = "";
  const paragraph = document.createElement("p");
  paragraph.textContent = words;
  notice.append(paragraph);
  place.append(notice);
}

// Whatever htmx has brought is prepared like the page itself

function prepare(part) {
  part.querySelectorAll("[data-copy][hidden]").forEach((each) => (each.hidden = false));
  part.querySelectorAll("table").forEach((table) => {
    const headers = [...table.querySelectorAll("thead tr > *")].map((each) => each.textContent.trim());
    table.querySelectorAll("tbody tr").forEach((row) =>
      [...row.children].forEach((cell, index) => {
        if (headers[index] && cell.tagName === "TD" && !cell.hasAttribute("colspan") && index > 0)
          cell.dataset.label ??= headers[index];
      }),
    );
  });
}

prepare(document);

document.body.addEventListener("htmx:configRequest", (event) => {
  const token = document.querySelector('meta[name="csrf-token"]');
  if (token) event.detail.headers["X-CSRFToken"] = token.content;
  // nobody has asked for it: it does not keep the session from ending when it is idle
  if (!event.detail.triggeringEvent?.isTrusted) event.detail.headers["X-Background"] = "true";
});
document.body.addEventListener("htmx:afterSwap", (event) => prepare(event.detail.elt.parentElement ?? document));
document.body.addEventListener("htmx:responseError", (event) => {
  const status = event.detail.xhr.status;
  notify(status === 401 || status === 403 ? text.leftOut : text.failed);
});
document.body.addEventListener("htmx:sendError", () => notify(text.unreachable));
document.body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.querySelectorAll("#notices [data-told]").forEach((each) => each.remove());
});

// data-refresh="2": the element gets the event "refresh" (hx-trigger="refresh") every 2 s, while somebody can see it.
// data-pause: the button that stops this, and live numbers. data-submit: a select that sends its form.

const page = { paused: false };

document.querySelectorAll("[data-pause]").forEach((button) =>
  button.addEventListener("click", () => {
    page.paused = !page.paused;
    button.setAttribute("aria-pressed", String(page.paused));
  }),
);

document.querySelectorAll("[data-refresh]").forEach((each) => {
  setInterval(() => {
    if (document.visibilityState === "visible" && !page.paused && !confirmation.open)
      each.dispatchEvent(new Event("refresh"));
  }, 1000 * Number(each.dataset.refresh));
});

document.querySelectorAll("[data-submit]").forEach((each) => each.addEventListener("change", () => each.form.requestSubmit()));
