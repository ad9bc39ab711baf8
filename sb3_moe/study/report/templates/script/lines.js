// Charts of what changes while training goes on: means, bands from the least to the greatest seed,
// or each seed by itself, with the values under the pointer, or at the step that arrow keys chose.
const HEIGHT = 248;
let plots = [];

// Lay the curves of the chosen networks and seeds over all steps that any of them has.
function aligned(panel, chosen) {
  const curves = panel.curves.filter(([k, seed]) => chosen.networks.has(k) && chosen.seeds.has(seed));
  const steps = [...new Set(curves.flatMap((curve) => panel.steps[curve[2]]))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const groups = new Map();
  for (const [network, seed, own, values] of curves) {
    const row = new Array(steps.length).fill(null);
    values.forEach((value, i) => { row[place.get(panel.steps[own][i])] = value; });
    if (!groups.has(network)) groups.set(network, []);
    groups.get(network).push({ seed, row });
  }
  return { steps, groups };
}

// Least, mean and greatest, where all seeds have a value.
function summarised(rows, length) {
  const least = [], middle = [], greatest = [];
  for (let i = 0; i < length; i++) {
    const values = rows.map(({ row }) => row[i]);
    const whole = values.every((value) => value !== null);
    least.push(whole ? Math.min(...values) : null);
    middle.push(whole ? mean(values) : null);
    greatest.push(whole ? Math.max(...values) : null);
  }
  return { least, middle, greatest };
}

function seriesOf({ steps, groups }, perSeed) {
  const rows = [steps], series = [{}], bands = [];
  const add = (row, looks) => { rows.push(row); series.push({ spanGaps: true, points: { show: false }, ...looks }); };
  for (const [network, members] of groups) {
    const stroke = colourOf(network), dash = data.networks[network].dashes.map((length) => length * 1.6);
    const all = summarised(members, steps.length);
    if (members.length > 1 && !perSeed) {
      add(all.greatest, { stroke: "transparent" });
      add(all.least, { stroke: "transparent" });
      bands.push({ series: [series.length - 2, series.length - 1], fill: `${stroke}26` });
    }
    if (perSeed) for (const { row } of members) add(row, { stroke: `${stroke}b0`, dash, width: 1 });
    if (!perSeed || members.length > 1) add(all.middle, { stroke, dash, width: 2 });
  }
  return { rows, series, bands };
}

// Least and greatest of all panels of a task, so that they can be compared.
function extent(panels, chosen, perSeed) {
  let low = Infinity, high = -Infinity;
  for (const panel of panels) {
    const { rows } = seriesOf(aligned(panel, chosen), perSeed);
    for (const row of rows.slice(1)) for (const value of row) {
      if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    }
    if (panel.level) { low = Math.min(low, panel.level[1]); high = Math.max(high, panel.level[1]); }
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low < room ? Math.min(low, 0) : low - room, high + room];
}

function shade(plot, panel) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.fillStyle = variable("--block");
  for (const [start, end] of panel.blocks) {
    const left = plot.valToPos(start, "x", true);
    ctx.fillRect(left, bbox.top, plot.valToPos(end, "x", true) - left, bbox.height);
  }
  ctx.restore();
}

function level(plot, panel) {
  if (!panel.level) return;
  const { ctx, bbox } = plot, y = plot.valToPos(panel.level[1], "y", true);
  ctx.save();
  ctx.strokeStyle = variable("--muted");
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

// Say every network's value at a step; with each seed's where these are drawn.
function readout(panel, { steps, groups }, index, perSeed) {
  const lines = [element("p", {}, `${steps[index].toLocaleString("en-US")} steps`)];
  for (const [network, members] of groups) {
    const present = members.filter(({ row }) => row[index] !== null);
    if (!present.length) continue;
    const values = present.map(({ row }) => row[index]);
    const each = present.map(({ seed, row }) => `${seed}: ${number(row[index])}`).join(", ");
    const range = `[${number(Math.min(...values))}, ${number(Math.max(...values))}]`;
    const more = values.length < 2 ? "" : perSeed ? ` (seeds ${each})` : ` ${range}`;
    const words = [` ${data.networks[network].name} `, element("b", {}, number(mean(values))), more];
    lines.push(element("p", {}, swatch(network), ...words));
  }
  if (panel.level) lines.push(element("p", {}, `${panel.level[0]} `, element("b", {}, number(panel.level[1]))));
  return lines;
}

function axes(perStep) {
  const stroke = variable("--text"), lines = { stroke: variable("--line"), width: 1 };
  const font = "12px system-ui, sans-serif";
  return [
    {
      stroke, font, grid: lines, ticks: lines, space: 64, values: (_, steps) => steps.map(short),
      label: "environment steps", labelFont: font, labelSize: 18,
    },
    {
      stroke, font, grid: lines, ticks: lines, values: (_, values) => values.map((value) => perStep(value)),
      size: (_, values) => 18 + 7 * Math.max(1, ...(values ?? []).map((value) => value.length)),
    },
  ];
}

function drawn(panel, chosen, range, perSeed) {
  const name = heading(panel);
  const box = element("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `Chart: ${name}. Arrow keys read its values.` });
  const tip = element("div", { class: "tip", role: "status" });
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, panel.task || panel.setting), box, tip);
  const laid = aligned(panel, chosen), { rows, series, bands } = seriesOf(laid, perSeed);
  const show = (plot) => {
    const { idx, left } = plot.cursor;
    const visible = idx !== null && idx !== undefined && left >= 0;
    tip.hidden = !visible;
    if (!visible) return;
    tip.replaceChildren(...readout(panel, laid, idx, perSeed));
    const middle = plot.over.offsetLeft + plot.over.clientWidth / 2;
    tip.classList.toggle("left", plot.over.offsetLeft + left > middle);
  };
  const decimals = (value) => String(Number(value.toPrecision(6)));
  const make = () => new uPlot({
    width: Math.max(box.clientWidth, 120), height: HEIGHT, series, bands, axes: axes(decimals),
    scales: { x: { time: false }, y: { range: () => range } },
    legend: { show: false }, padding: [8, 26, 0, 0],
    cursor: { drag: { x: false, y: false }, y: false, points: { show: false } },
    hooks: { drawClear: [(plot) => shade(plot, panel)], draw: [(plot) => level(plot, panel)], setCursor: [show] },
  }, rows, box);
  tip.hidden = true;
  return { figure, box, make, laid, plot: null };
}

function steer(entry, event) {
  const count = entry.laid.steps.length, { plot } = entry;
  const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (event.key === "Escape") plot.setCursor({ left: -10, top: -10 });
  if (move === undefined || !count) return;
  event.preventDefault();
  const now = plot.cursor.left >= 0 ? plot.cursor.idx ?? 0 : move > 0 ? -1 : count;
  const next = Math.min(count - 1, Math.max(0, now + move));
  plot.setCursor({ left: plot.valToPos(entry.laid.steps[next], "x"), top: 0 });
}

function drawLines(measure, chosen, into) {
  const ranges = new Map();
  for (const panel of measure.panels) {
    const alike = measure.panels.filter((other) => other.task === panel.task);
    if (!ranges.has(panel.task)) ranges.set(panel.task, extent(alike, chosen, chosen.perSeed));
  }
  plots = measure.panels.map((panel) => drawn(panel, chosen, ranges.get(panel.task), chosen.perSeed));
  place(measure.panels, plots.map(({ figure }) => figure), into);
  for (const entry of plots) {
    entry.plot = entry.make();
    entry.box.addEventListener("keydown", (event) => steer(entry, event));
    entry.box.addEventListener("blur", () => entry.plot.setCursor({ left: -10, top: -10 }));
  }
}

function fit() {
  for (const { plot, box } of plots) {
    const width = Math.max(box.clientWidth, 120);
    if (plot.width !== width) plot.setSize({ width, height: HEIGHT });
  }
}
