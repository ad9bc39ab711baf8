// What all parts use: elements, whose text is never read as markup, numbers, and how lines look.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// As the page's tables have them: two or three digits, a dash for none.
function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  const size = Math.abs(value);
  if (size > 0 && size < 0.1) {
    const text = value.toPrecision(2);
    // As Python has it: with an exponent, of two digits, from here on.
    return Math.abs(text) < 1e-4 ? value.toExponential(1).replace(/-(\d)$/, "-0$1") : text;
  }
  if (size >= 1e9) return value.toExponential(2).replace(/\+(\d)$/, "+0$1");
  if (size >= 100) return Math.round(value).toLocaleString("en-US");
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

// As the pictures have them. Rounded first: 999,960 is 1M, not 1000k.
function short(step) {
  const rounded = Number(step.toPrecision(4));
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (rounded >= unit) return `${rounded / unit}${sign}`;
  return String(rounded);
}

const dark = matchMedia("(prefers-color-scheme: dark)");

// Black can't be seen on dark ground.
function colourOf(network) {
  const { colour } = data.networks[network];
  return dark.matches && colour === "#000000" ? "#ffffff" : colour;
}

function variable(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A piece of a network's line.
function swatch(network) {
  const picture = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "line");
  const { dashes } = data.networks[network];
  const looks = {
    x1: 1, x2: 35, y1: 6, y2: 6, stroke: colourOf(network), "stroke-width": 2.5,
    "stroke-dasharray": dashes.map((length) => length * 1.6).join(" "),
  };
  for (const [name, value] of Object.entries(looks)) line.setAttribute(name, value);
  const size = { class: "swatch", viewBox: "0 0 36 12", width: 36, height: 12, "aria-hidden": "true" };
  for (const [name, value] of Object.entries(size)) picture.setAttribute(name, value);
  picture.append(line);
  return picture;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function heading(panel) {
  return [panel.task, panel.setting].filter(Boolean).join(", ");
}

// Put the tasks of each setting side by side, below its name.
function place(panels, figures, into) {
  const grids = new Map();
  panels.forEach((panel, k) => {
    const setting = panel.task ? panel.setting : "";
    if (!grids.has(setting)) grids.set(setting, element("div", { class: "charts" }));
    grids.get(setting).append(figures[k]);
  });
  const parts = [...grids].map(([setting, grid]) => (setting ? [element("h3", {}, `Tasks ${setting}`), grid] : [grid]));
  into.replaceChildren(...parts.flat());
}
