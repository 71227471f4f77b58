"use strict";
// The sliders between two pictures that are in the page.
for (const box of document.querySelectorAll(".sample")) {
  const slider = box.querySelector("input"), before = box.querySelector(".before");
  const cut = () => { before.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`; };
  slider.hidden = false;
  slider.addEventListener("input", cut);
  cut();
}
