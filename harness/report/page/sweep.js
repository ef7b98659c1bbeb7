// A sweep: a heat map over two knobs, a Pareto front over two metrics, a table of all runs. Where seeds vary, a run is a
// setting: its figures are means, and `halves` are halves of their intervals.

function mean(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

// Viridis, thinned: light means much. Text takes whichever of black and white stands out.
const HEAT = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

function heatColour(share) {
  const at = Math.min(0.9999, Math.max(0, share)) * (HEAT.length - 1), i = Math.floor(at);
  const rgb = HEAT[i].map((from, c) => Math.round(from + (at - i) * (HEAT[i + 1][c] - from)));
  return { back: `rgb(${rgb})`, text: 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 120 ? "#000" : "#fff" };
}

// A figure of a run, with its interval where seeds tell of one.
function figureText(cell, m) {
  if (cell.values[m] === null) return "-";
  const half = cell.halves ? cell.halves[m] : null;
  return short(cell.values[m]) + (half === null ? "" : ` ±${short(half)}`);
}

const last = (name) => name.split(".").pop();

function heatMap(controls, parent, note, sweep) {
  const names = sweep.knobs.map((knob) => knob.name);
  const metric = selector(controls, "Metric", sweep.metrics.map((each) => each.label), redraw);
  const across = selector(controls, "Across", names, redraw);
  const down = selector(controls, "Down", ["(nothing)", ...names], redraw);
  down.value = names.length > 1 ? 2 : 0;

  function redraw() {
    const x = Number(across.value), y = Number(down.value) - 1, m = Number(metric.value);
    const columns = sweep.knobs[x].values, rows = y < 0 || y === x ? [""] : sweep.knobs[y].values;
    const grid = rows.map((_, r) => columns.map((_, c) => sweep.cells.filter((cell) =>
      cell.knobs[x] === c && (rows.length === 1 && rows[0] === "" ? true : cell.knobs[y] === r))));
    const valueOf = (cells) => mean(cells.map((cell) => cell.values[m]));
    const textOf = (cells) => (cells.length === 1 ? figureText(cells[0], m) : short(valueOf(cells)));
    const values = grid.flat().map(valueOf), known = values.filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const log = low > 0 && high > 50 * low;
    const share = (value) => (high === low ? 0.5 : log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));
    const head = make("tr", {}, make("th", { scope: "col" }, (y < 0 || y === x ? "" : last(names[y]) + " \\ ") + last(names[x])),
      ...columns.map((value) => make("th", { scope: "col" }, value)));
    const best = known.length ? (sweep.metrics[m].smaller ? low : high) : null;
    const body = rows.map((word, r) => make("tr", {}, make("th", { scope: "row" }, word), ...grid[r].map((cells) => {
      const value = valueOf(cells), td = make("td", { class: "cell" }, value === null ? "-" : textOf(cells) + (value === best ? " ★" : ""));
      if (value !== null) { const colour = heatColour(share(value)); td.style.background = colour.back; td.style.color = colour.text; }
      return td;
    })));
    parent.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
    const pooled = Math.max(...grid.flat().map((cells) => cells.length));
    note.textContent = `★ best${sweep.method ? `; ${sweep.method}` : ""}` +
      `${pooled > 1 ? `; a cell is the mean of up to ${pooled} runs that differ in the other knobs` : ""}` +
      `${log ? "; colours on a logarithmic scale" : ""}.`;
  }
  return redraw;
}

// Runs that no other run beats in both metrics, by their first metric.
function paretoFront(points, smallerX, smallerY) {
  const front = [];
  const better = (a, b, smaller) => (smaller ? a < b : a > b);
  for (const point of [...points].sort((a, b) => (smallerX ? a.x - b.x : b.x - a.x) || (smallerY ? a.y - b.y : b.y - a.y)))
    if (!front.length || better(point.y, front[front.length - 1].y, smallerY)) front.push(point);
  return front;
}

function pareto(controls, parent, sweep) {
  const labels = sweep.metrics.map((each) => each.label);
  const across = selector(controls, "Across", labels, redraw), up = selector(controls, "Up", labels, redraw);
  across.value = Math.max(0, labels.indexOf("output tokens per second"));
  const { figure, svg, readout } = figureOf(parent, "Runs; those on the line are beaten by none in both", "Pareto front. Arrow keys read the runs.");
  const list = make("p", { class: "key" });
  figure.append(list);
  let points = [], plot, marks;
  const words = (point) => `${point.name}: ${labels[across.value]} ${short(point.x)}, ${labels[up.value]} ${short(point.y)}`;

  function redraw() {
    const mx = Number(across.value), my = Number(up.value);
    const half = (cell, m) => (cell.halves ? cell.halves[m] || 0 : 0);
    points = sweep.cells.map((cell) => ({ x: cell.values[mx], y: cell.values[my], halfX: half(cell, mx), halfY: half(cell, my),
      name: cell.knobs.map((value, k) => `${sweep.knobs[k].name}=${sweep.knobs[k].values[value]}`).join(", ") || cell.name }))
      .filter((point) => point.x !== null && point.y !== null).sort((a, b) => a.x - b.x);
    const log = (values) => values.every((value) => value > 0) && Math.max(...values) > 50 * Math.min(...values);
    const xs = points.map((point) => point.x), ys = points.map((point) => point.y);
    const ends = (values, halves) => {  // of the intervals; a logarithm knows none below the least mean
      const least = log(values) ? Math.min(...values) : -Infinity;
      return values.map((value, i) => [Math.max(value - halves[i], least), value + halves[i]]);
    };
    const xEnds = ends(xs, points.map((point) => point.halfX)), yEnds = ends(ys, points.map((point) => point.halfY));
    const width = Math.max(260, svg.clientWidth || 900);
    const spec = { x: { label: labels[mx] + (log(xs) ? ", log" : "") }, y: { label: labels[my] + (log(ys) ? ", log" : "") } };
    const x = axisOf({ kind: "count", log: log(xs), tight: true }, xEnds.flat(), width / 90), y = axisOf({ kind: "count", log: log(ys) }, yEnds.flat(), 6);
    plot = frame(svg, width, 360, spec, x, y);
    const front = paretoFront(points, sweep.metrics[mx].smaller, sweep.metrics[my].smaller);
    const d = front.map((point, i) => `${i ? "L" : "M"}${plot.px(point.x)},${plot.py(point.y)}`).join("");
    draw(svg, "path", { class: "line", d }).style.stroke = "var(--run1)";
    points.forEach((point, i) => {
      const [left, right] = xEnds[i].map(plot.px), [low, high] = yEnds[i].map(plot.py);
      if (point.halfX || point.halfY)
        draw(svg, "path", { class: "interval", d: `M${left},${plot.py(point.y)}H${right}M${plot.px(point.x)},${low}V${high}` });
    });
    for (const point of points) {
      const on = front.includes(point);
      draw(svg, "circle", { r: on ? 6 : 4, cx: plot.px(point.x), cy: plot.py(point.y), class: on ? "front" : "" })
        .style.fill = on ? "var(--run1)" : "var(--run0)";
    }
    marks = draw(svg, "g", {});
    list.textContent = "On the front: " + front.map((point) => point.name).join(" | ");
    readout.textContent = "";
  }

  function show(position) {
    marks.replaceChildren();
    const point = position === null ? undefined : points[position];
    readout.textContent = point ? words(point) : "";
    if (point) draw(marks, "circle", { class: "cursor", fill: "none", r: 9, cx: plot.px(point.x), cy: plot.py(point.y) });
  }

  const fromPointer = (event) => {
    const box = svg.getBoundingClientRect(), ex = event.clientX - box.left, ey = event.clientY - box.top;
    let best = null, least = 900;
    points.forEach((point, i) => {
      const distance = (plot.px(point.x) - ex) ** 2 + (plot.py(point.y) - ey) ** 2;
      if (distance < least) { least = distance; best = i; }
    });
    return best;
  };
  cursorOf(svg, () => points.length, fromPointer, show);
  return redraw;
}

function cellTable(parent, sweep) {
  const heads = [...sweep.knobs.map((knob) => knob.name), ...sweep.metrics.map((each) => each.label)];
  const body = make("tbody", {});
  let sorted = null, ascending = true;
  const value = (cell, column) => column < sweep.knobs.length ? cell.knobs[column] : cell.values[column - sweep.knobs.length];
  const headers = heads.map((head, column) => {
    const button = make("button", { type: "button" }, head), th = make("th", { scope: "col" }, button);
    button.addEventListener("click", () => {
      ascending = sorted === column ? !ascending : true;
      sorted = column;
      headers.forEach((each) => each.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      fill();
    });
    return th;
  });

  function fill() {
    const cells = [...sweep.cells];
    if (sorted !== null)
      cells.sort((a, b) => (value(a, sorted) ?? Infinity) - (value(b, sorted) ?? Infinity));
    if (!ascending) cells.reverse();
    body.replaceChildren(...cells.map((cell) => make("tr", {}, make("th", { scope: "row" }, cell.name),
      ...cell.knobs.map((index, k) => make("td", {}, sweep.knobs[k].values[index])),
      ...cell.values.map((_, m) => make("td", {}, figureText(cell, m))))));
  }
  fill();
  parent.append(make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "run"), ...headers)), body));
}
