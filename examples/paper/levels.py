"""What networks gained and learned, in units of what a dense one gains from scratch, as Markdown.

    python examples/paper/levels.py examples/paper/tier1

reads a report's `measures.csv`. A number is the mean over seeds of composites, each a mean over
both games, with Student's 95% interval; the contrasts in claims.yaml are differences of these.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sb3_moe.study.claims import load_claims
from sb3_moe.study.report.judging import t_interval
from sb3_moe.study.report.page import interval
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
    rows = pd.read_csv(report / "measures.csv").rename(columns={"game": "task"})
    rows = rows[(rows["regime"] == regime) & (rows["measure"] == measure)]
    rows = rows.assign(value=rows["value"] / rows["task"].map(UNITS))
    orders = rows.groupby(["architecture", "seed", "task"], sort=False)["value"].mean()
    tasks = orders.unstack("task").reindex(columns=list(UNITS)).mean(axis=1, skipna=False).dropna()
    return {str(name): each.to_numpy() for name, each in tasks.groupby("architecture", sort=False)}


def said(values: Array) -> str:
    """Say a mean with its interval."""
    return interval(float(np.mean(values)), *t_interval(values))


def table(report: Path) -> str:
    """Tabulate every network's composites."""
    columns = [composites(report, *column) for column in COLUMNS.values()]
    rows = [["network", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
    rows += [[title(name), *(said(each[name]) for each in columns)] for name in columns[0]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


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
