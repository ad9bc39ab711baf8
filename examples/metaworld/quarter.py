"""What networks reach on MetaWorld/MT3 in a quarter of the study's steps, as protocol.md says.

    python examples/metaworld/quarter.py runs/metaworld/mt3 runs/metaworld/mt3_simba ...

Each folder is a study's; the rows are means over the seeds that are done, and the least and the
greatest seed.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sb3_moe.saving.files import read_json

STEPS = 150_750
Array = npt.NDArray[np.float64]


def quarter(cell: Path) -> tuple[Array, Array]:
    """Return success after the quarter, and its area until then, of each task of a run."""
    with np.load(cell / "scores.npz", allow_pickle=False) as scores:
        steps, success = scores["steps"].astype(float), scores["successes"].mean(-1)
    within = steps <= STEPS
    assert steps[within][-1] == STEPS, steps
    return success[within][-1], np.trapezoid(success[within], steps[within], axis=0) / STEPS


def with_range(values: Array, digits: int) -> str:
    """Write a mean over seeds with the least and the greatest."""
    return f"{values.mean():.2f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def row(name: str, seeds: Array, digits: int) -> str:
    """Write (seeds, tasks) as a row of a table, the mean over tasks last."""
    tasks = [with_range(task, digits) for task in seeds.T]
    return "| " + " | ".join([name, *tasks, with_range(seeds.mean(1), 2)]) + " |"


def main() -> None:
    """Print two rows for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="+", type=Path)
    runs: defaultdict[str, list[tuple[Array, Array]]] = defaultdict(list)
    for folder in parser.parse_args().folder:
        for done in sorted(folder.glob("cells/*/done.json")):
            cell = read_json(done.with_name("config.json"))["cell"]
            runs[cell["architecture"]["name"]].append(quarter(done.parent))
    for name, seeds in runs.items():
        ends, areas = (np.array(values) for values in zip(*seeds, strict=True))
        print(row(f"`{name}`, {len(seeds)} seeds, after the quarter", ends, 1))
        print(row(f"`{name}`, area under success", areas, 2))


if __name__ == "__main__":
    main()
