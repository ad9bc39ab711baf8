"""Folders of runs that never ran: scores with known effects, as a study would have written them."""

from pathlib import Path

import numpy as np

from sb3_moe.saving.files import atomic
from sb3_moe.study.report.measures import Run, planned_blocks
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation
from sb3_moe.study.spec.grid import StudyConfig

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


def cell(regime="crl", order=GAMES, name="dense", seed=0, **changes):
    values = {
        "regime": regime,
        "games": GAMES,
        "order": () if regime == "mtrl" else order,
        "architecture": architecture(name),
        "seed": seed,
        "steps_per_task": 10 * ROLLOUT,
    }
    return CellConfig(**{**values, **changes})


def run(cell, level=10.0, random=1.0, dormant=0.2):
    """A run whose curves rise from the random level to `level` in each block of the game."""
    steps = np.arange(0, cell.total_steps + 1, cell.steps_per_task // 10)
    score = np.stack([_curve(cell, steps, game, level, random) for game in cell.games], axis=1)
    experts = 1 if cell.architecture.name == "dense" else 4
    gates = np.full((len(steps), len(cell.games), experts), 1 / experts)
    gates[0] = 0  # a router that learns changes its gates
    diagnostics = {"steps": steps, "dormant/pi.0": np.full(len(steps), dormant)}
    if experts > 1:
        diagnostics["gates/pi.big"] = gates
    returns = np.repeat(score[:, :, None], 4, axis=2)
    return Run(cell, {"steps": steps, "score": score, "returns": returns}, diagnostics)


def _curve(cell, steps, game, level, random):
    returns = np.full(len(steps), random)
    for start, end in planned_blocks(cell, game) if cell.order else [(0, cell.total_steps)]:
        inside = (steps >= start) & (steps <= end)
        returns[inside] = random + (level - random) * (steps[inside] - start) / (end - start)
        returns[steps > end] = level
    return returns


def write(root: Path, the_study, level, seconds=10.0, random=1.0):
    """Write the folder of a study whose cells are all done.

    :param level: gives the level that a cell's curves rise to
    :param random: where they begin
    """
    for job in survey(the_study.cells(), root):
        made = run(job.cell, level(job.cell), random)
        config = {"cell": job.cell.to_dict(), "rollout": job.cell.rollout}
        arguments = {"gamma": 0.9, **job.cell.architecture.arguments}
        job.folder.start({**config, "arguments": arguments})
        write_arrays(job.folder, "scores.npz", made.scores)
        write_arrays(job.folder, "diagnostics.npz", made.diagnostics)
        attempt = {"start": 0, "seconds": seconds}
        job.folder.finish({"steps": job.cell.total_steps, "last_attempt": attempt})


def write_arrays(folder: CellFolder, name, arrays):
    with atomic(folder.path / name) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
