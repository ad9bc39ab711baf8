// What readers choose: a measure, networks, seeds, and whether each seed is drawn by itself.
const chosen = {
  measure: 0,
  networks: new Set(data.networks.map((_, k) => k)),
  seeds: new Set(data.seeds),
  perSeed: false,
};
const measures = [...data.lines, ...data.dots];
const area = element("div");
const note = element("p", { class: "note" });
let seedsAlone;

function draw() {
  const measure = measures[chosen.measure], lines = chosen.measure < data.lines.length;
  seedsAlone.hidden = !lines;
  const words = [];
  if (measure.note) words.push(`Value of ${measure.note}.`);
  if (measure.panels.some((panel) => panel.level)) words.push(`The dotted line: ${measure.panels.find((panel) => panel.level).level[0]}.`);
  if (lines && measure.panels.some((panel) => panel.blocks.length)) words.push("Shading marks when the task was trained.");
  if (lines && chosen.seeds.size > 1) words.push(chosen.perSeed ? "Thin lines are seeds, thick ones their means." : "Lines are means over seeds, bands reach from the least to the greatest.");
  if (lines && data.every > 1) words.push(`Every ${data.every}th evaluation is drawn; the files have all.`);
  note.textContent = words.join(" ");
  (lines ? drawLines : drawDots)(measure, chosen, area);
}

function choiceOfMeasure() {
  const select = element("select", { id: "measure" });
  const group = (label, list, first) => {
    if (!list.length) return;
    const options = list.map((each, k) => element("option", { value: String(first + k) }, each.name));
    select.append(element("optgroup", { label }, ...options));
  };
  group("While training goes on", data.lines, 0);
  group("One value for each run", data.dots, data.lines.length);
  select.value = String(chosen.measure);
  select.addEventListener("change", () => { chosen.measure = Number(select.value); draw(); });
  return element("p", {}, element("label", { for: "measure" }, "Measure "), select);
}

function box(label, checked, change, ...before) {
  const input = element("input", { type: "checkbox" });
  input.checked = checked;
  input.addEventListener("change", () => { change(input.checked); draw(); });
  return element("label", { class: "choice" }, input, ...before, ` ${label}`);
}

function boxes(legend, set, entries) {
  const made = entries.map(([value, label, ...before]) =>
    box(label, set.has(value), (on) => (on ? set.add(value) : set.delete(value)), ...before));
  const all = element("button", { type: "button" }, "all"), none = element("button", { type: "button" }, "none");
  const turn = (on) => () => {
    for (const [value] of entries) on ? set.add(value) : set.delete(value);
    for (const label of made) label.querySelector("input").checked = on;
    draw();
  };
  all.addEventListener("click", turn(true));
  none.addEventListener("click", turn(false));
  const few = entries.length > 3 ? [all, " ", none] : [];
  return element("fieldset", {}, element("legend", {}, legend), ...made, ...few);
}

function build() {
  seedsAlone = box("each seed by itself", chosen.perSeed, (on) => { chosen.perSeed = on; });
  const networks = () => data.networks.map((each, k) => [k, each.name, swatch(k)]);
  const parts = [choiceOfMeasure(), boxes("Networks", chosen.networks, networks())];
  if (data.seeds.length > 1) {
    const seeds = boxes("Seeds", chosen.seeds, data.seeds.map((seed) => [seed, String(seed)]));
    seeds.append(" ", seedsAlone);
    parts.push(seeds);
  }
  const controls = element("form", { class: "controls", "aria-label": "What the charts show" }, ...parts);
  controls.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("charts").replaceChildren(controls, note, area);
}

// Where a table is wider than the page, each row stands by itself.
function fitTables() {
  for (const frame of document.querySelectorAll(".table")) {
    frame.classList.remove("cards");
    frame.classList.toggle("cards", frame.scrollWidth > frame.clientWidth);
  }
}

build();
draw();
fitTables();
new ResizeObserver(() => { fit(); fitTables(); }).observe(document.querySelector("main"));
dark.addEventListener("change", () => { build(); draw(); });
