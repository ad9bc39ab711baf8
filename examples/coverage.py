"""How often a 95% interval from ten seeds a side contains the true difference of means.

The results of runs are drawn from distributions like those of a study, also of two kinds of runs,
those that learned and those that didn't. Results of one seed are correlated by 0, 0.2 or 0.5.

    python examples/coverage.py conflict
    python examples/coverage.py paper
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats

from sb3_moe.study.judging import Rule, t_interval, welch

SEEDS, REPEATS, COVERAGE = 10, 4000, 0.95
Quantile = Callable[[np.ndarray], np.ndarray]
#: Distributions whose means are added and subtracted in turn: the first is added.
Groups = tuple[Quantile, ...]


def bounded(mean: float, spread: float) -> Quantile:
    """CartPole's returns, between 20 and 500: a beta distribution."""
    place, size = (mean - 20) / 480, (spread / 480) ** 2
    total = place * (1 - place) / size - 1
    beta = stats.beta(place * total, (1 - place) * total, loc=20, scale=480)
    return lambda uniform: np.asarray(beta.ppf(uniform))


def normal(mean: float, spread: float) -> Quantile:
    """Means over several games: a normal distribution."""
    return lambda uniform: np.asarray(stats.norm.ppf(uniform, mean, spread))


def two_kinds(low: float, high: float, share: float, spread: float = 15) -> Quantile:
    """Returns of runs of which a share learned nothing: two normal distributions."""

    def quantile(uniform: np.ndarray) -> np.ndarray:
        failed = uniform < share
        within = np.where(failed, uniform / share, (uniform - share) / (1 - share))
        return np.where(failed, low, high) + spread * stats.norm.ppf(within)

    return quantile


# "paper" has areas on MinAtar as in `examples/paper/earlier`, in units of what a dense network
# gains from scratch.
WORLDS: dict[str, dict[str, Groups]] = {
    "conflict": {
        "alike: 300 and 300, 40 wide": (bounded(300, 40), bounded(300, 40)),
        "unlike: 400, 20 wide, and 180, 50 wide": (bounded(400, 20), bounded(180, 50)),
        "at the ceiling: 480, 15 wide, and 250, 60 wide": (bounded(480, 15), bounded(250, 60)),
        "two kinds: 3 in 10 fail": (two_kinds(150, 350, 0.3), bounded(200, 40)),
    },
    "paper": {
        "alike: 1.3 and 1.3, .18 wide": (normal(1.3, 0.18), normal(1.3, 0.18)),
        "unlike: 1.8, .40 wide, and 1.3, .07 wide": (normal(1.8, 0.4), normal(1.3, 0.07)),
        "a difference of differences": (
            normal(1.2, 0.19),
            normal(1.3, 0.11),
            normal(1.8, 0.38),
            normal(1.3, 0.07),
        ),
        "two kinds: 1 in 10 collapses": (two_kinds(0.4, 1.3, 0.1, 0.18), normal(1.3, 0.18)),
        "two kinds: 3 in 10 collapse": (two_kinds(0.4, 1.3, 0.3, 0.18), normal(1.3, 0.18)),
    },
}


def covered(groups: Groups, correlation: float) -> dict[str, float]:
    """Give the share of repeats in which each kind of interval contains the true difference."""
    rng = np.random.default_rng(0)
    even = (np.arange(200_000) + 0.5) / 200_000
    signs = np.resize([1.0, -1.0], len(groups))
    truth = float(signs @ [group(even).mean() for group in groups])
    shared = rng.normal(size=(REPEATS, SEEDS, 1))
    own = rng.normal(size=(REPEATS, SEEDS, len(groups)))
    uniform = stats.norm.cdf(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
    values = np.stack([group(uniform[..., k]) for k, group in enumerate(groups)], axis=-1)
    resamples = np.random.default_rng(0).integers(0, SEEDS, (999, SEEDS))
    held = {"Welch": 0, "paired t": 0, "bootstrap": 0}
    for runs in values:
        estimate = welch(runs, signs, Rule(interval=COVERAGE, paired=False))
        low, high = t_interval(runs @ signs, COVERAGE)
        drawn = (runs @ signs)[resamples].mean(axis=1)
        least, most = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        held["Welch"] += estimate.low <= truth <= estimate.high
        held["paired t"] += low <= truth <= high
        held["bootstrap"] += least <= truth <= most
    return {kind: count / REPEATS for kind, count in held.items()}


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", choices=WORLDS)
    worlds = WORLDS[parser.parse_args().study]
    print("| composites | correlation of seeds | Welch | paired t | bootstrap |")
    print("|---|---|---|---|---|")
    for name, groups in worlds.items():
        for correlation in (0.0, 0.2, 0.5):
            shares = covered(groups, correlation)
            row = " | ".join(f"{share:.1%}" for share in shares.values())
            print(f"| {name} | {correlation} | {row} |")


if __name__ == "__main__":
    main()
