// Charts of the last 15 minutes or 24 hours, drawn by uPlot in the colours of the theme.

const charts = (() => {
  const HEIGHT = 168;
  const COLOURS = ["--accent", "--second"];
  const clock = new Intl.DateTimeFormat(live.lang, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const exact = new Intl.DateTimeFormat(live.lang, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hourCycle: "h23",
  });

  const probe = document.createElement("span");
  probe.className = "hidden";
  document.body.append(probe);

  // A canvas knows no variables: what colour is that now?
  function colour(name, alpha = 1) {
    probe.style.color = `var(${name})`;
    const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g);
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  }

  // The top of a scale: a round number whose half can be shown, too
  const STEPS = { speed: [1, 2, 5, 10], rate: [1, 2, 5, 10], number: [2, 4, 6, 8, 10] };
  const LEAST = { speed: 1024, rate: 2, number: 4 };

  function above(value, kind) {
    let unit = 1;
    if (kind === "speed") while (value / unit >= 1000) unit *= 1024;
    const power = 10 ** Math.floor(Math.log10(Math.max(value / unit, 1)));
    const top = STEPS[kind].find((step) => step * power * unit >= value) * power;
    return Math.max(LEAST[kind], (kind === "speed" && top === 1000 ? 1024 : top) * unit);
  }

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.plot = figure.querySelector(".plot");
      this.fields = figure.dataset.fields.split(" ");
      this.format = live.as[figure.dataset.as];
      this.kind = figure.dataset.as;
      this.keys = this.fields.map((field) => figure.querySelector(`[data-key="${field}"]`));
      this.span = 900;
      this.data = [[], ...this.fields.map(() => [])];
      this.hovered = false;
      this.make();
      new ResizeObserver(() => this.uplot.setSize({ width: this.plot.clientWidth, height: HEIGHT })).observe(this.plot);
      document.addEventListener("theme", () => this.uplot.redraw());
    }

    make() {
      const axis = {
        stroke: () => colour("--muted"),
        font: "12px system-ui, sans-serif",
        grid: { stroke: () => colour("--line"), width: 1 },
        ticks: { show: false },
      };
      const options = {
        width: this.plot.clientWidth,
        height: HEIGHT,
        padding: [8, 0, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false }, sync: { key: "charts" } },
        scales: {
          x: { time: true, range: () => this.range() },
          y: { range: (_, __, top) => [0, this.top(top)] },
        },
        axes: [
          { ...axis, grid: { show: false }, space: 72, size: 28, values: (u, times) => times.map((t) => (u.valToPos(t, "x") < 16 ? "" : clock.format(1000 * t))) },
          { ...axis, side: 1, size: 72, gap: 8, splits: (u) => [0, u.scales.y.max / 2, u.scales.y.max],
            values: (_, values) => values.map((v) => this.format(v)) },
        ],
        series: [
          {},
          ...this.fields.map((_, index) => ({
            stroke: () => colour(COLOURS[index]),
            fill: () => colour(COLOURS[index], index === 0 ? 0.1 : 0),
            width: 1.5,
            points: { show: false },
          })),
        ],
        hooks: { setCursor: [(u) => this.hover(u.cursor.idx)] },
      };
      this.uplot = new uPlot(options, this.data, this.plot);
    }

    range() {
      const last = this.now ?? Date.now() / 1000;
      return [last - this.span, last];
    }

    top(value) {
      return this.kind === "percent" ? 1 : above(value ?? 0, this.kind);
    }

    // rows: {times, columns}; now: the right edge
    set(rows, span, now) {
      this.span = span;
      this.now = now;
      this.data = [rows.times, ...this.fields.map((field) => rows.columns[field])];
      this.draw();
    }

    draw() {
      this.uplot.setData(this.data);
      if (!this.hovered) this.tell(this.data[0].length - 1);
    }

    hover(index) {
      this.hovered = index !== null && index !== undefined;
      this.tell(this.hovered ? index : this.data[0].length - 1);
      const time = this.hovered && this.data[0][index];
      this.figure.querySelector("[data-at]").textContent = time ? exact.format(1000 * time) : "";
    }

    tell(index) {
      this.keys.forEach((key, place) => {
        const value = this.data[place + 1][index];
        const words = value === null || value === undefined ? "–" : this.format(value);
        if (key.textContent !== words) key.textContent = words;
      });
    }
  }

  // Rows of numbers that grow at their end and lose what is older than `span` seconds
  class Rows {
    constructor(span) {
      this.span = span;
      this.times = [];
      this.columns = {};
      this.step = 1;
    }

    set(rows) {
      Object.assign(this, rows);
    }

    add(time, numbers) {
      const last = this.times.at(-1);
      if (last !== undefined && time <= last) return false;
      if (last !== undefined && time - last > 1.5 * this.step) this.push(last + this.step, null);
      this.push(time, numbers);
      let old = 0;
      while (this.times[old] <= time - this.span) old += 1;
      if (old) {
        this.times.splice(0, old);
        for (const column of Object.values(this.columns)) column.splice(0, old);
      }
      return true;
    }

    push(time, numbers) {
      this.times.push(time);
      for (const [field, column] of Object.entries(this.columns)) column.push(numbers ? (numbers[field] ?? null) : null);
    }
  }

  const SPANS = { "15m": 900, "24h": 86400 };

  // All charts of a page. where: URL of the series, and what is asked besides the span
  class Board {
    constructor(where, more = {}) {
      this.where = where;
      this.more = more;
      this.charts = [...document.querySelectorAll("[data-chart]")].map((figure) => new Chart(figure));
      this.rows = Object.fromEntries(Object.entries(SPANS).map(([name, span]) => [name, new Rows(span)]));
      this.span = "15m";
      this.now = Date.now() / 1000;
      document.querySelectorAll("[data-span]").forEach((button) =>
        button.addEventListener("click", () => {
          this.span = button.dataset.span;
          document
            .querySelectorAll("[data-span]")
            .forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
          this.load();
        }),
      );
    }

    async load() {
      const span = this.span;
      const url = new URL(this.where, location.href);
      for (const [name, value] of Object.entries({ ...this.more, span })) url.searchParams.set(name, value);
      try {
        const answer = await fetch(url, { headers: { Accept: "application/json" } });
        if (!answer.ok) return;
        this.rows[span].set(await answer.json());
      } catch {
        return; // whoever listens to the live numbers says so
      }
      this.draw();
    }

    draw() {
      const rows = this.rows[this.span];
      for (const chart of this.charts) if (rows.columns[chart.fields[0]]) chart.set(rows, SPANS[this.span], this.now);
    }

    add(message) {
      this.now = message.time;
      const { times } = this.rows["15m"];
      if (times.length && message.time - times.at(-1) > 5) this.load(); // there is something missing
      if (message.total) this.rows["15m"].add(message.time, message.total);
      const minute = message.minute && this.rows["24h"].times.length && this.rows["24h"].add(message.minute.time, message.minute);
      if (this.span === "15m" || minute) this.draw();
    }
  }

  return { Board };
})();
