"use strict";
// Okabe and Ito's colors, which all readers can tell apart; hatching tells experts beyond them.
const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999"];
const pictures = new Map();

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function picture(index, whenThere) {
  let found = pictures.get(index);
  if (!found) {
    found = new Image();
    found.src = "data:image/" + replay.frames[index];
    pictures.set(index, found);
    // Old ones are decoded again when they are wanted again.
    if (pictures.size > 600) pictures.delete(pictures.keys().next().value);
  }
  if (found.complete && found.naturalWidth) whenThere(found);
  else found.addEventListener("load", () => whenThere(found), { once: true });
}

// A canvas in the screen's own pixels.
function sharp(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.max(Math.round(canvas.clientWidth * scale), 1);
  const height = Math.max(Math.round(canvas.clientHeight * scale), 1);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return pen;
}

function hatching(pen, expert) {
  const kind = (expert + Math.floor(expert / COLORS.length)) % 4;
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const fine = tile.getContext("2d");
  fine.fillStyle = COLORS[expert % COLORS.length];
  fine.fillRect(0, 0, 8, 8);
  fine.strokeStyle = "rgba(0, 0, 0, .55)";
  fine.beginPath();
  if (kind === 1) { fine.moveTo(0, 8); fine.lineTo(8, 0); }
  if (kind === 2) { fine.moveTo(4, 0); fine.lineTo(4, 8); }
  if (kind === 3) { fine.moveTo(0, 4); fine.lineTo(8, 4); fine.moveTo(4, 0); fine.lineTo(4, 8); }
  fine.stroke();
  return pen.createPattern(tile, "repeat");
}

function swatch(expert) {
  const canvas = make("canvas", { class: "swatch", width: 24, height: 16, "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.fillStyle = hatching(pen, expert);
  pen.fillRect(0, 0, 24, 16);
  return canvas;
}

// Which of a count leads in each step, an expert or a task, with its number where there is room.
function drawStrip(canvas, leading, count, steps, all) {
  const pen = sharp(canvas), height = canvas.clientHeight, unit = canvas.clientWidth / all;
  const patterns = Array.from({ length: count }, (_, expert) => hatching(pen, expert));
  pen.font = "600 13px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  let from = 0;
  for (let step = 1; step <= steps; step++) {
    const expert = leading(from);
    if (step < steps && leading(step) === expert) continue;
    pen.fillStyle = patterns[expert];
    pen.fillRect(from * unit, 0, (step - from) * unit + .5, height);
    if ((step - from) * unit > 22) {
      const middle = (from + step) / 2 * unit;
      pen.fillStyle = "#ffffff";
      pen.fillRect(middle - 9, height / 2 - 9, 18, 18);
      pen.fillStyle = "#000000";
      pen.fillText(String(expert), middle, height / 2 + 1);
    }
    from = step;
  }
}

function drawNow(canvas, step, all) {
  const pen = canvas.getContext("2d"), x = (step + .5) * canvas.clientWidth / all;
  pen.fillStyle = ink("--paper");
  pen.fillRect(x - 3, 0, 6, canvas.clientHeight);
  pen.fillStyle = ink("--mark");
  pen.fillRect(x - 1, 0, 2, canvas.clientHeight);
}

// Values as lines of different dashes, rewards as bars, up or down from one line of zero.
function drawCurve(canvas, track, all) {
  const pen = sharp(canvas), width = canvas.clientWidth, height = canvas.clientHeight;
  const unit = width / all, values = track.values.numbers, rewards = track.rewards.numbers;
  const below = Math.min(least(values), least(rewards)) < 0, above = Math.max(most(values), most(rewards)) > 0;
  const zero = below && above ? height / 2 : below ? 6 : height - 6;
  const room = below && above ? height / 2 - 6 : height - 12;
  const tallest = Math.max(most(values.map(Math.abs)), 0) || 1, strongest = Math.max(most(rewards.map(Math.abs)), 0) || 1;
  const scale = y => zero - room * y / tallest;
  pen.fillStyle = ink("--faint"); // no expert's color
  for (let step = 0; step < track.steps; step++) {
    const reward = rewards[step], tall = Math.abs(reward) / strongest * room * .5;
    if (!reward || !Number.isFinite(reward)) continue;
    pen.fillRect(step * unit, reward > 0 ? zero - tall : zero, Math.max(unit, 1.5), tall);
  }
  pen.fillRect(0, zero - .5, width, 1);
  pen.lineWidth = 1.5;
  for (let critic = 0; critic < track.values.width; critic++) {
    pen.strokeStyle = ink("--accent");
    pen.setLineDash(critic ? [2 + 3 * critic, 3] : []);
    pen.beginPath();
    for (let step = 0; step < track.steps; step++) pen.lineTo((step + .5) * unit, scale(row(track.values, step)[critic]));
    pen.stroke();
  }
  pen.setLineDash([3, 3]);
  pen.strokeStyle = ink("--faint");
  for (let step = 1; step < track.steps; step++) {
    if (!track.starts.numbers[step]) continue;
    pen.beginPath();
    pen.moveTo(step * unit, 0);
    pen.lineTo(step * unit, height);
    pen.stroke();
  }
  pen.setLineDash([]);
}

// Of those that are numbers.
function least(numbers) { return numbers.reduce((a, b) => Number.isFinite(b) ? Math.min(a, b) : a, Infinity); }
function most(numbers) { return numbers.reduce((a, b) => Number.isFinite(b) ? Math.max(a, b) : a, -Infinity); }
