"""How often a 95% interval of ten seeds a side holds the true difference of their means.

Each run's composite is drawn as CartPole gives it: between 20 and 500, lopsided, or from two kinds
of run, one that learned and one that didn't; and with seeds that have little or much in common.

    python examples/conflict/coverage.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from sb3_moe.metrics import bootstrap_interval
from sb3_moe.study.report.verdict import t_interval, welch

SEEDS, REPEATS, COVERAGE = 10, 4000, 0.95
SIGNS = np.array([1.0, -1.0])
Quantile = Callable[[np.ndarray], np.ndarray]


def bounded(mean: float, spread: float) -> Quantile:
    """Returns between 20 and 500: a beta distribution."""
    place, size = (mean - 20) / 480, (spread / 480) ** 2
    total = place * (1 - place) / size - 1
    beta = stats.beta(place * total, (1 - place) * total, loc=20, scale=480)
    return lambda uniform: np.asarray(beta.ppf(uniform))


def two_kinds(low: float, high: float, share: float) -> Quantile:
    """Returns of runs of which a share learned nothing: two normal distributions, 15 wide."""

    def quantile(uniform: np.ndarray) -> np.ndarray:
        failed = uniform < share
        within = np.where(failed, uniform / share, (uniform - share) / (1 - share))
        return np.where(failed, low, high) + 15 * stats.norm.ppf(within)

    return quantile


WORLDS: dict[str, tuple[Quantile, Quantile]] = {
    "alike: 300 and 300, 40 wide": (bounded(300, 40), bounded(300, 40)),
    "unlike: 400, 20 wide, and 180, 50 wide": (bounded(400, 20), bounded(180, 50)),
    "at the ceiling: 480, 15 wide, and 250, 60 wide": (bounded(480, 15), bounded(250, 60)),
    "two kinds: 3 in 10 fail": (two_kinds(150, 350, 0.3), bounded(200, 40)),
}


def covered(first: Quantile, second: Quantile, correlation: float) -> dict[str, float]:
    """Give the share of repeats in which each kind of interval holds the true difference."""
    rng = np.random.default_rng(0)
    even = (np.arange(200_000) + 0.5) / 200_000
    truth = float(first(even).mean() - second(even).mean())
    shape = (REPEATS, SEEDS, 2)
    shared = rng.normal(size=(REPEATS, SEEDS, 1))
    normal = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * rng.normal(size=shape)
    uniform = stats.norm.cdf(normal)
    values = np.stack([first(uniform[..., 0]), second(uniform[..., 1])], axis=-1)
    held = {"Welch": 0, "paired t": 0, "bootstrap": 0}
    for runs in values:
        estimate = welch(runs, SIGNS, COVERAGE)
        low, high = t_interval(runs @ SIGNS, COVERAGE)
        ends = bootstrap_interval(runs @ SIGNS, confidence=COVERAGE, resamples=999)
        held["Welch"] += estimate.low <= truth <= estimate.high
        held["paired t"] += low <= truth <= high
        held["bootstrap"] += ends.low <= truth <= ends.high
    return {kind: count / REPEATS for kind, count in held.items()}


def main() -> None:
    """Print a Markdown table."""
    print("| composites | correlation of seeds | Welch | paired t | bootstrap |")
    print("|---|---|---|---|---|")
    for name, quantiles in WORLDS.items():
        for correlation in (0.0, 0.2, 0.5):
            shares = covered(*quantiles, correlation)
            row = " | ".join(f"{share:.1%}" for share in shares.values())
            print(f"| {name} | {correlation} | {row} |")


if __name__ == "__main__":
    main()
