"use strict";
const at = id => document.getElementById(id);
let task = 0, step = 0, playing = false, cards = [], steps = 1, due = 0;

function seek(wanted) {
  step = Math.max(0, Math.min(wanted, steps - 1));
  for (const card of cards) card.show(step);
  at("scrub").value = step;
  at("where").textContent = `step ${step + 1} of ${steps}`;
  at("scrub").setAttribute("aria-valuetext", `step ${step + 1} of ${steps}`);
  if (!playing) at("status").textContent = cards.map(card => card.box.firstChild.textContent + ": " + card.facts.textContent).join(". ");
}

function play(wanted) {
  playing = wanted;
  if (playing && step >= steps - 1) seek(0);
  at("play").textContent = playing ? "Pause" : "Play";
  due = performance.now();
  if (playing) requestAnimationFrame(tick);
  else seek(step);
}

function tick(now) {
  if (!playing) return;
  const each = 1000 / Number(at("speed").value);
  if (now >= due + each) {
    const passed = Math.floor((now - due) / each);
    due += passed * each;
    seek(step + passed);
    if (step >= steps - 1) return play(false);
  }
  requestAnimationFrame(tick);
}

function showTask(wanted) {
  const count = replay.runs[0].tracks.length;
  task = (wanted + count) % count;
  [...at("tabs").children].forEach((tab, i) => {
    tab.setAttribute("aria-selected", String(i === task));
    tab.tabIndex = i === task ? 0 : -1;
  });
  reveal(at("tabs"), at("tabs").children[task]);
  at("panel").setAttribute("aria-labelledby", "tab-" + task);
  const tracks = replay.runs.map(run => run.tracks[task]);
  steps = Math.max(...tracks.map(track => track.steps));
  at("scrub").max = steps - 1;
  cards = replay.runs.map((run, i) => new Card(run, tracks[i], steps, wanted => { play(false); seek(wanted); }));
  at("runs").replaceChildren(...cards.map(card => card.box));
  play(false);
  for (const card of cards) card.redraw(0);
  seek(0);
  showStrongest();
  showDormant();
}

// Sideways alone, with room for an outline: scrollIntoView would move the page too.
function reveal(line, each) {
  const left = each.offsetLeft - line.offsetLeft - 5, right = left + each.offsetWidth + 10;
  line.scrollLeft = Math.max(right - line.clientWidth, Math.min(line.scrollLeft, left));
}

function showStrongest() {
  at("strongest").hidden = !replay.mixtures.length;
  if (!replay.mixtures.length) return;
  const names = replay.mixtures.map(mixture => make("option", {}, mixture.name));
  const choice = make("select", { id: "mixture", onchange: () => listStrongest(choice.selectedIndex) }, ...names);
  at("strongest-mixture").replaceChildren(make("label", { for: "mixture" }, "Mixture "), choice);
  listStrongest(0);
}

// The steps in which an expert counted most, no two of them neighbors; a gate may be negative.
function strongest(track, mixture, expert) {
  const size = step => Math.abs(row(track.gates[mixture], step)[expert]), found = [];
  const apart = Math.max(Math.floor(track.steps / 50), 1);
  for (const step of [...Array(track.steps).keys()].sort((a, b) => size(b) - size(a))) {
    if (found.length === 4 || !(size(step) >= .005)) break;  // below, it would be written as 0.00
    if (found.every(other => Math.abs(step - other) > apart)) found.push(step);
  }
  return found;
}

function listStrongest(index) {
  const mixture = replay.mixtures[index], track = replay.runs[0].tracks[task];
  const experts = Array.from({ length: mixture.num_experts }, (_, expert) => {
    const buttons = strongest(track, mixture.name, expert).map(moment => {
      const gate = row(track.gates[mixture.name], moment)[expert];
      const button = make("button", { type: "button", onclick: () => { play(false); seek(moment); } });
      const frame = track.frame.numbers[moment];
      if (frame >= 0) {
        const small = track.size[0] < 240 ? "small" : "";
        button.append(make("img", { src: "data:image/" + replay.frames[frame], alt: "", class: small }));
      }
      button.append(make("span", {}, `step ${moment + 1}: ${gate.toFixed(2)}`));
      return button;
    });
    const title = make("h3", {}, swatch(expert), `Expert ${expert}`);
    const list = buttons.length ? make("div", { class: "moments" }, ...buttons) : make("p", {}, "never counted");
    return make("div", {}, title, list);
  });
  at("strongest-list").replaceChildren(...experts);
}

function rows(table, head, lines) {
  table.replaceChildren(
    make("thead", {}, make("tr", {}, ...head.map(text => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...lines.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map(text => make("td", {}, text))))));
}

function showDormant() {
  const percent = share => Number.isFinite(share) ? (100 * share).toFixed(0) + "%" : String(share);
  const lines = [];
  for (const run of replay.runs) for (const { layer, shares, reached } of run.tracks[task].dormant) {
    const own = (share, expert) => reached[reached.length > 1 ? expert : 0] ? percent(share) : "no rows";
    lines.push([layer, run.label, shares.length > 2 ? percent(shares[0]) : own(shares[0], 0), shares.length > 2 ? shares.slice(1).map(own).join(", ") : "one network"]);
  }
  at("dormant").hidden = !lines.length;
  rows(at("dormant-table"), ["Layer", "Played by", "Dormant", "Within each expert"], lines);
}

function showImportance() {
  const found = replay.importance;
  at("importance").hidden = !found;
  if (!found) return;
  at("importance-note").textContent = `Mean return of each task with one expert of ${found.network} off ± its standard deviation over ${found.episodes} episodes.`;
  rows(at("importance-table"), ["Agent", ...found.tasks], found.rows.map((name, i) => [name, ...found.cells[i]]));
}

const KEYS = {
  " ": () => play(!playing), ArrowLeft: () => seek(step - 1), ArrowRight: () => seek(step + 1),
  PageUp: () => seek(step - 10), PageDown: () => seek(step + 10), Home: () => seek(0), End: () => seek(steps - 1),
  "+": () => faster(1), "-": () => faster(-1), t: () => showTask(task + 1), T: () => showTask(task + 1),
};

function faster(by) {
  const speed = at("speed");
  speed.selectedIndex = Math.max(0, Math.min(speed.selectedIndex + by, speed.options.length - 1));
}

document.addEventListener("keydown", event => {
  const kind = event.target.tagName, isTab = event.target.getAttribute("role") === "tab";
  if (event.ctrlKey || event.metaKey || event.altKey || kind === "SELECT") return;
  // A button is pressed by Space itself, tabs take the arrows, and what scrolls keeps its own keys.
  if (event.key === " " && (kind === "BUTTON" || kind === "SUMMARY")) return;
  if (isTab && event.key.startsWith("Arrow")) {
    showTask(task + (event.key === "ArrowRight" ? 1 : -1));
    at("tabs").children[task].focus();
    event.preventDefault();
  } else if (KEYS[event.key] && !event.target.classList.contains("scroll")) {
    KEYS[event.key]();
    event.preventDefault();
  }
});

at("play").addEventListener("click", () => play(!playing));
at("back").addEventListener("click", () => { play(false); seek(step - 1); });
at("next").addEventListener("click", () => { play(false); seek(step + 1); });
at("scrub").addEventListener("input", () => {
  const wanted = Number(at("scrub").value);
  play(false);
  seek(wanted);
});
at("lead").textContent = replay.mixtures.length ? replay.mixtures.map(each => `${each.name}: ${each.num_experts} experts, ${each.router} router`).join("; ") + "." : "A dense policy: no mixture of experts.";
replay.runs[0].tracks.forEach((track, i) => {
  at("tabs").append(make("button", { type: "button", role: "tab", id: "tab-" + i, "aria-controls": "panel", onclick: () => showTask(i) }, track.task));
});
showImportance();
// A task on which an expert that is off is missed, if there is one.
showTask(Math.max(replay.runs[0].tracks.findIndex((_, i) => replay.runs.slice(1).some(run => differs(run, run.tracks[i]))), 0));
let width = 0;
new ResizeObserver(() => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  for (const card of cards) card.redraw(step);
}).observe(document.body);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => cards.forEach(card => card.redraw(step)));
