// Charts on a page of one user, host or service: they are asked for anew every few seconds.

(() => {
  const place = document.querySelector("[data-board]");
  if (!place || !window.uPlot) return;
  const { board: where, kind, name } = place.dataset;
  const board = new charts.Board(where, { kind, name });
  const load = () => {
    if (document.visibilityState === "visible" && !page.paused) {
      board.now = Date.now() / 1000;
      board.load();
    }
  };
  load();
  setInterval(load, 5000);
})();
