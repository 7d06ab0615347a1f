// Before anything is drawn, so that a dark page does not flash.
try {
  const chosen = localStorage.getItem("flag-analytics-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the system's own theme holds.
}
