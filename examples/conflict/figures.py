"""Return against the number of tasks, and against FLOPs a row, from the reports' `measures.csv`.

    python examples/conflict/figures.py examples/conflict

draws `against_tasks.png` and `against_flops.png` in that folder, from the reports beside
(`interleaved`, `alone`, `tasks1`, ...), and writes the numbers to `against.csv`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from gymnasium import spaces

from sb3_moe.measures.budget import measure
from sb3_moe.policies.on_policy import MoeMultiInputPolicy
from sb3_moe.study.config import load_study
from sb3_moe.study.judging import t_interval
from sb3_moe.watching.figures import Point, draw_against
from sb3_moe_envs import get_suite

STUDIES = {1: "tasks1", 2: "tasks2", 4: "tasks4", 8: "interleaved", 16: "tasks16"}
# With fewer, an interval would hide everything else.
FEWEST_SEEDS = 3
# A network for each task: with the settings of all, and with as many updates as an expert gets.
SEPARATE = {"alone": "separate", "alone_updates": "separate-updates"}


def composites(report: Path) -> dict[str, np.ndarray]:
    """Give the return at the end, averaged over tasks, of every seed, by network.

    Of runs on one task alone, only that task counts.
    """
    rows = pd.read_csv(report / "measures.csv").rename(columns={"game": "task"})
    alone = (rows["regime"] == "scratch") & (rows["task"] != rows["order"])
    final = rows[(rows["measure"] == "final") & ~alone]
    seeds = final.groupby(["architecture", "seed"], sort=False)["value"].mean()
    return {str(name): each.to_numpy() for name, each in seeds.groupby("architecture", sort=False)}


def flops(study: Path) -> dict[str, int]:
    """Give the FLOPs that each network of a study takes for a row."""
    config = load_study(str(study))
    task = get_suite(str(config.tasks))[0].make()
    seen = {"obs": task.observation_space, "task_id": spaces.Discrete(len(config.games))}
    costs = {}
    for each in config.architectures:
        options: dict[str, Any] = dict(each.policy_kwargs)
        policy = MoeMultiInputPolicy(spaces.Dict(seen), task.action_space, lambda _: 0.0, **options)
        costs[each.name] = measure(policy).total.flops
    return costs


def point(x: float, values: np.ndarray) -> Point:
    """Give a mean with Student's interval over seeds."""
    return Point(x, float(values.mean()), *t_interval(values))


def against_tasks(folder: Path) -> dict[str, list[Point]]:
    """Give every network's returns by the number of tasks."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for count, name in STUDIES.items():
        report = folder / name
        if (report / "measures.csv").exists():
            for network, values in composites(report).items():
                if len(values) >= FEWEST_SEEDS:
                    lines[network].append(point(count, values))
    return {network: points for network, points in lines.items() if len(points) > 1}


def against_flops(folder: Path) -> dict[str, list[Point]]:
    """Give every network's return on eight tasks by its FLOPs a row."""
    costs = flops(folder / "interleaved.yaml")
    found = {
        network: [point(costs[network], values)]
        for network, values in composites(folder / "interleaved").items()
    }
    for study, network in SEPARATE.items():
        if (folder / study / "measures.csv").exists():
            found[network] = [point(costs["dense"], composites(folder / study)["dense"])]
    return found


def main() -> None:
    """Draw both, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the studies' files and their reports")
    folder = parser.parse_args().folder
    drawn = {
        "tasks": (against_tasks(folder), "conflicting tasks, each with as many steps"),
        "flops": (against_flops(folder), "FLOPs per observation"),
    }
    # Each network looks the same in both figures.
    networks = [name for points, _ in drawn.values() for name in points]
    rows = []
    for name, (points, xlabel) in drawn.items():
        named = {network.replace("-", " "): each for network, each in points.items()}
        names = [network.replace("-", " ") for network in networks]
        ylabel = "return at the end, mean over tasks"
        doubling = name == "tasks"
        figure = draw_against(named, xlabel, ylabel, doubling=doubling, networks=names)
        figure.savefig(folder / f"against_{name}.png", dpi=150)
        rows += [
            {"against": name, "network": network, **each._asdict()}
            for network, every in points.items()
            for each in every
        ]
    pd.DataFrame(rows).to_csv(folder / "against.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
