"""Does plasticity fade? The last blocks of a study's runs against the first, as Markdown.

    python examples/plasticity/fading.py runs/plasticity/permuted_breakout

This reads the `progress-*.csv` of each run. The return of a block is the mean over the last 100
training episodes, one rollout before the end of the block, as protocol.md says.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sb3_moe.saving.files import read_json
from sb3_moe.study.judging import t_interval

Array = NDArray[np.float64]
RETURN, STEPS = "rollout/ep_rew_mean", "time/total_timesteps"
# Blocks averaged at each end, and the smallest loss that counts, as a share of the first return.
ENDS, LEAST = 2, 0.1
REFERENCE = "dense"


def ends_of_blocks(run: Path) -> Array | None:
    """Give the return before the end of each block of a run; None if the run is not complete.

    The last rollout of a block doesn't count: the switch cuts every environment's episode short, in
    all blocks but the last.
    """
    config = read_json(run / "config.json")["run"]
    length, blocks = int(config["steps_per_task"]), len(config["games"])
    rows: dict[int, float] = {}
    for path in sorted(run.glob("progress-*.csv")):
        logged = pd.read_csv(path).dropna(subset=[RETURN, STEPS])
        rows |= dict(zip(logged[STEPS].astype(int), logged[RETURN], strict=True))
    if max(rows, default=0) < blocks * length:
        return None
    ends = [max(step for step in rows if step < (k + 1) * length) for k in range(blocks)]
    return np.array([rows[step] for step in ends])


def by_network(study: Path) -> dict[str, dict[int, Array]]:
    """Give every complete run's returns, by network and seed."""
    found: dict[str, dict[int, Array]] = defaultdict(dict)
    for path in sorted(study.glob("runs/*/config.json")):
        run = read_json(path)["run"]
        ends = ends_of_blocks(path.parent)
        if ends is not None:
            found[run["architecture"]["name"]][int(run["seed"])] = ends
    return found


def change(ends: Array) -> float:
    """Give the mean return of the last blocks less that of the first."""
    return float(ends[-ends_at(ends) :].mean() - ends[: ends_at(ends)].mean())


def ends_at(ends: Array) -> int:
    """Give how many blocks are averaged at each end."""
    return min(ENDS, len(ends) // 2)


def interval(values: Array) -> str:
    """Write a mean with Student's 95% interval over seeds."""
    low, high = t_interval(values) if len(values) > 1 else (float("nan"),) * 2
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def table(found: dict[str, dict[int, Array]]) -> Iterator[str]:
    """Write a table of each network's returns by block, and their change."""
    blocks = max(len(ends) for seeds in found.values() for ends in seeds.values())
    yield f"| network | seeds | {' | '.join(f'block {k + 1}' for k in range(blocks))} | change |"
    yield "|---" * (blocks + 3) + "|"
    for network, seeds in found.items():
        every = np.stack(list(seeds.values()))
        means = " | ".join(f"{mean:.1f}" for mean in every.mean(0))
        yield f"| {network} | {len(seeds)} | {means} | {interval(np.array(changes(seeds)))} |"


def changes(seeds: dict[int, Array]) -> list[float]:
    """Give every seed's change."""
    return [change(ends) for ends in seeds.values()]


def against_reference(found: dict[str, dict[int, Array]]) -> Iterator[str]:
    """Write each network's change and last blocks less those of the reference."""
    dense = found.get(REFERENCE, {})
    for network, seeds in found.items():
        both = sorted(set(seeds) & set(dense))
        if network == REFERENCE or len(both) < 2:
            continue
        less = np.array([change(seeds[seed]) - change(dense[seed]) for seed in both])
        last = np.array([seeds[seed][-ENDS:].mean() - dense[seed][-ENDS:].mean() for seed in both])
        yield f"| {network} - {REFERENCE} | {interval(less)} | {interval(last)} |"


def verdict(found: dict[str, dict[int, Array]]) -> str:
    """Say whether the reference's plasticity fades, by the rule of the protocol."""
    seeds = found.get(REFERENCE, {})
    if len(seeds) < 2:
        return "undecided: there are no two whole runs of the dense network"
    first = float(np.mean([ends[: ends_at(ends)].mean() for ends in seeds.values()]))
    values = np.array(changes(seeds))
    if values.mean() <= -LEAST * abs(first) and t_interval(values)[1] < 0:
        return "plasticity fades: the dense network learns later orders worse"
    return "untestable here: the dense network does not lose a tenth or more on later orders"


def main() -> None:
    """Print the tables and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="the study's folder")
    found = by_network(parser.parse_args().study)
    if not found:
        parser.error("`study` must hold a run that went through all of its blocks, got none")
    print(*table(found), "", sep="\n")
    print("| networks | change, difference | last blocks, difference |", "|---|---|---|", sep="\n")
    print(*against_reference(found), "", verdict(found), sep="\n")


if __name__ == "__main__":
    main()
