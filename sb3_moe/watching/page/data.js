"use strict";
// What the page shows: read once, never changed.
const replay = JSON.parse(document.getElementById("data").textContent);

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found.buffer;
}

// A table of float32 numbers: row by row, `width` a row.
function table(saved) {
  return { width: saved.width, numbers: new Float32Array(bytes(saved.data)) };
}

function row(saved, step) {
  return saved.numbers.subarray(step * saved.width, (step + 1) * saved.width);
}

for (const run of replay.runs) {
  for (const track of run.tracks) {
    for (const name of ["frame", "starts", "actions", "values", "rewards", "returns"]) track[name] = table(track[name]);
    track.preferences = track.preferences.map(table);
    if (track.belief) track.belief = table(track.belief);
    for (const each of track.dormant) each.shares = Array.from(table(each.shares).numbers);
    for (const name of Object.keys(track.gates)) track.gates[name] = table(track.gates[name]);
    let episode = 0, sum = 0;
    track.episodes = [];
    track.sums = [];
    for (let step = 0; step < track.steps; step++) {
      if (track.starts.numbers[step]) { episode++; sum = 0; }
      sum += track.rewards.numbers[step];
      track.episodes.push(episode);
      track.sums.push(sum);
    }
  }
}

// Whether a run goes otherwise than the first, the agent as it is; the first counts as different.
function differs(run, track) {
  if (run === replay.runs[0]) return true;
  const first = replay.runs[0].tracks[run.tracks.indexOf(track)];
  const same = name => first[name].numbers.length === track[name].numbers.length && first[name].numbers.every((number, i) => Object.is(number, track[name].numbers[i]));
  return !(same("actions") && same("rewards"));
}

// Of the largest in size: a gate may be negative.
function largest(numbers) {
  let best = 0;
  for (let i = 1; i < numbers.length; i++) if (Math.abs(numbers[i]) > Math.abs(numbers[best])) best = i;
  return best;
}

// An element with text: names of tasks and the like never become markup.
function make(tag, attributes, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") found.className = value;
    else if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else found.setAttribute(name, value);
  }
  found.append(...children);
  return found;
}

function written(number) {
  if (!Number.isFinite(number)) return String(number);
  if (number && Math.abs(number) < 0.0005) return number.toPrecision(2);
  return Math.abs(number) >= 1000 ? number.toFixed(0) : number.toFixed(3);
}
