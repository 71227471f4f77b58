"use strict";
// The preview of a flow: what its recipe makes of a sample, while it is typed.
(() => {
  const form = document.getElementById("flow");
  const root = document.body.dataset.root;
  const recipe = form.elements.recipe, source = form.elements.source;
  const sample = document.getElementById("sample"), note = document.getElementById("preview-note");
  const shown = document.getElementById("shown");
  const plan = document.getElementById("plan"), words = document.getElementById("words");
  const about = document.getElementById("about"), more = document.getElementById("more");
  const problems = new Map([...document.querySelectorAll("[data-problem]")].map((one) => [one.dataset.problem, one]));
  const names = [...document.querySelectorAll("[data-operator]")].map((one) => one.dataset.operator);
  let addresses = [], turn = 0, timer = 0;

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
      pair.append(picture(one.image, "After", "after"), picture(found.before, "Before", "before"));
      Object.assign(slider, { type: "range", min: 0, max: 100 });
      slider.setAttribute("aria-label", `Before and after${one.name ? ` of ${one.name}` : ""}`);
      if (one.name) { const title = document.createElement("p"); title.className = "note"; title.textContent = one.name; box.append(title); }
      box.append(pair, slider);
      slide(box);
      return box;
    }));
    plan.hidden = false;
    plan.querySelector("pre").textContent = found.plan.join("\n");
    note.textContent = `${found.sample}: before on the left, after on the right.`;
  };

  const send = (path, body) => fetch(`${root}api/v1/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

  // An error stands beside the field that it is about.
  const tell = (text) => {
    const named = /^(\w+)[.:]/.exec(text)?.[1], field = named === "source" || named === "sink" ? named : "recipe";
    for (const one of ["source", "sink", "recipe"]) {
      problems.get(one).textContent = one === field ? text : "";
      if (text && one === field) { form.elements[one].setAttribute("aria-invalid", "true"); } else { form.elements[one].removeAttribute("aria-invalid"); }
    }
  };

  // The documentation of the operator at the cursor.
  const explain = () => {
    const before = recipe.value.slice(0, recipe.selectionStart), after = recipe.value.slice(recipe.selectionStart);
    const step = before.split(/[|\n]/).pop() + after.split(/[|\n]/)[0];
    const name = step.match(/[a-z_]+/g)?.find((word) => names.includes(word));
    about.hidden = !name;
    if (!name || about.dataset.shown === name) { return; }
    about.dataset.shown = name;
    const [summary, ...rest] = document.querySelector(`[data-operator="${name}"]`).cloneNode(true).children;
    about.replaceChildren(...summary.childNodes, ...rest.filter((one) => one.matches(".operator, ul")));
  };

  const addOutput = () => {
    const now = recipe.value.trimEnd();
    const count = (now.match(/^  \S+:/gm) ?? []).length;
    recipe.value = now.includes("outputs:") ? `${now}\n  output${count + 1}: ` : `outputs:\n  output1: ${now}\n  output2: `;
    recipe.rows = Math.min(16, recipe.value.split("\n").length + 2);
    recipe.focus();
  };

  const list = async () => {
    try {
      const answer = await send("samples", { source: source.value });
      if (!answer.ok) { return; }
      const chosen = sample.value, { samples } = await answer.json();
      sample.replaceChildren(new Option("the first image", ""), ...samples.map((key) => new Option(key, key)));
      sample.value = samples.includes(chosen) ? chosen : "";
    } catch { /* the preview says what is wrong */ }
  };

  const preview = async () => {
    const own = ++turn;
    note.textContent = "…";
    try {
      const answer = await send("preview", { source: source.value, recipe: recipe.value, sample: sample.value });
      const found = await answer.json();
      if (own !== turn) { return; }
      tell("");
      if (answer.ok) { show(found); return; }
      if (answer.status === 422) { tell(found.detail); note.textContent = ""; } else { note.textContent = found.detail; }
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

  const changed = () => { suggest(); explain(); previewSoon(); };

  recipe.addEventListener("input", changed);
  for (const kind of ["keyup", "click", "focus"]) { recipe.addEventListener(kind, explain); }
  // The arrow key moves from the text to the operators that fit.
  recipe.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && words.firstChild) { event.preventDefault(); words.firstChild.focus(); }
  });
  if (more) { more.hidden = false; document.getElementById("add-output").addEventListener("click", addOutput); }
  source.addEventListener("change", () => { list(); previewSoon(); });
  sample.addEventListener("change", preview);
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => {
      recipe.value = recipe.value.trim() ? `${recipe.value.trim()} | ${button.dataset.example}` : button.dataset.example;
      recipe.focus();
      changed();
    });
  }
  if (!document.getElementById("preview").hidden) { list(); preview(); }
})();
