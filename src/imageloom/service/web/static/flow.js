"use strict";
// The preview of a flow: what its recipe makes of a sample, while it is typed.
(() => {
  const form = document.getElementById("flow");
  const root = document.body.dataset.root;
  const recipe = form.elements.recipe, source = form.elements.source;
  const sample = document.getElementById("sample"), note = document.getElementById("preview-note");
  const problem = document.getElementById("problem"), shown = document.getElementById("shown");
  const plan = document.getElementById("plan"), words = document.getElementById("words");
  const names = [...document.querySelectorAll("[data-operator]")].map((one) => one.dataset.operator);
  let position = 50, addresses = [], turn = 0, timer = 0;

  const address = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const made = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
    addresses.push(made);
    return made;
  };

  const picture = (text, alt, kind) => {
    const image = new Image();
    image.src = address(text);
    image.alt = alt;
    image.className = kind;
    return image;
  };

  const show = (found) => {
    addresses.forEach(URL.revokeObjectURL);
    addresses = [];
    shown.replaceChildren(...found.after.map((one) => {
      const box = document.createElement("div"), pair = document.createElement("div"), slider = document.createElement("input");
      box.className = "sample";
      pair.className = "pair";
      const before = picture(found.before, "before", "before");
      pair.append(picture(one.image, "after", "after"), before);
      Object.assign(slider, { type: "range", min: 0, max: 100, value: position });
      slider.setAttribute("aria-label", `Before and after${one.name ? ` of ${one.name}` : ""}`);
      const cut = () => { position = slider.value; before.style.clipPath = `inset(0 ${100 - position}% 0 0)`; };
      slider.addEventListener("input", cut);
      cut();
      if (one.name) { const title = document.createElement("p"); title.className = "note"; title.textContent = one.name; box.append(title); }
      box.append(pair, slider);
      return box;
    }));
    const chosen = sample.value;
    sample.replaceChildren(new Option("the first image", ""), ...found.samples.map((key) => new Option(key, key)));
    sample.value = found.samples.includes(chosen) ? chosen : "";
    plan.hidden = false;
    plan.querySelector("pre").textContent = found.plan.join("\n");
    note.textContent = `${found.sample}: before on the left, after on the right.`;
  };

  const preview = async () => {
    const own = ++turn;
    note.textContent = "…";
    try {
      const answer = await fetch(`${root}api/v1/preview`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ source: source.value, recipe: recipe.value, sample: sample.value }),
      });
      const found = await answer.json();
      if (own !== turn) { return; }
      if (answer.ok) { problem.textContent = ""; show(found); return; }
      const isAbout = answer.status === 422;
      problem.textContent = isAbout ? found.detail : "";
      note.textContent = isAbout ? "" : found.detail;
    } catch (error) { if (own === turn) { note.textContent = error.message; } }
  };

  const previewSoon = () => { clearTimeout(timer); timer = setTimeout(preview, 300); };

  const suggest = () => {
    const before = recipe.value.slice(0, recipe.selectionStart);
    const word = /(?:^|[|\n:]|- )\s*([a-z_]+)$/.exec(before)?.[1] ?? "";
    const fitting = word ? names.filter((name) => name.startsWith(word) && name !== word).slice(0, 6) : [];
    words.replaceChildren(...fitting.map((name) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "example";
      button.textContent = name;
      button.addEventListener("click", () => {
        recipe.setRangeText(`${name} `, before.length - word.length, before.length, "end");
        recipe.focus();
        changed();
      });
      return button;
    }));
  };

  const changed = () => { suggest(); previewSoon(); };

  recipe.addEventListener("input", changed);
  source.addEventListener("change", previewSoon);
  sample.addEventListener("change", preview);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      recipe.value = recipe.value.trim() ? `${recipe.value.trim()} | ${button.dataset.example}` : button.dataset.example;
      recipe.focus();
      changed();
    });
  }
  if (!document.getElementById("preview").hidden) { preview(); }
})();
