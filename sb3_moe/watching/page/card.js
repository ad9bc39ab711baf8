"use strict";
// One run of one task: the frame, what the agent thinks, and the episode below.
class Card {
  constructor(run, track, all, seek) {
    this.track = track;
    this.all = all;
    this.off = run.off;
    const size = track.size || [1, 1];
    this.frame = make("canvas", { class: "frame" + (size[0] < 240 ? " small" : ""), width: size[0], height: size[1], role: "img", "aria-label": "What the agent sees" });
    this.frame.hidden = !track.size;
    this.facts = make("p", { class: "facts" });
    this.returns = make("p", { class: "faint" }, returnsOf(track));
    const left = make("div", {}, this.frame, this.facts, this.returns);
    if (!track.size || (replay.noFrames && track.frame.numbers[track.steps - 1] < 0)) left.prepend(make("p", { class: "noframes" }, `No ${track.size ? "more " : ""}pictures: ${replay.noFrames || "there are none"}.`));
    const right = make("div");
    this.preferences = track.preferences.map((each, i) => this.bars(right, preferenceTitle(i, track), each.width, action => actionName(action, track)));
    this.gates = {};
    for (const mixture of replay.mixtures) {
      const title = `Gates of ${mixture.name} (${mixture.router})`;
      this.gates[mixture.name] = this.bars(right, title, mixture.num_experts, expert => "expert " + expert, mixture.name);
      if (!sumToOne(track.gates[mixture.name], track.steps)) right.append(make("p", { class: "faint" }, "Under this router gates need not sum to 1; bars of negative ones are pale."));
    }
    this.belief = track.belief ? this.bars(right, "Belief: which model explains the episode", track.belief.width, expert => "model " + expert) : [];
    this.box = make("article", { class: "run" }, make("h2", {}, run.label));
    if (!differs(run, track)) this.box.append(make("p", { class: "same" }, "No difference on this task: every action and reward is that of the agent as it is."));
    this.box.append(make("div", { class: "seen" }, left, right));
    this.lines = [];
    for (const mixture of replay.mixtures) {
      this.box.append(make("h3", {}, `Leading expert of ${mixture.name}`));
      const gates = track.gates[mixture.name];
      this.line("strip", stripInWords(track, mixture), seek, canvas => drawStrip(canvas, step => largest(row(gates, step)), gates.width, track.steps, all));
    }
    this.box.append(make("h3", {}, "Value and reward"));
    this.line("curve", "Values as lines, rewards as bars, over the steps", seek, canvas => drawCurve(canvas, track, all));
    this.box.append(make("p", { class: "faint" }, rangesOf(track)));
  }

  bars(parent, title, count, nameOf, mixture) {
    const box = make("div", { class: "bars" }), found = [];
    for (let i = 0; i < count; i++) {
      const name = make("span", {}, nameOf(i));
      if (mixture !== undefined) name.prepend(swatch(i));
      if (mixture !== undefined && (this.off[mixture] || []).includes(i)) name.append(" (off)");
      const fill = make("span"), number = make("span", { class: "number" });
      if (mixture !== undefined) fill.style.background = COLORS[i % COLORS.length];
      box.append(name, make("span", { class: "bar", "aria-hidden": "true" }, fill), number);
      found.push({ name, fill, number });
    }
    parent.append(make("h3", {}, title), box);
    if (mixture !== undefined) box.dataset.mixture = mixture;
    return found;
  }

  line(kind, label, seek, draw) {
    const canvas = make("canvas", { class: "line " + kind, role: "img", "aria-label": label });
    canvas.addEventListener("pointerdown", event => {
      const box = canvas.getBoundingClientRect();
      seek(Math.floor((event.clientX - box.left) / box.width * this.all));
    });
    this.box.append(canvas);
    this.lines.push({ canvas, draw, kept: document.createElement("canvas") });
  }

  // Once for each size; a step only moves the mark.
  redraw(step) {
    for (const each of this.lines) {
      each.draw(each.canvas);
      each.kept.width = each.canvas.width;
      each.kept.height = each.canvas.height;
      each.kept.getContext("2d").drawImage(each.canvas, 0, 0);
    }
    this.mark(step);
  }

  mark(step) {
    for (const { canvas, kept } of this.lines) {
      const pen = canvas.getContext("2d");
      pen.save();
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      if (kept.width) pen.drawImage(kept, 0, 0);
      pen.restore();
      drawNow(canvas, Math.min(step, this.track.steps - 1), this.all);
    }
  }

  show(step) {
    const track = this.track, ended = step >= track.steps, at = Math.min(step, track.steps - 1);
    this.at = at;
    const frame = track.frame.numbers[at];
    if (frame >= 0) picture(frame, image => { if (this.at === at) this.paint(image); });
    else this.clear();
    if (at + 1 < track.steps && track.frame.numbers[at + 1] >= 0) picture(track.frame.numbers[at + 1], () => {});
    const action = row(track.actions, at);
    track.preferences.forEach((each, i) => replay.kind === "mean" ? fillAroundZero(this.preferences[i], row(each, at), each.numbers) : fill(this.preferences[i], row(each, at), replay.kind === "probability" ? 1 : 0, action[Math.min(i, action.length - 1)]));
    for (const [name, bars] of Object.entries(this.gates)) fill(bars, row(track.gates[name], at), 1, -1);
    if (track.belief) fill(this.belief, row(track.belief, at), 1, -1);
    const values = Array.from(row(track.values, at), (value, i) => `${replay.critics[i]} ${written(value)}`);
    const reward = track.rewards.numbers[at];
    this.facts.replaceChildren(
      `Episode ${track.episodes[at]}${ended ? " (ended)" : ""}, action `, fact("action", Array.from(action, number => Number.isInteger(number) ? number : written(number)).join(", "), ""), actionInWords(action, track),
      ", reward ", fact("reward", written(reward), reward), ", return so far ", fact("return", written(track.sums[at]), track.sums[at]), "; value ", fact("value", values.join(", "), row(track.values, at)[0]));
    this.mark(step);
  }

  clear() {
    this.frame.getContext("2d").clearRect(0, 0, this.frame.width, this.frame.height);
  }

  paint(image) {
    const pen = this.frame.getContext("2d");
    pen.imageSmoothingEnabled = false;
    this.clear();
    const scale = Math.min(this.frame.width / image.naturalWidth, this.frame.height / image.naturalHeight);
    const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
    pen.drawImage(image, (this.frame.width - width) / 2, (this.frame.height - height) / 2, width, height);
  }
}

function fact(name, text, value) {
  return make("span", { "data-fact": name, "data-value": String(value) }, text);
}

// Bars of sizes from 0 to `high`, or over their own range where there is none.
function fill(bars, numbers, high, chosen) {
  const low = high ? 0 : Math.min(least(numbers), 0), top = high || Math.max(most(numbers), 0);
  bars.forEach((bar, i) => {
    const share = high ? Math.min(Math.abs(numbers[i]) / high, 1) : top > low ? (numbers[i] - low) / (top - low) : 0;
    bar.fill.style.width = 100 * (Number.isFinite(share) ? share : 0) + "%";
    bar.number.textContent = written(numbers[i]);
    bar.fill.style.opacity = high && numbers[i] < 0 ? .4 : 1;
    bar.number.dataset.value = String(numbers[i]);
    bar.name.className = i === chosen ? "chosen" : "";
  });
}

// Parts of an action, left or right of zero, as shares of what the action space allows.
function fillAroundZero(bars, numbers, all) {
  const largest = Math.max(most(all.map(Math.abs)), 0) || 1;
  bars.forEach((bar, i) => {
    const share = Math.min(Math.abs(numbers[i]) / (replay.bounds[i] || largest), 1);
    const width = 50 * (Number.isFinite(share) ? share : 0);
    bar.fill.parentNode.classList.add("signed");
    bar.fill.style.width = width + "%";
    bar.fill.style.marginLeft = (numbers[i] < 0 ? 50 - width : 50) + "%";
    bar.number.textContent = written(numbers[i]);
    bar.number.dataset.value = String(numbers[i]);
  });
}

function sumToOne(gates, steps) {
  for (let step = 0; step < steps; step++) if (Math.abs(row(gates, step).reduce((a, b) => a + b, 0) - 1) > .01) return false;
  return true;
}

// A task may call its choices by names; those that it lacks have none.
function actionName(action, track) {
  const name = track.preferences.length === 1 && track.names[action];
  return name ? `${action} ${name}` : `action ${action}`;
}

function actionInWords(action, track) {
  const name = action.length === 1 && track.names[action[0]];
  return name ? ` (${name})` : "";
}

function preferenceTitle(i, track) {
  const several = track.preferences.length > 1 ? ` of choice ${i}` : "";
  return { probability: "Probability of each action", value: "Value of each action (Q)", mean: "Mean of each part of the action" }[replay.kind] + several;
}

function returnsOf(track) {
  const returns = Array.from(track.returns.numbers, written);
  return returns.length ? `Returns: ${returns.join(", ")}.` : "No episode ended within these steps.";
}

function rangesOf(track) {
  const numbers = track.values.numbers, rewards = track.rewards.numbers;
  return `Lines: values (${replay.critics.join(", ")}) ${span(numbers)}. Bars: rewards ${span(rewards)}. Thin line: zero of both, each in its own scale. Dashed: a new episode.`;
}

function span(numbers) {
  return least(numbers) > most(numbers) ? "that are no numbers" : `from ${written(least(numbers))} to ${written(most(numbers))}`;
}

function stripInWords(track, mixture) {
  const led = new Array(mixture.num_experts).fill(0);
  for (let step = 0; step < track.steps; step++) led[largest(row(track.gates[mixture.name], step))]++;
  const words = led.map((count, expert) => `expert ${expert} leads in ${count} of ${track.steps} steps`);
  return `${mixture.name}: ${words.join(", ")}`;
}
