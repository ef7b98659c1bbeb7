// Requests as bars from arrival on, a colour for each stretch between two of their moments.

function waterfall(controls, parent, data) {
  const runPicker = selector(controls, "Run", data.runs, redraw);
  if (data.runs.length < 2) runPicker.parentElement.hidden = true;
  const ways = Object.keys(data.waterfalls[0]);
  const way = selector(controls, "Requests", ways, redraw);
  const until = selector(controls, "Up to", ["last token", "first token"], redraw);
  const key = make("div", { class: "stagekey" });
  data.stages.forEach((stage, i) => {
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = `var(--stage${i})`;
    key.append(make("span", {}, swatch, stage));
  });
  parent.append(key);
  const { svg, readout } = figureOf(parent, "Milliseconds since arrival", "Waterfall of requests. Arrow keys read a request's stages.");
  const ROW = 16;
  let requests = [], marks, plot;

  const end = (request) => until.value === "1" && request.first_ms !== null
    ? request.first_ms : Math.max(...request.stages.map(([, last]) => last ?? 0));

  function redraw() {
    requests = data.waterfalls[runPicker.value][ways[way.value]];
    const width = Math.max(260, svg.clientWidth || 900), height = requests.length * ROW + 56;
    const longest = Math.max(1e-3, ...requests.map(end));
    const x = axisOf({ kind: "number" }, [0, longest], width / 90);
    const y = { at: (row) => 1 - row / Math.max(1, requests.length), ticks: [], write: short };
    plot = frame(svg, width, height, { x: { label: "ms since arrival" }, y: { label: "request" } }, x, y);
    requests.forEach((request, row) => {
      const top = plot.top + row * ROW;
      draw(svg, "text", { x: plot.left - 6, y: top + 12, "text-anchor": "end" }, "#" + request.request_id);
      request.stages.forEach(([first, last], stage) => {
        if (first === null || last === null) return;
        const from = Math.min(first, longest), to = Math.min(last, longest);
        const size = { x: plot.px(from), y: top + 2, width: Math.max(0, plot.px(to) - plot.px(from)), height: ROW - 4 };
        if (size.width > 0) draw(svg, "rect", size).style.fill = `var(--stage${stage})`;
      });
      if (request.first_ms !== null && request.first_ms <= longest)
        draw(svg, "line", { class: "cursor", x1: plot.px(request.first_ms), x2: plot.px(request.first_ms), y1: top, y2: top + ROW });
    });
    marks = draw(svg, "g", {});
    readout.textContent = requests.length ? "The upright line is the first token at the client." : "No request ended.";
  }

  function show(row) {
    marks.replaceChildren();
    if (row === null || !requests[row]) return;
    const request = requests[row];
    draw(marks, "rect", { class: "cursor", fill: "none", x: plot.left, y: plot.top + row * ROW, width: plot.width, height: ROW });
    const cached = request.cached_tokens < 0 ? "" : `, ${request.cached_tokens} cached`;
    const stages = request.stages.flatMap(([first, last], i) =>
      first === null || last === null ? [] : [`${data.stages[i]} ${short(last - first)}`]);
    readout.textContent = `Request ${request.request_id}: ${request.prompt_tokens} prompt tokens${cached}, ` +
      `${request.output_tokens} output tokens. First token ${request.first_ms === null ? "-" : short(request.first_ms)} ms. ` +
      `In ms: ${stages.join(", ")}`;
  }

  const fromPointer = (event) => Math.floor((event.clientY - svg.getBoundingClientRect().top - plot.top) / ROW);
  cursorOf(svg, () => requests.length, fromPointer, show);
  return redraw;
}

function phases(parent, data) {
  const colours = { prefill: "--stage5", decode: "--stage6", mixed: "--stage7", idle: "--panel" };
  const key = make("div", { class: "stagekey" });
  for (const [phase, colour] of Object.entries(colours)) {
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = `var(${colour})`;
    swatch.style.border = "1px solid var(--rule)";
    key.append(make("span", {}, swatch, phase));
  }
  parent.append(key);
  data.phases.forEach((shares, run) => {
    if (shares === null) return;
    const words = Object.entries(shares).map(([phase, share]) => `${phase} ${share} %`).join(", ");
    const bar = make("div", { class: "bar", role: "img", "aria-label": words });
    for (const [phase, share] of Object.entries(shares)) {
      const part = make("div", { title: `${phase} ${share} %` });
      part.style.width = share + "%";
      part.style.background = `var(${colours[phase]})`;
      bar.append(part);
    }
    parent.append(make("div", {}, `${data.runs[run]}: ${words}`), bar);
  });
}
