"""Folders of runs that never ran: scores with known effects, as a study would have written them."""

from pathlib import Path

import numpy as np

from sb3_moe.saving.files import write_json, write_npz
from sb3_moe.study.config import Architecture, Evaluation, RunConfig, StudyConfig
from sb3_moe.study.folder import survey
from sb3_moe.study.results import Run, planned_blocks, random_of

GAMES = ("SpaceInvaders", "Breakout")
ROLLOUT = 64 * 128


def architecture(name):
    return Architecture(name=name, policy_kwargs={"placement": "none"})


def study(seeds=5, architectures=("dense", "soft-big"), **changes):
    values = {
        "name": "made-up",
        "games": GAMES,
        "architectures": tuple(architecture(name) for name in architectures),
        "orders": "rotations",
        "seeds": tuple(range(seeds)) if isinstance(seeds, int) else seeds,
        "steps_per_task": 10 * ROLLOUT,
        "evaluation": Evaluation(points=10, episodes=4),
    }
    return StudyConfig(**{**values, **changes})


def planned(regime="crl", order=GAMES, name="dense", seed=0, **changes):
    values = {
        "regime": regime,
        "games": GAMES,
        "order": () if regime == "mtrl" else order,
        "architecture": architecture(name),
        "seed": seed,
        "steps_per_task": 10 * ROLLOUT,
    }
    return RunConfig(**{**values, **changes})


def run(config, level=10.0, random=1.0, dormant=0.2):
    """A run whose curves rise from the random level to `level` in each block of the game."""
    steps = np.arange(0, config.total_steps + 1, config.steps_per_task // 10)
    score = np.stack([_curve(config, steps, game, level, random) for game in config.games], axis=1)
    experts = 1 if config.architecture.name == "dense" else 4
    gates = np.full((len(steps), len(config.games), experts), 1 / experts)
    gates[0] = 0  # a router that learns changes its gates
    diagnostics = {"steps": steps, "dormant/pi.0": np.full(len(steps), dormant)}
    if experts > 1:
        diagnostics["gates/pi.big"] = gates
    returns = np.repeat(score[:, :, None], 4, axis=2)
    scores = {"steps": steps, "score": score, "returns": returns, "successes": returns * np.nan}
    return Run(config, scores, diagnostics)


def _curve(config, steps, game, level, random):
    returns = np.full(len(steps), random)
    for start, end in planned_blocks(config, game) if config.order else [(0, config.total_steps)]:
        inside = (steps >= start) & (steps <= end)
        returns[inside] = random + (level - random) * (steps[inside] - start) / (end - start)
        returns[steps > end] = level
    return returns


def write(root: Path, the_study, level, seconds=10.0, random=1.0):
    """Write the folder of a study whose runs are all done.

    :param level: gives the level that a run's curves rise to
    :param random: where they begin
    """
    for job in survey(the_study.runs(), root):
        write_run(job, level(job.run), seconds, random)
    write_json(root / "study.json", {"study": the_study.to_dict(), "command": "sb3-moe <b>"})
    write_random(the_study, root)
    return the_study


def write_random(the_study, root: Path):
    """Write the returns of a policy that plays at random."""
    returns = {game: [0.5, 1.5] * 32 for game in the_study.games}
    write_json(root / "random.json", {"of": random_of(the_study), "returns": returns})


def write_run(job, level, seconds=10.0, random=1.0):
    """Write the folder of a run that is done."""
    made = run(job.run, level, random)
    arguments = {"gamma": 0.9, **job.run.architecture.arguments}
    job.folder.start({"run": job.run.to_dict(), "arguments": arguments})
    write_npz(job.folder.path / "scores.npz", made.scores)
    write_npz(job.folder.path / "diagnostics.npz", made.diagnostics)
    attempt = {"start": job.run.total_steps // 2, "seconds": seconds}
    job.folder.finish({"steps": job.run.total_steps, "last_attempt": attempt})
