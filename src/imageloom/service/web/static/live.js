"use strict";
// Keeps the page up to date: each part that the server marks is replaced when something has changed.
(() => {
  const root = document.body.dataset.root;
  const status = document.getElementById("connection");

  const localTimes = (within) => {
    for (const one of within.querySelectorAll("time")) {
      one.textContent = new Date(one.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "medium" });
    }
  };

  const refresh = async () => {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname.endsWith("/login")) { location.assign(answer.url); return; }
    if (!answer.ok) { return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    localTimes(page);
    const known = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.id, part]));
    let before = null;
    for (const part of page.querySelectorAll("[data-part]")) {
      const old = known.get(part.id);
      known.delete(part.id);
      if (!old) {
        const added = document.importNode(part, true);
        if (before) { before.after(added); } else { document.querySelector("h1").after(added); }
        before = added;
        continue;
      }
      if (old.innerHTML !== part.innerHTML && !isBusy(old)) { replace(old, part); }
      before = old;
    }
    for (const gone of known.values()) { gone.remove(); }
    prepare();
  };

  const isBusy = (part) => part.matches(".over") || part.querySelector(".over") !== null;

  const replace = (old, part) => {
    const active = document.activeElement;
    const place = old.contains(active) ? [...old.querySelectorAll("a, button, input, summary")].indexOf(active) : -1;
    old.replaceChildren(...document.importNode(part, true).childNodes);
    if (place >= 0) { old.querySelectorAll("a, button, input, summary")[place]?.focus(); }
  };

  let due = false, running = false;
  const refreshSoon = () => {
    if (running) { due = true; return; }
    running = true;
    refresh().catch(() => {}).finally(() => setTimeout(() => {
      running = false;
      if (due) { due = false; refreshSoon(); }
    }, 400));
  };

  const listen = () => {
    const stream = new EventSource(`${root}api/v1/events?after=${document.body.dataset.live}`);
    let wasLost = false;
    for (const kind of ["job", "failed", "aside", "flows", "nodes", "reset"]) { stream.addEventListener(kind, refreshSoon); }
    stream.addEventListener("open", () => { status.textContent = ""; if (wasLost) { wasLost = false; refreshSoon(); } });
    stream.addEventListener("error", () => {
      wasLost = true;
      status.textContent = "not connected";
      if (stream.readyState === EventSource.CLOSED) { setTimeout(listen, 3000); }
    });
  };

  const upload = async (card, files) => {
    const told = document.getElementById("notice"), flow = card.dataset.flow;
    let done = 0;
    const failed = [];
    for (const file of files) {
      told.textContent = `Uploading ${done + failed.length + 1} of ${files.length} to ${flow}`;
      const address = `${root}api/v1/flows/${flow}/upload?key=${encodeURIComponent(file.name)}`;
      try {
        const answer = await fetch(address, { method: "PUT", body: file, headers: { "Content-Type": "application/octet-stream" } });
        if (answer.ok) { done += 1; } else { failed.push(`${file.name}: ${(await answer.json()).detail}`); }
      } catch (error) { failed.push(`${file.name}: ${error.message}`); }
    }
    told.textContent = [`${done} uploaded to ${flow}`, ...failed].join(". ");
  };

  const prepare = () => {
    for (const hint of document.querySelectorAll(".drop .hint")) { hint.hidden = false; }
    for (const card of document.querySelectorAll(".drop:not([data-ready])")) {
      card.dataset.ready = "yes";
      card.addEventListener("change", (event) => {
        if (!event.target.matches("[data-upload]")) { return; }
        upload(card, [...event.target.files]);
        event.target.value = "";
      });
      card.addEventListener("dragover", (event) => { event.preventDefault(); card.classList.add("over"); });
      card.addEventListener("dragleave", () => card.classList.remove("over"));
      card.addEventListener("drop", (event) => {
        event.preventDefault();
        card.classList.remove("over");
        upload(card, [...event.dataTransfer.files]);
      });
    }
  };

  // What changes without a message: the machine's load, the lanes of workers.
  setInterval(() => { if (document.visibilityState === "visible" && document.querySelector("#machine, #hand, #nodes")) { refreshSoon(); } }, 5000);

  localTimes(document);
  if (document.body.dataset.live !== undefined) { prepare(); listen(); }
})();
