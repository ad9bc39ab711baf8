"""What the development runs settle, by the rules of protocol.md, as Markdown.

    python examples/conflict/development.py runs/conflict

reads the reports of the `rates...`, `images_rates`, `routing` and the two `spread_...` in
that folder, as far as they are there.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

# Standard deviations that ten seeds a side can tell from nothing.
SHARE, LEAST = 1.02, 10
# The grid of rates, and where it goes on.
RATES = ("rates", "rates_task", "rates_more")
PRIMARY = (
    ("interleaved", "task-big", "dense"),
    ("interleaved", "task-big", "dense-wide"),
    ("interleaved", "top1-big", "dense"),
    ("sequence", "task-big", "dense-wide"),
)
# By network and seed.
Composites = dict[str, dict[int, float]]


def composites(root: Path, *studies: str, measure: str = "final") -> Composites:
    """Give the mean over tasks of every network and seed, from the studies that are there."""
    paths = [root / study / "report" / "measures.csv" for study in studies]
    by_network: Composites = defaultdict(dict)
    for rows in (pd.read_csv(path) for path in paths if path.exists()):
        tasks = rows[rows["measure"] == measure].groupby(["architecture", "seed"], sort=False)
        for (network, seed), mean in tasks["value"].mean().items():
            by_network[network][seed] = mean
    return by_network


def by_rate(found: Composites) -> dict[str, dict[float, dict[int, float]]]:
    """Put networks named `<network>-<rate>` together."""
    rates: dict[str, dict[float, dict[int, float]]] = defaultdict(dict)
    for name, seeds in found.items():
        network, _, rate = name.rpartition("-")
        rates[network][float(rate)] = seeds
    return rates


def picked(rates: dict[float, dict[int, float]]) -> float:
    """Give the rate with the highest mean over seeds."""
    return max(rates, key=lambda rate: float(np.mean(list(rates[rate].values()))))


def rates_table(found: Composites) -> Iterator[str]:
    """Say each network's return at each rate, and which rate it takes."""
    for network, rates in by_rate(found).items():
        best = picked(rates)
        at_end = " (an end of the grid: go on)" if best in (min(rates), max(rates)) else ""
        means = ", ".join(
            f"{rate:g}: {np.mean(list(seeds.values())):.1f} ({len(seeds)} seeds)"
            for rate, seeds in sorted(rates.items())
        )
        yield f"| {network} | {means} | {best:g}{at_end} |"


def development(root: Path) -> dict[str, Composites]:
    """Give the development composites of the primary networks, at their rates."""
    spread = composites(root, "spread_interleaved")
    interleaved: Composites = {network: dict(seeds) for network, seeds in spread.items()}
    for network, rates in by_rate(composites(root, *RATES)).items():
        interleaved.setdefault(network, {}).update(rates[picked(rates)])
    return {"interleaved": interleaved, "sequence": composites(root, "spread_sequence")}


def margins(root: Path) -> Iterator[str]:
    """Say each primary contrast's margin, and how far its seeds go together."""
    found = development(root)
    for regime, plus, minus in PRIMARY:
        first, second = (found[regime].get(name, {}) for name in (plus, minus))
        seeds = sorted(set(first) & set(second))
        if len(seeds) < 3:
            yield f"| {regime}: {plus} - {minus} | {len(seeds)} seeds: too few | | |"
            continue
        values = np.array([[first[seed], second[seed]] for seed in seeds])
        pooled = float(np.sqrt(values.var(0, ddof=1).mean()))
        margin = max(LEAST, math.ceil(SHARE * pooled))
        correlation = float(np.corrcoef(values.T)[0, 1])
        yield (
            f"| {regime}: {plus} - {minus} | {len(seeds)} seeds, {pooled:.1f} | {margin} | "
            f"{correlation:.2f} |"
        )


def routing_table(found: Composites) -> Iterator[str]:
    """Say what each variant of routing reached, and which two are confirmed."""
    means = {name: float(np.mean(list(seeds.values()))) for name, seeds in found.items()}
    for kind in ("top1", "soft"):
        of_kind = {name: mean for name, mean in means.items() if name.startswith(f"{kind}-")}
        best = max(of_kind, key=of_kind.__getitem__, default=None)
        for name, mean in sorted(of_kind.items(), key=lambda pair: -pair[1]):
            yield f"| {name} | {mean:.1f} | {'confirm' if name == best else ''} |"
    if "task-big" in means:
        yield f"| task-big | {means['task-big']:.1f} | |"


def main() -> None:
    """Print what there is to say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="with a folder for each study")
    root = parser.parse_args().root
    print("| network | return by rate | picked |\n|---|---|---|")
    print("\n".join(rates_table(composites(root, *RATES))))
    print("\n| image network | return by rate | picked |\n|---|---|---|")
    print("\n".join(rates_table(composites(root, "images_rates", measure="area"))))
    print("\n| contrast | spread | margin | correlation |\n|---|---|---|---|")
    print("\n".join(margins(root)))
    print("\n| routing | return | |\n|---|---|---|")
    print("\n".join(routing_table(composites(root, "routing"))))


if __name__ == "__main__":
    main()
