// Reads the page's data and puts the charts where they belong.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (identity) => document.getElementById(identity);
const redraws = [];

function legend() {
  data.runs.forEach((name, run) => {
    shown.add(run);
    if (data.runs.length < 2) return;
    const swatch = make("i", { class: "swatch" });
    swatch.style.background = `var(--run${run % 8})`;
    const button = make("button", { type: "button", "aria-pressed": "true" }, swatch, name);
    button.addEventListener("click", () => {
      if (shown.has(run)) shown.delete(run); else shown.add(run);
      button.setAttribute("aria-pressed", String(shown.has(run)));
      redrawAll();
    });
    byId("legend").append(button);
  });
}

function redrawAll() {
  for (const redraw of redraws) redraw();
}

function contents() {
  for (const section of document.querySelectorAll("main > section"))
    document.querySelector("nav").append(make("a", { href: "#" + section.id }, section.querySelector("h2").textContent));
}

contents();
legend();
for (const group of document.querySelectorAll(".charts"))
  for (const spec of data[group.dataset.group]) redraws.push(lineChart(group, spec, data.runs));
if (byId("phases")) phases(byId("phases"), data);
if (byId("waterfall-chart")) redraws.push(waterfall(byId("waterfall-controls"), byId("waterfall-chart"), data));
if (data.sweep && data.sweep.knobs.length) {
  redraws.push(heatMap(byId("heat-controls"), byId("heat"), byId("heat-note"), data.sweep));
  redraws.push(pareto(byId("pareto-controls"), byId("pareto"), data.sweep));
}
if (data.sweep) cellTable(byId("cells"), data.sweep);
redrawAll();
let waiting = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(redrawAll); });
