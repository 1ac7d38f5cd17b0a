// The log as it grows: asks each second for the lines that are new, with the level and the text that are chosen.

(() => {
  const log = document.getElementById("log");
  const form = document.querySelector("[data-log-filter]");
  const state = document.querySelector("[data-log-state]");
  const download = document.querySelector("[data-log-download]");
  const problem = document.querySelector("[data-log-problem]");
  const empty = document.querySelector("[data-log-empty]");

  const EVERY_MS = 1000;
  const TYPING_MS = 300; // after the last letter of a search
  const MOST = 5000; // lines on the page; the oldest go
  const NEAR_PX = 40; // so near to the end means: shall stay there

  const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
  let next = log.dataset.next;
  let asked = 0; // answers to earlier questions are not shown
  let stale = false; // what is shown is not what the filter says, until an answer has come
  let failures = 0;
  let typing = 0;

  // Times as in the browser's time zone, those that the server has written as well
  log.querySelectorAll("time").forEach((each) => (each.textContent = clock.format(new Date(each.dateTime))));

  function part(name, text, more = {}) {
    return Object.assign(document.createElement(name), { textContent: text }, more);
  }

  function row(line) {
    const time = new Date(1000 * line.time);
    const made = part("span", "", { className: line.level });
    const at = part("time", clock.format(time), { dateTime: time.toISOString(), title: time.toISOString() });
    const text = line.traceback ? `${line.message}\n${line.traceback}` : line.message;
    made.append(at, " ", part("b", line.level.toUpperCase().padEnd(5)), " ", part("i", line.role), ` ${text}`);
    return made;
  }

  function tell(what) {
    state.className = `status ${{ live: "ok", paused: "muted", lost: "bad" }[what]}`;
    state.textContent = state.dataset[what];
  }

  function query() {
    const found = new URLSearchParams(new FormData(form));
    for (const name of ["level", "search"]) if (!found.get(name)?.trim()) found.delete(name);
    return found;
  }

  function show(answer, anew) {
    const follows = anew || log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    const rows = answer.lines.map(row);
    if (anew) log.replaceChildren(...rows);
    else log.append(...rows);
    while (log.childElementCount > MOST) log.firstElementChild.remove();
    if (follows && (anew || rows.length)) log.scrollTop = log.scrollHeight;
    empty.hidden = log.childElementCount > 0;
    problem.hidden = !answer.problem;
    problem.querySelector("span").textContent = answer.problem ?? "";
    next = answer.next;
  }

  async function ask(anew = false) {
    const mine = ++asked;
    stale ||= anew;
    const whole = stale;
    const parameters = query();
    parameters.set("limit", log.dataset.limit);
    if (!whole) parameters.set("after", next);
    try {
      const headers = { Accept: "application/json", "X-Background": "true" }; // does not keep an idle session
      const answer = await fetch(`${log.dataset.url}?${parameters}`, { headers });
      if (mine !== asked) return;
      if (answer.status === 401) return location.reload(); // to the login, and back
      if (!answer.ok) throw new Error(answer.statusText);
      const found = await answer.json();
      if (mine !== asked) return;
      show(found, whole);
      stale = false;
      failures = 0;
      tell(page.paused ? "paused" : "live");
    } catch {
      if (mine === asked && ++failures > 1) tell("lost");
    }
  }

  function choose() {
    const chosen = query();
    const text = chosen.toString();
    history.replaceState(null, "", text ? `?${text}` : location.pathname);
    download.href = text ? `${log.dataset.download}?${text}` : log.dataset.download;
    ask(true);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    choose();
  });
  form.elements.level.addEventListener("change", choose);
  form.elements.search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(choose, TYPING_MS);
  });
  document.querySelector("[data-pause]").addEventListener("click", () => tell(page.paused ? "paused" : "live"));

  async function run() {
    if (document.visibilityState === "visible" && !page.paused) await ask();
    setTimeout(run, EVERY_MS);
  }

  log.scrollTop = log.scrollHeight;
  tell("live");
  setTimeout(run, EVERY_MS);
})();
