"""Draw the gallery of suites and its table: `python docs/_ext/draw_suites.py`.

Random scores come from the package's own data; those that it lacks are measured here.
"""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PAGE, IMAGES = DOCS / "suites.md", DOCS / "_static" / "suites"
HEIGHT, SHOWN = 96, 5
NAMED = ("MinAtar/All5", "Atari/Five", "Classic/Mixed3", "MuJoCo/Four")  # tasks of several kinds
# Names, the suite that is drawn and measured, what an agent sees and does, the extra.
ROWS = [
    ("MinAtar/MTRL3`, `MinAtar/CRL3`, `MinAtar/All5", "MinAtar/All5",
     "10x10 images of up to 10 planes; 6 actions. `CRL3`: three in turn, a million steps each",
     "minatar"),
    ("Atari/Two`, `Atari/Five`, `Atari/MoE20", "Atari/Five",
     "84x84 gray images, 4 stacked; 18 actions. 2, 5 and 20 games; takes hours", "atari"),
    ("Classic/CartPole4", "Classic/CartPole4", "4 numbers; 2 actions. Changed physics", ""),
    ("Classic/Pendulum4", "Classic/Pendulum4", "3 numbers; a torque. Changed physics", ""),
    ("Classic/Mixed3", "Classic/Mixed3", "up to 6 numbers; up to 3 actions", ""),
    ("Conflict/CartPole1`, `Conflict/CartPole2`, `Conflict/CartPole4`, `Conflict/CartPole8`, "
     "`Conflict/CartPole16", "Conflict/CartPole8",
     "4 numbers; 2 actions. No two tasks have the same best policy: "
     "[where mixtures pay](should_i_use_a_mixture.md)", ""),
    ("Conflict/Breakout2`, `Conflict/Breakout4`, `Conflict/Breakout8", "Conflict/Breakout4",
     "MinAtar's Breakout with permuted planes and exchanged actions", "minatar"),
    ("Plasticity/Breakout10", "Plasticity/Breakout10",
     "ten Breakouts in turn, 131,072 steps each, the pixels in another order", "minatar"),
    ("Physics/CartPole8", "Physics/CartPole8",
     "4 numbers; 2 actions. [Hidden tasks](hidden_tasks.md)", ""),
    ("Physics/Pendulum4", "Physics/Pendulum4",
     "3 numbers; a torque. [Hidden tasks](hidden_tasks.md)", ""),
    ("Goal/CartPole4", "Goal/CartPole4",
     "4 numbers; 2 actions. [Told apart by rewards alone](hidden_tasks.md)", ""),
    ("Goal/Pendulum6", "Goal/Pendulum6",
     "3 numbers; a torque. [Told apart by rewards alone](hidden_tasks.md)", ""),
    ("MuJoCo/Four", "MuJoCo/Four", "up to 105 numbers; up to 8 torques", "mujoco"),
    ("MuJoCo/HopperGravity4", "MuJoCo/HopperGravity4", "11 numbers; 3 torques", "mujoco"),
    ("MuJoCo/HalfCheetahGravity4", "MuJoCo/HalfCheetahGravity4",
     "17 numbers; 6 torques", "mujoco"),
    ("MetaWorld/MT3`, `MetaWorld/CW3`, `MetaWorld/MT3-V1`, `MetaWorld/CW3-V1", None,
     "39 numbers; 4 actions. door-close, reach, faucet-close: at once, or in turn, 200,000 steps "
     "each. Random actions solved none in 20 episodes", "metaworld"),
    ("MetaWorld/MT1-<task>`, `MetaWorld/MT10`, `MetaWorld/MT50`, `MetaWorld/CW10`, "
     "`MetaWorld/MT1-<task>-V1`, `MetaWorld/MT10-V1`, `MetaWorld/MT50-V1`, `MetaWorld/CW10-V1",
     None, "one, ten and fifty tasks; `CW10`: ten in turn, a million steps each", "metaworld"),
    ("MetaWorld/MT1-<task>-EnvPool`, `MetaWorld/MT3-EnvPool`, `MetaWorld/MT10-EnvPool`, "
     "`MetaWorld/MT50-EnvPool`, `MetaWorld/CW3-EnvPool`, `MetaWorld/CW10-EnvPool`, "
     "`MuJoCo/Four-EnvPool", None, "the same tasks in C++", "envpool"),
]  # fmt: skip
NOT_DRAWN = ("MuJoCo", "MetaWorld")  # they need a screen, or EGL


def kept():
    """Return the random policy's mean returns that the package has."""
    data = json.loads((ROOT / "sb3_moe" / "measures" / "returns.json").read_text())
    return {
        suite: {task: row["mean"] for task, row in tasks.items()}
        for suite, tasks in data["random"].items()
    }


def measured(suite):
    """Return the random policy's mean returns, measured now."""
    from benchmarks.returns import measure_random

    return {task: found["mean"] for task, found in measure_random(suite).items()}


def rounded(value):
    """Write a score, with one decimal if it is below 10."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1f}"


def scores(suite):
    """Write the random policy's score: of each task, or from the worst to the best of many."""
    if suite is None:
        return "not measured"
    means = kept().get(suite) or measured(suite)
    if suite not in NAMED:
        low, high = (rounded(each) for each in (min(means.values()), max(means.values())))
        return low if low == high else f"{low} to {high}"
    return ", ".join(f"{task} {rounded(mean)}" for task, mean in means.items())


def draw(suite, file):
    """Draw the first tasks of a suite side by side."""
    import gymnasium as gym
    from PIL import Image

    env = gym.make(f"sb3_moe_envs:SB3MoE/{suite.replace('/', '-')}-v0", render_mode="rgb_array")
    frames = []
    for task in range(min(SHOWN, env.unwrapped.num_tasks)):
        env.reset(seed=0, options={"task_id": task})
        env.action_space.seed(0)
        for _ in range(4):
            *_, ended, cut, _ = env.step(env.action_space.sample())
            if ended or cut:
                env.reset(options={"task_id": task})
        frame = Image.fromarray(np.asarray(env.render()))
        size = (frame.width * HEIGHT // frame.height, HEIGHT)
        frames.append(np.asarray(frame.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    image = Image.fromarray(np.concatenate(frames, axis=1)).quantize(64)
    file.parent.mkdir(exist_ok=True)
    image.save(file, optimize=True)


def row(names, suite, about, extra):
    """Write a row of the table, and draw its image unless the file exists."""
    file = IMAGES / f"{(suite or '').replace('/', '-')}.png"
    image = ""
    if suite and not suite.startswith(NOT_DRAWN):
        if not file.exists():
            draw(suite, file)
        image = f" <br> ![{suite}]({file.relative_to(DOCS)})"
    extra = f"`{extra}`" if extra else ""
    return f"| `{names}`{image} | {about} | {scores(suite)} | {extra} |"


if __name__ == "__main__":
    os.environ |= {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    sys.path.insert(0, str(ROOT))
    lines = ["| suites | what it is | random | extra |", "|---|---|---|---|"]
    lines += [row(*each) for each in ROWS]
    table = "\n".join(lines)
    block = f"<!-- suites -->\n{table}\n<!-- /suites -->"
    text = re.sub(
        r"<!-- suites -->.*<!-- /suites -->", lambda _: block, PAGE.read_text(), flags=re.S
    )
    PAGE.write_text(text)
