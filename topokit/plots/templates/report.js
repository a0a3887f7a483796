"use strict";
// Tables: clicking a heading sorts the rows by that column.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent; head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const cell = row => row.cells[column].textContent.trim();
      const number = text => /^[-–+<]? ?[\d.,]+(e[-+]?\d+)?( |$)/i.test(text) ? parseFloat(text.replace(/[<,]/g, "")) : NaN;
      const none = text => text === "" || text === "–" || text === "nan";
      const compare = (a, b) => {
        if (none(a) || none(b)) return none(a) - none(b);  // undefined values last in both orders
        const [x, y] = [number(a), number(b)];
        const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
        return up ? order : -order;
      };
      [...body.rows].sort((a, b) => compare(cell(a), cell(b))).forEach(row => body.append(row));
    });
  });
}

// The player: for each run the degree distribution of a layer on log-log axes and its block
// densities, all at one epoch and on one scale. Distributions are [k, share] pairs, drawn as steps;
// densities are a base64 string an epoch, one byte (0..99, relative to the densest block of the
// run) for each block, row by row.
const WIDTH = 560, HEIGHT = 340, LEFT = 66, RIGHT = 12, TOP = 12, BOTTOM = 44;
const draw = (tag, attributes, parent, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
for (const player of document.querySelectorAll(".player")) {
  const { runs } = JSON.parse(player.querySelector("script").textContent);
  const [choice, slider, button] = ["select", "input", "button"].map(tag => player.querySelector(tag));
  const panels = [...player.querySelectorAll(".panel")];
  const names = [...new Set(runs.flatMap(run => Object.keys(run.curves)))];
  for (const name of names) choice.add(new Option(name, name));
  const epochs = [...new Set(runs.flatMap(run => run.epochs))].sort((a, b) => a - b);
  slider.max = epochs.length - 1;
  const latest = (run, epoch) => Math.max(0, run.epochs.findLastIndex(e => e <= epoch));
  const steps = (points, x, y) => points.map(([k, share], i) => (i ? `H${x(k)}V${y(share)}` : `M${x(Math.min(k, 1))},${y(share)}H${x(k)}`)).join("");
  const paint = (figure, blocks, at) => {
    const [rows, columns] = blocks.shape, canvas = figure.querySelector("canvas");
    figure.hidden = !(rows && columns);
    if (figure.hidden) return;
    canvas.height = rows; canvas.width = columns;
    const brush = canvas.getContext("2d"), levels = atob(blocks.epochs[at]);
    brush.fillStyle = getComputedStyle(player).color;
    for (let i = 0; i < levels.length; i++) {
      brush.globalAlpha = levels.charCodeAt(i) / 99;
      brush.fillRect(i % columns, Math.floor(i / columns), 1, 1);
    }
    figure.querySelector(".down .to").textContent = blocks.units[0];
    figure.querySelector(".across .to").textContent = blocks.units[1];
    figure.querySelector(".most").textContent = blocks.densest;
  };
  const plot = (picture, curve, at, largest) => {
    const smallest = 0.5 / Math.max(1, curve.units);
    const x = k => LEFT + (WIDTH - LEFT - RIGHT) * Math.log(k / 0.9) / Math.log(largest * 1.2 / 0.9);
    const y = s => TOP + (HEIGHT - TOP - BOTTOM) * Math.log(s / 1.3) / Math.log(smallest / 1.3);
    picture.replaceChildren();
    for (let k = 1; k <= largest * 1.2; k *= 10) {
      draw("line", { x1: x(k), x2: x(k), y1: TOP, y2: HEIGHT - BOTTOM, class: "axis" }, picture);
      draw("text", { x: x(k), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, picture, k);
    }
    for (let s = 1; s >= smallest; s /= 10) {
      draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(s), y2: y(s), class: "axis" }, picture);
      draw("text", { x: LEFT - 6, y: y(s) + 4, "text-anchor": "end" }, picture, Number(s.toPrecision(1)));
    }
    draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, picture, `${curve.side} k`);
    draw("text", { x: 14, y: (TOP + HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(TOP + HEIGHT - BOTTOM) / 2})` }, picture, `share of units with ${curve.side} ≥ k`);
    draw("path", { d: steps(curve.nulls[curve.null[at]].filter(p => p[1] >= smallest), x, y), class: "null" }, picture);
    if (at) draw("path", { d: steps(curve.epochs[0], x, y), class: "first" }, picture);
    draw("path", { d: steps(curve.epochs[at], x, y), class: "now" }, picture);
  };
  const show = () => {
    const epoch = epochs[Number(slider.value)];
    const curves = runs.map(run => run.curves[choice.value]);
    const degrees = curves.flatMap(curve => curve ? [...curve.epochs.flat(), ...curve.nulls.flat()].map(p => p[0]) : []);
    const largest = degrees.reduce((a, b) => Math.max(a, b), 10);
    panels.forEach((panel, i) => {
      const run = runs[i], curve = curves[i], at = latest(run, epoch);
      panel.querySelector("svg").style.visibility = curve ? "visible" : "hidden";
      if (!curve) { panel.querySelector("output").textContent = "no such layer"; panel.querySelector(".matrix").hidden = true; return; }
      plot(panel.querySelector("svg"), curve, at, largest);
      paint(panel.querySelector(".matrix"), run.blocks[curve.layer], at);
      panel.querySelector("output").textContent = `epoch ${run.epochs[at]}, ${run.label} ${run.scores[at]}, variance / mean ${curve.dispersion[at]}`;
    });
  };
  let timer = null;
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer !== null) { stop(); return; }
    if (Number(slider.value) >= epochs.length - 1) slider.value = 0;
    button.textContent = "Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1; show();
      if (Number(slider.value) >= epochs.length - 1) stop();
    }, 150);
  });
  slider.addEventListener("input", () => { stop(); show(); });
  choice.addEventListener("change", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  player.hidden = false;
  slider.value = slider.max;  // the last epoch is the result; Play starts from the first
  show();
}

// Open all sections for printing.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
