"use strict";
// The choice of light or dark; what draws by itself listens for "themed".
(() => {
  const root = document.documentElement, theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function isDark() { return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches; }
  function themed() {
    theme.textContent = isDark() ? "Light" : "Dark";
    root.dispatchEvent(new Event("themed"));
  }
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; themed(); });
  dark.addEventListener("change", themed);
  themed();
})();
