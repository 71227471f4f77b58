"use strict";
// A slider between two pictures that lie on top of each other.
let pairPosition = 50;

const slide = (box) => {
  const pair = box.querySelector(".pair"), before = pair.querySelector(".before"), slider = box.querySelector("input");
  const cut = () => { pairPosition = slider.value; pair.style.setProperty("--cut", `${pairPosition}%`); };
  const fit = () => { if (before.naturalWidth) { pair.style.aspectRatio = `${before.naturalWidth} / ${before.naturalHeight}`; } };
  slider.value = pairPosition;
  slider.hidden = false;
  slider.addEventListener("input", cut);
  before.addEventListener("load", fit);
  fit();
  cut();
};

for (const box of document.querySelectorAll(".sample")) { slide(box); }
