"use strict";
// The sliders between the images before and after.
(() => {
  for (const sample of document.querySelectorAll(".sample")) {
    const before = sample.querySelector(".before"), divider = sample.querySelector(".divider");
    const slider = sample.querySelector("input");
    const show = () => {
      before.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
      divider.style.left = `${slider.value}%`;
    };
    slider.addEventListener("input", show);
    const pair = sample.querySelector(".pair");
    const slide = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = pair.getBoundingClientRect();
      slider.value = 100 * (event.clientX - box.left) / box.width;
      show();
    };
    pair.addEventListener("pointerdown", slide);
    pair.addEventListener("pointermove", slide);
    pair.addEventListener("dragstart", (event) => event.preventDefault());
    show();
  }
})();
