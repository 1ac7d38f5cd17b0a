// In the head, before anything is painted: the chosen theme, and that there are scripts.

(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  } catch {
    // no storage: the system's theme
  }
})();
