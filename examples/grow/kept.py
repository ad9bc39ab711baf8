"""What upcycling keeps of the first game, and what is left of it after the second, as Markdown.

python examples/grow/kept.py runs/grow/upcycled/report
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sb3_moe.study.report.judging import t_interval

Curves = dict[tuple[str, str], dict[int, list[float]]]
FIRST, SECOND = "Breakout", "SpaceInvaders"


def curves(report: Path) -> Curves:
    """Give the returns of the first game by what was played, network and seed, in order."""
    rows = pd.read_csv(report / "measures.csv")
    rows = rows[(rows["measure"] == "return") & (rows["task"] == FIRST)]
    found: Curves = {}
    for (order, name, seed), each in rows.groupby(["order", "architecture", "seed"], sort=False):
        found.setdefault((order, name), {})[seed] = each["value"].tolist()
    return found


def difference(before: dict[int, float], after: dict[int, float]) -> str:
    """Say the mean difference over the seeds that both have, with its 95% t interval."""
    seeds = sorted(before.keys() & after.keys())
    differences: npt.NDArray[np.float64] = np.array([after[s] - before[s] for s in seeds])
    low, high = t_interval(differences, 0.95)
    return f"{differences.mean():.2f} [{low:.2f}, {high:.2f}], {len(seeds)} seeds"


def at(seeds: dict[int, list[float]], index: int) -> dict[int, float]:
    """Give each seed's return at one of its evaluations."""
    return {seed: returns[index] for seed, returns in seeds.items()}


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    found = curves(parser.parse_args().report)
    trained = at(found[FIRST, "dense"], -1)
    print(f"{FIRST}, dense, at its end: {np.mean(list(trained.values())):.2f}\n")
    print("| network | before its first step, less that | at its end, less that |\n|---|---|---|")
    for (order, name), seeds in found.items():
        if order == SECOND and name != "dense":
            kept, left = (difference(trained, at(seeds, index)) for index in (0, -1))
            print(f"| {name} | {kept} | {left} |")


if __name__ == "__main__":
    main()
