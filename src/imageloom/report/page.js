"use strict";
// The timeline. What comes from the data is set as text, never as HTML.
(() => {
  const { timeline, stages } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;

  // The timeline's data: columns of numbers

  const canvas = document.getElementById("timeline-canvas");
  const context = canvas.getContext("2d");
  const tip = document.getElementById("tip");
  const n = timeline.count, rows = timeline.rows, total = Math.max(timeline.seconds, 1e-6);
  const second = 1e6 / timeline.unit;
  const parts = [...stages, "lost"];
  const column = {};
  let keys = null, first = [];

  async function unpack() {
    const packed = Uint8Array.from(atob(timeline.block), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const block = await new Response(stream).arrayBuffer();
    let at = 0;
    for (const name of timeline.wide) { column[name] = new Uint32Array(block, at, n); at += 4 * n; }
    for (const name of timeline.narrow) { column[name] = new Uint8Array(block, at, n); at += n; }
    keys = new TextDecoder().decode(new Uint8Array(block, at)).split("\n");
    first = new Int32Array(rows.length + 1).fill(n);
    for (let i = n - 1; i >= 0; i--) first[column.row[i]] = i;
    for (let row = rows.length - 1; row >= 0; row--) if (first[row] > first[row + 1]) first[row] = first[row + 1];
  }

  const busy = (i) => parts.reduce((sum, part) => sum + column[part][i], 0);

  // What of it is seen

  const LEFT_WIDE = 112, LEFT_SMALL = 92, TOP = 6, AXIS = 22;
  let from = 0, to = total, width = 0, left = LEFT_WIDE, rowHeight = 30, colours = {}, asked = 0;

  const plotWidth = () => width - left;
  const x = (seconds) => left + (seconds - from) / (to - from) * plotWidth();
  const time = (px) => from + (px - left) / plotWidth() * (to - from);

  function view(start, end) {
    const shortest = Math.min(total, 2e-5);
    let length = Math.min(total, Math.max(shortest, end - start));
    from = Math.min(Math.max(0, start), total - length);
    to = from + length;
    draw();
  }
  function zoom(factor, centre = (from + to) / 2) { view(centre - (centre - from) * factor, centre + (to - centre) * factor); }
  function pan(share) { const by = share * (to - from); view(from + by, to + by); }

  function readColours() {
    const style = getComputedStyle(root);
    for (const role of [...parts, "publish", "ink", "muted", "grid", "bad"]) colours[role] = style.getPropertyValue("--" + role).trim();
  }

  function layout() {
    width = canvas.parentElement.clientWidth;
    left = width < 500 ? LEFT_SMALL : LEFT_WIDE;
    rowHeight = Math.max(12, Math.min(36, 560 / rows.length));
    const height = TOP + rows.length * rowHeight + AXIS, ratio = window.devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }

  function draw() {
    if (!asked) asked = requestAnimationFrame(() => { asked = 0; paint(); });
  }

  function paint() {
    if (width <= left) return;
    const height = TOP + rows.length * rowHeight + AXIS;
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    axis(height);
    for (let row = 0; row < rows.length; row++) {
      const y = TOP + row * rowHeight;
      context.fillStyle = colours.ink;
      context.textAlign = "left";
      if (rowHeight > 13) context.fillText(rows[row], 0, y + rowHeight / 2 + 4, left - 8);
      context.fillStyle = colours.grid;
      context.globalAlpha = 0.55;
      context.fillRect(left, y + 2, plotWidth(), rowHeight - 4);
      context.globalAlpha = 1;
    }
    if (keys) bars();
    document.getElementById("range").textContent = `${clock(from)} – ${clock(to)}`;
    canvas.dataset.from = from;
    canvas.dataset.to = to;
  }

  function axis(height) {
    const about = width < 500 ? 4 : 8, length = to - from;
    let step = 10 ** Math.floor(Math.log10(length / about));
    step *= [1, 2, 5, 10].find((m) => length / (step * m) <= about) || 10;
    context.textAlign = "center";
    for (let i = Math.ceil(from / step); i * step <= to + step * 1e-6; i++) {
      const at = x(i * step);
      context.fillStyle = colours.grid;
      context.fillRect(Math.round(at), TOP, 1, height - AXIS - TOP + 4);
      context.fillStyle = colours.muted;
      if (at < width - 16) context.fillText(clock(i * step, step), Math.max(at, left + 8), height - 5);
    }
  }

  // Bars that are wide enough are drawn; thin ones are added up, pixel by pixel, and drawn as shares.

  function bars() {
    const pixels = Math.ceil(plotWidth()), scale = plotWidth() / (to - from) / second, origin = from * second;
    const sums = parts.map(() => new Float32Array(pixels));
    const published = new Float32Array(pixels);
    const add = (column, begin, end) => {
      begin = Math.max(0, begin); end = Math.min(pixels, end);
      for (let p = Math.floor(begin); p < end; p++) column[p] += Math.min(end, p + 1) - Math.max(begin, p);
    };
    for (let row = 0; row < rows.length; row++) {
      const y = TOP + row * rowHeight + 2, h = rowHeight - 4;
      for (const sum of sums) sum.fill(0);
      for (let i = first[row]; i < first[row + 1]; i++) {
        let at = (column.started[i] - origin) * scale;
        if (at > pixels) break;
        for (let k = 0; k < parts.length; k++) {
          const wide = column[parts[k]][i] * scale, end = at + wide;
          if (wide && end > 0 && at < pixels) {
            if (wide < 2) add(sums[k], at, end);
            else {
              context.fillStyle = colours[parts[k]];
              const begin = Math.max(0, at);
              context.fillRect(left + begin, y, Math.min(pixels, end) - begin - (wide > 6 ? 0.6 : 0), h);
            }
          }
          at = end;
        }
      }
      shares(sums, parts, y, h);
    }
    for (let i = 0; i < n; i++) {
      const at = (column.collected[i] - origin) * scale, end = at + column.publish[i] * scale;
      if (end > 0 && at < pixels && column.outcome[i] === 0) add(published, at, end);
    }
    shares([published], ["publish"], TOP + (rows.length - 1) * rowHeight + 2, rowHeight - 4);
    marks(pixels, scale, origin);
  }

  function shares(sums, names, y, h) {
    for (let k = 0; k < sums.length; k++) {
      context.fillStyle = colours[names[k]];
      for (let p = 0; p < sums[k].length; p++) {
        if (sums[k][p] < 0.002) continue;
        let below = 0;
        for (let j = 0; j < k; j++) below += sums[j][p];
        const share = Math.min(1 - Math.min(1, below), sums[k][p]);
        context.fillRect(left + p, y + h * (1 - below - share), 1, h * share);
      }
    }
  }

  function marks(pixels, scale, origin) {
    context.fillStyle = context.strokeStyle = colours.bad;
    context.lineWidth = 2;
    const seen = new Set();
    for (let i = 0; i < n; i++) {
      if (!column.outcome[i]) continue;
      const at = (column.started[i] + busy(i) - origin) * scale;
      const spot = column.row[i] * 100000 + Math.round(at / 3);
      if (at < 0 || at > pixels || seen.has(spot)) continue;
      seen.add(spot);
      const px = left + at, y = TOP + column.row[i] * rowHeight + 3;
      context.beginPath();
      if (column.died[i]) {
        context.moveTo(px - 4, y); context.lineTo(px + 4, y + 8);
        context.moveTo(px + 4, y); context.lineTo(px - 4, y + 8);
        context.stroke();
      } else {
        context.moveTo(px, y); context.lineTo(px + 4.5, y + 7); context.lineTo(px - 4.5, y + 7);
        context.fill();
      }
    }
  }

  // Words

  function clock(seconds, step = (to - from) / 100) {
    if (seconds >= 3600 && step >= 36) return `${+(seconds / 3600).toFixed(2)} h`;
    if (step >= 0.001 || seconds === 0) return `${+seconds.toFixed(Math.max(0, Math.min(4, Math.ceil(-Math.log10(step)))))} s`;
    return `${+(seconds * 1e3).toFixed(Math.max(0, Math.min(4, Math.ceil(-Math.log10(step * 1e3)))))} ms`;
  }
  function span(units) {
    const seconds = units / second;
    if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
    return seconds < 1 ? `${(seconds * 1e3).toPrecision(3)} ms` : `${+seconds.toFixed(2)} s`;
  }

  function found(px, py) {
    const row = Math.floor((py - TOP) / rowHeight);
    if (!keys || px < left || row < 0 || row >= rows.length) return -1;
    const at = time(px) * second, slack = 2 * (to - from) * second / plotWidth();
    let best = -1, nearest = slack;
    for (let i = first[row]; i < first[row + 1] && column.started[i] <= at + slack; i++) {
      const end = column.started[i] + busy(i);
      const far = at < column.started[i] ? column.started[i] - at : Math.max(0, at - end);
      if (far <= nearest) { nearest = far; best = i; }
    }
    return best;
  }

  function describe(i) {
    const outcome = ["done", "failed, retried", "failed"][column.outcome[i]] + (column.died[i] ? ", worker lost" : "");
    const spent = parts.filter((part) => column[part][i]).map((part) => `${part} ${span(column[part][i])}`);
    return `${keys[i]}\n${rows[column.row[i]]}, attempt ${column.number[i]}: ${outcome}\n` +
      `${spent.join(", ")}\nwaited ${span(column.wait[i])}, published in ${span(column.publish[i])}`;
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function hover(event) {
    const [px, py] = point(event), i = found(px, py);
    tip.hidden = i < 0;
    if (i < 0) return;
    tip.textContent = describe(i);
    tip.style.left = `${Math.max(0, Math.min(px + 12, width - tip.offsetWidth))}px`;
    tip.style.top = `${py + 18}px`;
  }

  // Wheel, pointers, keys, buttons

  canvas.addEventListener("wheel", (event) => {
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
    if (!sideways && !event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
    event.preventDefault();
    if (sideways) pan((event.deltaX || event.deltaY) / plotWidth());
    else zoom(Math.exp(Math.max(-200, Math.min(200, event.deltaY)) * 0.0025), time(Math.max(left, point(event)[0])));
  }, { passive: false });

  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point(event)[0]);
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return hover(event);
    tip.hidden = true;
    const px = point(event)[0], last = pointers.get(event.pointerId);
    const other = [...pointers].find(([id]) => id !== event.pointerId);
    if (other) {
      const before = Math.abs(last - other[1]), after = Math.abs(px - other[1]);
      if (before > 5 && after > 5) zoom(before / after, time((px + other[1]) / 2));
    } else pan((last - px) / plotWidth());
    pointers.set(event.pointerId, px);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => {
    pointers.delete(event.pointerId);
    canvas.classList.toggle("dragging", pointers.size > 0);
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("dblclick", (event) => zoom(0.4, time(point(event)[0])));

  const actions = {
    in: () => zoom(0.6), out: () => zoom(1 / 0.6), left: () => pan(-0.25), right: () => pan(0.25), all: () => view(0, total),
  };
  const keysOf = { "+": "in", "=": "in", "-": "out", "−": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all", Home: "all" };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") canvas.blur();
    const action = keysOf[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[action]();
  });
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", actions[button.dataset.do]);

  function themed() { readColours(); draw(); }
  root.addEventListener("themed", themed);

  layout();
  themed();
  new ResizeObserver(() => { if (canvas.parentElement.clientWidth !== width) layout(); }).observe(canvas.parentElement);
  unpack().then(() => { canvas.dataset.ready = "yes"; draw(); });
})();
