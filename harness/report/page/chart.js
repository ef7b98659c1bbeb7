"use strict";
// Lines over two axes in SVG, drawn anew at each width. The pointer or the arrow keys read values out below the chart.

const NS = "http://www.w3.org/2000/svg";
const shown = new Set(); // runs that are drawn

function make(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function draw(parent, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const short = (value) => String(Number(value.toPrecision(4)));

function duration(seconds) {
  if (seconds === 0) return "0";
  if (Math.abs(seconds) < 1e-3) return short(seconds * 1e6) + " µs";
  if (Math.abs(seconds) < 1) return short(seconds * 1e3) + " ms";
  return short(seconds) + " s";
}

function count(value) {
  for (const [unit, scale] of [["G", 1e9], ["M", 1e6], ["k", 1e3]])
    if (Math.abs(value) >= scale) return short(value / scale) + " " + unit;
  return short(value);
}

const formats = { duration, count, percent: (value) => short(value) + " %", number: short };

function linearTicks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(low, high, wanted) {
  const decades = Math.log10(high / low);
  const factors = decades < 1.2 ? [1, 2, 3, 5, 7] : decades < 3 ? [1, 3] : [1];
  const every = Math.max(1, Math.ceil((decades * factors.length) / wanted));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++)
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(6));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  return ticks.filter((_, i) => i % every === 0);
}

// An axis: where a value lies between 0 and 1, back again, its ticks and how to write them.
function axisOf(spec, values, wanted) {
  let low = Infinity, high = -Infinity;
  for (const value of values)
    if (value !== null && (!spec.log || value > 0)) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low > high) { low = spec.log ? 1 : 0; high = spec.log ? 10 : 1; }
  if (!spec.log && !spec.tight) low = Math.min(low, 0);
  if (spec.max !== undefined) high = spec.max;
  if (low === high) { if (spec.log) { low /= 2; high *= 2; } else high = low + 1; }
  const to = spec.log ? Math.log : (value) => value;
  const from = spec.log ? Math.exp : (value) => value;
  const a = to(low), b = to(high);
  return {
    at: (value) => (to(value) - a) / (b - a),
    value: (share) => from(a + share * (b - a)),
    ticks: spec.ticks ? spec.ticks : spec.log ? logTicks(low, high, wanted) : linearTicks(low, high, wanted),
    write: formats[spec.kind] || short,
  };
}

function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1; else high = middle;
  }
  return low > 0 && x - xs[low - 1] < xs[low] - x ? low - 1 : low;
}

// The frame of a chart: grid, ticks and titles; returns where the plot is.
function frame(svg, width, height, spec, x, y) {
  const left = 72, right = 12, top = 8, bottom = 40;
  const plot = { left, top, width: Math.max(40, width - left - right), height: height - top - bottom };
  const px = (value) => plot.left + plot.width * x.at(value);
  const py = (value) => plot.top + plot.height * (1 - y.at(value));
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  for (const tick of y.ticks) {
    draw(svg, "line", { class: "grid", x1: left, x2: left + plot.width, y1: py(tick), y2: py(tick) });
    draw(svg, "text", { x: left - 6, y: py(tick) + 4, "text-anchor": "end" }, y.write(tick));
  }
  for (const tick of x.ticks) {
    draw(svg, "line", { class: "grid", x1: px(tick), x2: px(tick), y1: top + plot.height, y2: top + plot.height + 4 });
    draw(svg, "text", { x: px(tick), y: top + plot.height + 17, "text-anchor": "middle" }, x.write(tick));
  }
  draw(svg, "text", { class: "strong", x: left + plot.width / 2, y: height - 4, "text-anchor": "middle" }, spec.x.label);
  const middle = top + plot.height / 2;
  draw(svg, "text", { class: "strong", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, spec.y.label);
  return { ...plot, px, py };
}

// A figure with a title, an SVG that takes the focus, and a line of text where values are read out.
function figureOf(parent, title, label) {
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const readout = make("p", { class: "readout", "aria-live": "polite" });
  const figure = make("figure", {}, make("h3", {}, title), svg, readout);
  parent.append(figure);
  return { figure, svg, readout };
}

// A cursor over [0, count): by pointer position in the plot or by keys.
function cursorOf(svg, count, fromPointer, show) {
  let position = null;
  const set = (next) => { position = next === null ? null : Math.min(Math.max(next, 0), count() - 1); show(position); };
  svg.addEventListener("pointermove", (event) => set(fromPointer(event)));
  svg.addEventListener("pointerleave", () => set(null));
  svg.addEventListener("keydown", (event) => {
    const here = position ?? -1;
    const next = { ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1, Home: 0, End: count() - 1 }[event.key];
    if (next === undefined && event.key !== "Escape") return;
    event.preventDefault();
    set(next === undefined ? null : next);
  });
}

const STEPS = 60; // of a line chart's cursor

function lineChart(parent, spec, runs) {
  const several = new Set(spec.lines.map((line) => line.run)).size > 1;
  const what = several ? `${spec.lines.length} lines` : "A line for " + spec.lines.map((line) => line.name || spec.title).join(", ");
  const label = `${spec.title}. ${what}. Across: ${spec.x.label}. Up: ${spec.y.label}. Arrow keys read values.`;
  const { figure, svg, readout } = figureOf(parent, spec.title, label);
  const kinds = [false, true].map((dashed) => spec.lines.find((line) => line.dashed === dashed && line.name)).filter(Boolean);
  if (kinds.length > 1)
    figure.append(make("p", { class: "key" }, kinds.map((line) => `${line.dashed ? "dashed" : "solid"}: ${line.name}`).join("; ")));
  let x, y, plot, marks;
  const visible = () => spec.lines.filter((line) => shown.has(line.run));

  function redraw() {
    const width = Math.max(240, svg.clientWidth || 480), lines = visible();
    x = axisOf({ tight: true, ...spec.x }, lines.flatMap((line) => line.x), width / 75);
    y = axisOf(spec.y, lines.flatMap((line) => line.y), 5);
    plot = frame(svg, width, 250, spec, x, y);
    for (const line of lines) {
      let path = "", pen = "M";
      line.x.forEach((at, i) => {
        const value = line.y[i];
        if (at === null || value === null || (spec.y.log && value <= 0)) { pen = "M"; return; }
        path += `${pen}${plot.px(at).toFixed(1)},${plot.py(value).toFixed(1)}` + (pen === "M" ? "h0" : ""); // a lone point is a dot
        pen = "L";
      });
      const node = draw(svg, "path", { class: line.dashed ? "line dashed" : "line", d: path });
      node.style.stroke = `var(--run${line.run % 8})`;
    }
    marks = draw(svg, "g", {});
  }

  function show(position) {
    marks.replaceChildren();
    if (position === null) { readout.textContent = ""; return; }
    const at = x.value(position / STEPS), parts = [];
    draw(marks, "line", { class: "cursor", x1: plot.px(at), x2: plot.px(at), y1: plot.top, y2: plot.top + plot.height });
    for (const line of visible()) {
      const value = line.y[nearest(line.x, at)];
      if (value === null) continue;
      const name = [several ? runs[line.run] : "", line.name].filter(Boolean).join(", ");
      parts.push((name ? name + " " : "") + y.write(value));
      draw(marks, "circle", { r: 3.5, cx: plot.px(at), cy: plot.py(value) }).style.fill = `var(--run${line.run % 8})`;
    }
    readout.textContent = `${x.write(at)}: ${parts.join("; ") || "nothing"}`;
  }

  const fromPointer = (event) => {
    const box = svg.getBoundingClientRect();
    return Math.round((STEPS * (event.clientX - box.left - plot.left)) / plot.width);
  };
  cursorOf(svg, () => STEPS + 1, fromPointer, show);
  return redraw;
}

function selector(parent, label, options, change) {
  const select = make("select", {}, ...options.map((option, i) => make("option", { value: i }, option)));
  select.addEventListener("change", change);
  parent.append(make("label", {}, label, select));
  return select;
}
