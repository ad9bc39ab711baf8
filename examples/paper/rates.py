"""Which learning rate each network of the paper's studies takes, by the rule of protocol.md.

    python examples/paper/rates.py runs/paper
    python examples/paper/rates.py runs/paper --second > examples/paper/rates_second.yaml

reads the reports of `rates` and, where they are there, of `rates_second...` and `rates_more...`.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from sb3_moe.study.report.headline import markdown
from sb3_moe.study.report.tables import Text, read_csv

#: What puts the two games on one scale while rates are picked: what a dense network gained from
#: scratch in `earlier`, rounded.
PROVISIONAL = {"SpaceInvaders": 9.0, "Breakout": 3.0}
#: The seeds over which runs differ by chance.
SEEDS = ("100", "101")
#: The standard deviations from which margins were taken before these runs: of gain, of CRL's area,
#: and of area in both regimes together, which contrast 2 needs.
EARLIER = {"gain": 0.28, "area": 0.15, "both": 0.31}
#: By network and rate: its rows, one for each order and game.
Rows = dict[str, dict[float, list[Text]]]


def rows_of(root: Path) -> Rows:
    """Read what each network reached at each rate."""
    found: Rows = defaultdict(lambda: defaultdict(list))
    for path in sorted(root.glob("rates*/report/summary.csv")):
        for row in read_csv(path):
            network, _, rate = row["architecture"].rpartition("-")
            found[network][float(rate)].append(row)
    return found


def level(rows: list[Text]) -> float:
    """Give the mean over games and orders of what was gained while training, above random."""
    levels = [above_random(row) / PROVISIONAL[row["game"]] for row in rows]
    return float(np.average(levels, weights=[int(row["seeds"]) for row in rows]))


def runs(rows: list[Text]) -> int:
    """Count the values over games, orders and seeds."""
    return sum(int(row["seeds"]) for row in rows)


def above_random(row: Text) -> float:
    """Give the mean return while the game was trained, less the random policy's."""
    return float(row["while_trained"]) - float(row["random"])


def two_best(rates: dict[float, list[Text]]) -> list[float]:
    """Give the two rates with the highest levels, which run with the second seed."""
    return sorted(sorted(rates, key=lambda rate: -level(rates[rate]))[:2])


def picked(rates: dict[float, list[Text]]) -> float:
    """Give the rate with the highest level among those that have the most seeds."""
    most = max(map(runs, rates.values()))
    tried = [rate for rate, rows in rates.items() if runs(rows) == most]
    return max(tried, key=lambda rate: level(rates[rate]))


def verdict(rates: dict[float, list[Text]]) -> str:
    """Say which rate is picked, or what has to run before one is."""
    if len({runs(rows) for rows in rates.values()}) == 1:
        return "second seed for " + ", ".join(f"{rate:g}" for rate in two_best(rates))
    best = picked(rates)
    if best in (min(rates), max(rates)):
        return f"{best:g} is an end of the grid: go on"
    return f"{best:g}"


def second(found: Rows, first: str) -> str:
    """Write the study of the two best rates of each network on a second seed.

    :param found: what the first came to
    :param first: the text of `rates.yaml`
    """
    best = {f"{name}-{rate:g}" for name, rates in found.items() for rate in two_best(rates)}
    head = [
        "# The two rates of each network that did best in rates.yaml, on a second seed.",
        "#   sb3-moe study run examples/paper/rates_second.yaml --out runs/paper/rates_second",
    ]
    body = [line for line in first.splitlines() if not line.startswith("#")]
    kept = [line for line in body if line[0] != " " or line.strip().split(":")[0] in best]
    text = "\n".join([*head, *kept]) + "\n"
    return text.replace("name: paper-rates", "name: paper-rates-second").replace("[100]", "[101]")


def units(dense: dict[float, list[Text]]) -> dict[str, float]:
    """Give what the dense network gained from scratch at its rate, by game."""
    rows = dense[picked(dense)]
    first = [row for row in rows if row["order"].split()[0] == row["game"]]
    return {
        game: float(np.mean([above_random(row) for row in first if row["game"] == game]))
        for game in PROVISIONAL
    }


def spread(root: Path, measure: str, unit: dict[str, float]) -> tuple[float, int]:
    """Give the pooled standard deviation of a composite over both seeds, and of how many pairs.

    :param measure: `gain` or `area`, averaged over orders and then, in units, over games
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(root.glob("rates*/report/measures.csv")):
        for row in read_csv(path):
            if row["measure"] == measure:
                share = float(row["value"]) / unit[row["game"]]
                values[row["architecture"]][row["seed"]].append(share)
    twice = [seeds for seeds in values.values() if len(seeds) == len(SEEDS)]
    pairs = [[np.mean(seeds[seed]) for seed in SEEDS] for seeds in twice]
    return math.sqrt(np.mean(np.var(pairs, axis=1, ddof=1))), len(pairs)


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
    every = sorted({rate for rates in found.values() for rate in rates})
    table = [
        [network, *(f"{level(rates[r]):.2f}" if r in rates else "" for r in every), verdict(rates)]
        for network, rates in found.items()
    ]
    print(markdown(["network", *(f"{rate:g}" for rate in every), "picked"], table))
    unit = units(found["dense"])
    for game, gained in unit.items():
        print(f"- unit of {game}: {gained:.2f}")
    (gain, pairs), (area, _) = (spread(arguments.root, name, unit) for name in ("gain", "area"))
    print(f"- standard deviations over {pairs} pairs of seeds: gain {gain:.2f}, area {area:.2f}")
    for contrast, margin in margins(gain, area).items():
        print(f"- margin of {contrast}: {margin:.2f}")


if __name__ == "__main__":
    main()
