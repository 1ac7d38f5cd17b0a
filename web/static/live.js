// Live numbers: a WebSocket, or asking once in a while where none gets through. Numbers are shown as the server does.

const live = (() => {
  const lang = document.documentElement.lang || "en";
  const whole = new Intl.NumberFormat(lang, { maximumFractionDigits: 0 });
  const tenth = new Intl.NumberFormat(lang, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

  function bytes(n) {
    let unit = 0;
    while (n >= 999.5 && unit < units.length - 1) {
      n /= 1024;
      unit += 1;
    }
    return `${unit === 0 || n >= 99.95 ? whole.format(n) : tenth.format(n)} ${units[unit]}`;
  }

  const as = {
    bytes,
    speed: (n) => `${bytes(n)}/s`,
    number: (n) => whole.format(n),
    rate: (n) => (n === 0 || n >= 9.95 ? whole.format(n) : tenth.format(n)),
    percent: (n) => `${whole.format(100 * n)}%`,
  };

  const FIRST_MS = 500;
  const LONGEST_MS = 20_000;
  const ASK_MS = 5_000; // without WebSockets
  const QUIET_MS = 8_000; // no message for so long: the connection is dead

  // Calls message(content) for each message, and state("live" | "waiting" | "lost"). Pauses while nobody looks.
  function listen(paths, message, state) {
    let socket = null;
    let failures = 0;
    let timer = 0;
    let quiet = 0;

    function connect() {
      clearTimeout(timer);
      if (document.visibilityState === "hidden") return;
      const url = new URL(paths.socket, location.href);
      url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
      socket = new WebSocket(url);
      state(failures > 1 ? "lost" : "waiting");
      const mine = socket;
      let heard = false;
      mine.addEventListener("message", (event) => {
        heard = true;
        failures = 0;
        clearTimeout(quiet);
        quiet = setTimeout(() => mine.close(), QUIET_MS);
        state("live");
        message(JSON.parse(event.data));
      });
      mine.addEventListener("close", () => {
        clearTimeout(quiet);
        if (socket !== mine) return;
        socket = null;
        if (document.visibilityState === "hidden") return;
        if (heard) {
          again(FIRST_MS * (0.5 + Math.random()));
          return;
        }
        failures += 1;
        if (failures >= 2) ask();
        else again(FIRST_MS);
      });
    }

    function again(ms) {
      clearTimeout(timer);
      timer = setTimeout(connect, ms);
    }

    // Nothing comes by WebSocket: is it the way, the console or the session?
    async function ask() {
      const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** failures);
      try {
        const answer = await fetch(paths.now, { headers: { Accept: "application/json" }, redirect: "manual" });
        if (answer.ok) {
          message(await answer.json());
          state("live");
          again(ASK_MS);
          return;
        }
        state("lost");
        if (answer.status === 401 || answer.type === "opaqueredirect") {
          notify(document.body.dataset.leftOut);
          return;
        }
      } catch {
        state("lost");
      }
      again(wait * (0.75 + Math.random() / 2));
    }

    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") {
        clearTimeout(timer);
        socket?.close();
        socket = null;
      } else if (!socket) {
        failures = 0;
        connect();
      }
    });
    addEventListener("pagehide", () => socket?.close());
    connect();
  }

  return { as, listen, lang };
})();
