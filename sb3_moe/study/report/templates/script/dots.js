// A dot for each run that has one value: a row for each network, with the mean over seeds.
function drawDots(measure, chosen, into) {
  plots = [];
  place(measure.panels, measure.panels.map((panel) => dotted(panel, chosen)), into);
}

function dotted(panel, chosen) {
  const dots = panel.dots.filter(([network, seed]) => chosen.networks.has(network) && chosen.seeds.has(seed));
  const values = dots.map((dot) => dot[2]);
  const low = Math.min(0, ...values), high = Math.max(0, ...values);
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const rows = element("div", { class: "dots" });
  data.networks.forEach((_, network) => {
    const own = dots.filter((dot) => dot[0] === network);
    if (own.length) rows.append(...row(network, own, at));
  });
  const caption = element("figcaption", {}, panel.task);
  const scale = element("div", { class: "scale", "aria-hidden": "true" }, element("span", {}, number(low)), element("span", {}, number(high)));
  return element("figure", { class: "chart" }, caption, rows, scale);
}

function row(network, own, at) {
  const track = element("div", { class: "track" });
  const zero = element("span", { class: "zero" });
  zero.style.left = at(0);
  track.append(zero);
  for (const [, seed, value] of own) {
    const dot = element("span", { class: "dot", title: `seed ${seed}: ${number(value)}` });
    dot.style.left = at(value);
    dot.style.background = colourOf(network);
    track.append(dot);
  }
  const middle = mean(own.map((dot) => dot[2]));
  const tick = element("span", { class: "mean" });
  tick.style.left = at(middle);
  track.append(tick);
  const seeds = own.map(([, seed, value]) => `seed ${seed}: ${number(value)}`).join(", ");
  const name = element("div", { class: "name" }, swatch(network), ` ${data.networks[network].name} `, element("b", {}, number(middle)));
  const each = element("div", { class: "each" }, own.length > 1 ? seeds : "");
  return [name, track, each];
}
