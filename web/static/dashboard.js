// The dashboard follows the live numbers.

(() => {
  const root = document.getElementById("dashboard");
  const board = window.uPlot ? new charts.Board(root.dataset.series) : null;
  board?.load();

  const POINT_S = 15; // of the small charts: 60 of them are 15 minutes

  function at(content, path) {
    return path.split(".").reduce((found, name) => found?.[name], content);
  }

  function put(element, words) {
    if (element.textContent !== words) element.textContent = words;
  }

  function values(content) {
    root.querySelectorAll("[data-value]").forEach((each) => {
      const value = at(content, each.dataset.value);
      const known = value !== null && value !== undefined;
      put(each, known ? live.as[each.dataset.as](value) + each.dataset.unit : "–");
    });
    root.querySelectorAll("[data-meter]").forEach((each) => {
      const part = Math.max(0, Math.min(1, at(content, each.dataset.meter) ?? 0));
      put(each.querySelector("[data-percent]"), live.as.percent(part));
      const bar = each.querySelector(".share");
      bar.querySelector(".part").setAttribute("width", `${(100 * part).toFixed(1)}%`);
      bar.setAttribute("class", `share ${part > 0.95 ? "bad" : part > 0.8 ? "warn" : ""}`);
    });
  }

  function warnings(content) {
    root.querySelectorAll("[data-warning]").forEach((each) => {
      each.hidden = !content.warnings.includes(each.dataset.warning);
    });
    put(root.querySelector("[data-problem-text]"), content.problem);
  }

  function problems(content) {
    let some = false;
    root.querySelectorAll("tr[data-problem]").forEach((row) => {
      const [hour, ever] = content.problems[row.dataset.problem] ?? [0, 0];
      row.hidden = ever === 0;
      some ||= ever > 0;
      put(row.cells[1], live.as.number(hour));
      put(row.cells[2], live.as.number(ever));
    });
    root.querySelector("[data-problems]").hidden = !some;
    root.querySelector("[data-problems-none]").hidden = some;
  }

  const lines = new Map(); // by kind and name: {points, sum, count}
  let point = 0;

  function lineOf(key, row) {
    let line = lines.get(key);
    if (!line) {
      const points = row.querySelector(".spark").dataset.line.split(" ").map(Number);
      line = { points, sum: 0, count: 0 };
      lines.set(key, line);
    }
    return line;
  }

  function draw(row, line) {
    const shown = [...line.points.slice(1), line.count ? line.sum / line.count : line.points.at(-1)];
    const top = Math.max(1, ...shown);
    const points = shown.map((value, index) => `${index},${(23 - (22 * value) / top).toFixed(1)}`).join(" ");
    row.querySelector("polyline").setAttribute("points", points);
  }

  function tables(content) {
    const now = Math.floor(content.time / POINT_S);
    if (point && now !== point) {
      for (const [key, line] of lines) {
        line.points = [...line.points.slice(1), line.count ? line.sum / line.count : 0];
        line.sum = line.count = 0;
        if (!line.points.some((value) => value > 0)) lines.delete(key);
      }
    }
    point = now;
    root.querySelectorAll("[data-some]").forEach((some) => table(some, content.parts[some.dataset.some] ?? []));
  }

  function table(some, parts) {
    const kind = some.dataset.some;
    const body = some.querySelector("tbody");
    const known = new Map([...body.rows].map((row) => [row.dataset.name, row]));
    parts.forEach(([name, streams, opened, bytesIn, bytesOut], index) => {
      const row = known.get(name) ?? made(kind, name);
      known.delete(name);
      if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
      put(row.cells[2], live.as.number(streams));
      put(row.cells[3], live.as.rate(opened));
      put(row.cells[4], live.as.speed(bytesIn));
      put(row.cells[5], live.as.speed(bytesOut));
      const line = lineOf(`${kind} ${name}`, row);
      line.sum += bytesIn + bytesOut;
      line.count += 1;
      draw(row, line);
    });
    for (const row of known.values()) row.remove();
    some.hidden = parts.length === 0;
    root.querySelector(`[data-none="${kind}"]`).hidden = parts.length > 0;
  }

  // A user's id in a path, as the server's IdConverter writes it
  function inPath(id) {
    if (/^[A-Za-z0-9_][A-Za-z0-9._@+-]*$/.test(id) && id !== "new") return encodeURIComponent(id);
    const bytes = String.fromCharCode(...new TextEncoder().encode(id));
    return `~${btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
  }

  function made(kind, name) {
    const row = root.querySelector(`template[data-row="${kind}"]`).content.firstElementChild.cloneNode(true);
    row.dataset.name = name;
    const title = row.cells[0].firstElementChild;
    title.textContent = name;
    if (title.href) title.setAttribute("href", title.getAttribute("href").replace(/-$/, inPath(name)));
    return row;
  }

  const connection = document.querySelector("[data-connection]");

  function state(now) {
    const words = connection.dataset[now];
    if (connection.textContent === words) return;
    connection.textContent = words;
    connection.className = `status js-only ${{ live: "ok", waiting: "muted", lost: "warn" }[now]}`;
  }

  live.listen(
    root.dataset,
    (content) => {
      if (page.paused) return;
      values(content);
      warnings(content);
      problems(content);
      tables(content);
      board?.add(content);
    },
    state,
  );
})();
