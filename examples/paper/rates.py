"""Which learning rate each network of the paper's studies takes, by the rule of protocol.md.

    python examples/paper/rates.py runs/paper
    python examples/paper/rates.py runs/paper --second > examples/paper/rates_second.yaml

reads the reports of `rates` and, where they are there, of `rates_second...` and `rates_more...`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

#: What puts the two games on one scale while rates are picked: what a dense network gained from
#: scratch in `earlier`, rounded.
PROVISIONAL = {"SpaceInvaders": 9.0, "Breakout": 3.0}
#: The standard deviations from which margins were taken before these runs: of gain, of CRL's area,
#: and of area in both regimes together, which contrast 2 needs.
EARLIER = {"gain": 0.28, "area": 0.15, "both": 0.31}


def rows_of(root: Path, measure: str = "area") -> pd.DataFrame:
    """Read what each network reached at each rate, a row for each order, task and seed.

    `gained` is what an area is above the random policy.
    """
    parts = []
    for report in sorted(root.glob("rates*/report")):
        rows = pd.read_csv(report / "measures.csv")
        random = json.loads((report.parent / "random.json").read_text())
        levels = {game: float(np.mean(returns)) for game, returns in random["returns"].items()}
        parts.append(rows.assign(gained=rows["value"] - rows["task"].map(levels)))
    every = pd.concat(parts)
    every = every[every["measure"] == measure]
    names = every["architecture"].str.rsplit("-", n=1, expand=True)
    return every.assign(network=names[0], rate=names[1].astype(float))


def levels(rows: pd.DataFrame) -> pd.Series:
    """Give the mean over games, orders and seeds of what was gained while training, by rate."""
    return (rows["gained"] / rows["task"].map(PROVISIONAL)).groupby(rows["rate"]).mean()


def two_best(rows: pd.DataFrame) -> list[float]:
    """Give the two rates with the highest levels, which run with the second seed."""
    return sorted(levels(rows).nlargest(2).index)


def picked(rows: pd.DataFrame) -> float:
    """Give the rate with the highest level among those that have the most seeds."""
    counts = rows["rate"].value_counts()
    return float(levels(rows)[counts.index[counts == counts.max()]].idxmax())


def verdict(rows: pd.DataFrame) -> str:
    """Say which rate is picked, or what has to run before one is."""
    counts = rows["rate"].value_counts()
    if counts.nunique() == 1:
        return "second seed for " + ", ".join(f"{rate:g}" for rate in two_best(rows))
    best = picked(rows)
    if best in (min(counts.index), max(counts.index)):
        return f"{best:g} is an end of the grid: go on"
    return f"{best:g}"


def second(found: pd.DataFrame, first: str) -> str:
    """Write the study of the two best rates of each network on a second seed.

    :param found: what the first came to
    :param first: the text of `rates.yaml`
    """
    networks = found.groupby("network", sort=False)
    best = {f"{name}-{rate:g}" for name, rows in networks for rate in two_best(rows)}
    head = [
        "# The two rates of each network that did best in rates.yaml, on a second seed.",
        "#   sb3-moe study run examples/paper/rates_second.yaml --out runs/paper/rates_second",
    ]
    body = [line for line in first.splitlines() if not line.startswith("#")]
    kept = [line for line in body if line[0] != " " or line.strip().split(":")[0] in best]
    text = "\n".join([*head, *kept]) + "\n"
    return text.replace("name: paper-rates", "name: paper-rates-second").replace("[100]", "[101]")


def units(dense: pd.DataFrame) -> dict[str, float]:
    """Give what the dense network gained from scratch at its rate, by game."""
    rows = dense[dense["rate"] == picked(dense)]
    first = rows[rows["order"].str.split().str[0] == rows["task"]]
    return first.groupby("task")["gained"].mean()[list(PROVISIONAL)].to_dict()


def spread(root: Path, measure: str, unit: dict[str, float]) -> tuple[float, int]:
    """Give the pooled standard deviation of a composite over both seeds, and of how many pairs.

    :param measure: `gain` or `area`, averaged over orders and then, in units, over games
    """
    rows = rows_of(root, measure)
    shares = rows.assign(value=rows["value"] / rows["task"].map(unit))
    pairs = shares.groupby(["architecture", "seed"])["value"].mean().unstack("seed").dropna()
    return math.sqrt(pairs.var(axis=1, ddof=1).mean()), len(pairs)


def margins(gain: float, area: float) -> dict[str, float]:
    """Give the margins of contrasts 1 to 4 from the two standard deviations, by the amendment."""
    both = EARLIER["both"] * area / EARLIER["area"]
    wanted = {"1": 1.02 * gain, "2": 1.02 * both, "3": 1.02 * area, "4": 1.6 * area}
    return {contrast: math.ceil(20 * margin) / 20 for contrast, margin in wanted.items()}


def main() -> None:
    """Print rates and units as Markdown, or the study of the second seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path, help="folder with the studies")
    parser.add_argument("--second", action="store_true", help="print rates_second.yaml")
    arguments = parser.parse_args()
    found = rows_of(arguments.root)
    if arguments.second:
        print(second(found, Path(__file__).with_name("rates.yaml").read_text()), end="")
        return
    every = sorted(set(found["rate"]))
    print(f"| network | {' | '.join(f'{rate:g}' for rate in every)} | picked |")
    print("|---" * (len(every) + 2) + "|")
    for network, rows in found.groupby("network", sort=False):
        reached = levels(rows)
        shown = (f"{reached[rate]:.2f}" if rate in reached else "" for rate in every)
        print(f"| {network} | {' | '.join(shown)} | {verdict(rows)} |")
    unit = units(found[found["network"] == "dense"])
    for game, gained in unit.items():
        print(f"- unit of {game}: {gained:.2f}")
    (gain, pairs), (area, _) = (spread(arguments.root, name, unit) for name in ("gain", "area"))
    print(f"- standard deviations over {pairs} pairs of seeds: gain {gain:.2f}, area {area:.2f}")
    for contrast, margin in margins(gain, area).items():
        print(f"- margin of {contrast}: {margin:.2f}")


if __name__ == "__main__":
    main()
