"""What networks gained and learned, in units of what a dense one gains from scratch, as Markdown.

    python examples/paper/levels.py examples/paper/tier1

reads a report's `measures.csv`. A number is the mean over seeds of composites, each a mean over
both games, with Student's 95% interval; the contrasts in claims.yaml are differences of these.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sb3_moe.study.report.claims import load_claims
from sb3_moe.study.report.headline import markdown
from sb3_moe.study.report.page import interval
from sb3_moe.study.report.tables import read_csv
from sb3_moe.study.report.verdict import t_interval
from sb3_moe.study.spec.architectures import title

Array = NDArray[np.float64]
UNITS = load_claims(Path(__file__).with_name("claims.yaml")).units
COLUMNS = {
    "gain on the second game": ("crl", "gain"),
    "area, one after the other": ("crl", "area"),
    "area, interleaved": ("mtrl", "area"),
}
# The mixture without the penalty: where it loses no plasticity, there is nothing to mend.
FADES = "top2-big"


def composites(report: Path, regime: str, measure: str) -> dict[str, Array]:
    """Give each network's composites, one a seed, (seeds,)."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for row in read_csv(report / "measures.csv"):
        if (row["regime"], row["measure"]) == (regime, measure):
            games = found[row["architecture"]][row["seed"]]
            games.setdefault(row["game"], []).append(float(row["value"]) / UNITS[row["game"]])
    return {
        network: np.array(
            [
                np.mean([np.mean(orders) for orders in games.values()])
                for games in seeds.values()
                if set(games) == set(UNITS)
            ]
        )
        for network, seeds in found.items()
    }


def said(values: Array) -> str:
    """Say a mean with its interval."""
    return interval(float(np.mean(values)), *t_interval(values))


def table(report: Path) -> str:
    """Tabulate every network's composites."""
    columns = [composites(report, *column) for column in COLUMNS.values()]
    return markdown(
        ["network", *COLUMNS],
        [[title(name), *(said(each[name]) for each in columns)] for name in columns[0]],
    )


def remedy(report: Path) -> str:
    """Say whether the penalty can be judged as a remedy, by the protocol."""
    gains = composites(report, "crl", "gain")[FADES]
    fades = t_interval(gains)[1] < 0
    found = "plasticity fades" if fades else "the penalty as a remedy is untestable here"
    return f"{title(FADES)} gains {said(gains)} from what it learned before: {found}"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", type=Path, help="folder of the report")
    report = parser.parse_args().report
    print(table(report), remedy(report), sep="\n\n")


if __name__ == "__main__":
    main()
