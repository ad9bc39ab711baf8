"""The tables and the figure of `compare.py`'s results, with Student's and Welch's 95% intervals.

python examples/hidden/report.py examples/hidden/long.csv --figure examples/hidden/long.png
python examples/hidden/report.py examples/hidden/in_turn_long.csv --figure in_turn_long.png
python examples/hidden/report.py examples/hidden/goals.csv
python examples/hidden/report.py examples/hidden/development.csv --rates
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

# Color and marker of each network, in the order of the table.
LOOKS = {
    "predict-8": ("#0072B2", "o"),
    "predict-16": ("#009E73", "s"),
    "predict-8-both": ("#332288", ">"),
    "predict-8-hidden": ("#661100", "<"),
    "predict-grow": ("#882255", "h"),
    "dense-belief-8": ("#D55E00", "D"),
    "dense-belief-16": ("#A6761D", "X"),
    "dense-belief-128": ("#D55E00", "D"),
    "dense-history": ("#CC79A7", "^"),
    "dense-history-wide": ("#CC79A7", "^"),
    "dense-history-128": ("#CC79A7", "^"),
    "dense-predicting": ("#44AA99", "d"),
    "lstm": ("#AA4499", "p"),
    "soft": ("#56B4E9", "v"),
    "uniform": ("#E69F00", "P"),
    "oracle": ("#000000", "*"),
    "dense-frame": ("#777777", "<"),
}
# The panel whose horizontal axis is processor time of training, from each network's own speed.
TIMED = "The same runs against processor time"
PANELS = {
    "interleaved": {
        "Against the belief as an input, and the oracle": ("predict", "dense-belief", "oracle"),
        "Against networks without a belief": ("predict", "soft", "uniform", "dense-h", "dense-f"),
    },
    "long": {
        "Against the belief as an input, and the oracle": (
            "predict-8",
            "predict-16",
            "dense-belief",
            "oracle",
        ),
        "Against networks without a belief": (
            "predict-16",
            "soft",
            "uniform",
            "dense-h",
            "dense-p",
            "dense-f",
        ),
        TIMED: ("predict-16", "dense-belief", "dense-history-wide", "uniform", "oracle"),
    },
    "goals": {"Only rewards tell the tasks apart": ("",)},
    "physics": {"Transitions tell the tasks apart": ("",)},
    "in_turn": {
        "Experts by prediction, and the oracle": ("predict", "oracle"),
        "Against the other networks": ("predict-16", "predict-grow", "dense", "uniform"),
    },
}
OURS = {
    "interleaved": ("predict-8", "predict-16"),
    "long": ("predict-8", "predict-16"),
    "in_turn": ("predict-16", "predict-grow", "predict-8"),
    "goals": ("predict-8",),
    "physics": ("predict-8",),
}
TASKS = [f"task_{k}" for k in range(8)]


def load(path: Path) -> pd.DataFrame:
    """Read a table of results, with the mean over tasks of each evaluation."""
    results = pd.read_csv(path)
    results["mean"] = results.filter(like="task_").mean(axis=1)
    return results


def interval(values: np.ndarray, digits: int = 0) -> str:
    """Return a mean with its 95% t interval."""
    mean, half = values.mean(), half_width(values)
    if np.isnan(half):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({mean - half:.{digits}f} to {mean + half:.{digits}f})"


def half_width(values: np.ndarray) -> float:
    """Return half of the width of a 95% t interval; NaN for a single value."""
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def areas_and_ends(results: pd.DataFrame) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return each network's mean over evaluations (the area) and last evaluation, by seed."""
    runs = results.groupby(["network", "seed"], sort=True)["mean"]
    names = [name for name in LOOKS if name in set(results["network"])]
    areas, ends = runs.mean(), runs.last()
    return {n: areas[n].to_numpy() for n in names}, {n: ends[n].to_numpy() for n in names}


def print_levels(results: pd.DataFrame) -> None:
    """Print what each network reached."""
    areas, ends = areas_and_ends(results)
    print("| network | parameters | rate | seeds | area | end | information | apart | steps/s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, area in areas.items():
        runs = results[results["network"] == name].groupby("seed").first()
        told = runs["information"].dropna().to_numpy()
        information = f"{told.mean():.2f}" if len(told) else ""
        alone = f"{runs['told_apart'].mean():.1f}" if len(told) else ""
        print(
            f"| `{name}` | {runs['parameters'].iloc[0]:,} | {runs['rate'].iloc[0]:g} "
            f"| {len(area)} | {interval(area)} | {interval(ends[name])} | {information} "
            f"| {alone} | {runs['steps_per_second'].median():,.0f} |"
        )


def print_differences(results: pd.DataFrame, experiment: str) -> None:
    """Print by how much networks with gates by prediction exceed each other network."""
    areas, ends = areas_and_ends(results)
    print("\n| difference | seeds | area | p | end | p |\n|---|---|---|---|---|---|")
    told = set()
    for ours in OURS[experiment]:
        for name in areas:
            enough = min(len(areas[name]), len(areas.get(ours, ()))) > 1
            if name == ours or not enough or {ours, name} in told:
                continue
            told.add(frozenset({ours, name}))
            seeds = f"{len(areas[ours])}, {len(areas[name])}"
            cells = [welch(values[ours], values[name]) for values in (areas, ends)]
            said = " | ".join(f"{difference} | {p:.2g}" for difference, p in cells)
            print(f"| `{ours}` - `{name}` | {seeds} | {said} |")


def print_rounds(results: pd.DataFrame) -> None:
    """Print each network's return after the first round of tasks, and what each round forgot."""
    print("\n| network | after the first visits | forgotten in them | in the second | new tasks |")
    print("|---|---|---|---|---|")
    for name in [name for name in LOOKS if name in set(results["network"])]:
        firsts, lost, noticed = [], ([], []), []
        for _, run in results[results["network"] == name].groupby("seed"):
            if len(run) < 2 * len(TASKS):
                continue
            firsts.append(run["mean"].iloc[len(TASKS) - 1])
            rounds = run[TASKS].to_numpy().reshape(2, len(TASKS), len(TASKS))
            for each, returns in zip(lost, rounds, strict=True):
                each.append((returns.diagonal() - returns[-1]).mean())
            noticed.append(run["new_tasks"].iloc[0])
        cells = [interval(np.array(each)) for each in (firsts, *lost)]
        new = "" if np.isnan(noticed).any() else ", ".join(f"{each:.0f}" for each in noticed)
        print(f"| `{name}` | {' | '.join(cells)} | {new} |")


def welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, float]:
    """Return a difference of means with Welch's 95% interval, and the p value of no difference."""
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval()
    return f"{ours.mean() - theirs.mean():.0f} ({low:.0f} to {high:.0f})", float(test.pvalue)


def print_rates(results: pd.DataFrame) -> None:
    """Print the mean of the last two evaluations at each rate, and the best rate."""
    last = results[results["steps"].isin(np.unique(results["steps"])[-2:])]
    means = last.groupby(["network", "rate"])["mean"].mean()
    seeds = last.groupby(["network", "rate"])["seed"].nunique()
    for name in LOOKS:
        if name in means.index.get_level_values(0):
            cells = [f"{r:g}: {m:.0f} ({seeds[name, r]} seeds)" for r, m in means[name].items()]
            print(f"| `{name}` | {', '.join(cells)} | {means[name].idxmax():g} |")


def draw(results: pd.DataFrame, experiment: str) -> Figure:
    """Draw the mean return against steps, in bands of 95% t intervals."""
    panels = PANELS[experiment]
    figure = Figure(figsize=(5.5 * len(panels), 4.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, shown) in zip(axes, panels.items(), strict=True):
        for name, (color, marker) in LOOKS.items():
            own = results[(results["network"] == name) & name.startswith(shown)]
            if len(own):
                by_step = own.groupby("steps")["mean"]
                half = by_step.apply(lambda values: half_width(values.to_numpy())).fillna(0.0)
                per_unit = own["steps_per_second"].median() if title == TIMED else 1000
                mean, x = by_step.mean(), by_step.mean().index / per_unit
                label = f"{name} ({own['seed'].nunique()} seeds)"
                ax.plot(x, mean, color=color, marker=marker, label=label)
                ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.15, lw=0)
        unit = "seconds of one core" if title == TIMED else "environment steps (thousands)"
        ax.set(title=title, xlabel=unit)
        ax.set(xlim=(0, None))
        if experiment not in ("goals", "physics"):
            ax.set(ylim=(0, 500))
        if experiment == "in_turn":
            ax.axvline(results["steps"].max() / 2000, color="gray", ls=":")
        ax.legend(loc="best", fontsize=8, ncols=2)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("return per episode, mean over all tasks")
    return figure


def main() -> None:
    """Print the tables, and draw the figure if it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--rates", action="store_true", help="of development runs")
    parser.add_argument("--figure", type=Path, help="where to draw the curves")
    args = parser.parse_args()
    results = load(args.table)
    if args.rates:
        print_rates(results)
        return
    for experiment, own in results.groupby("experiment", sort=False):
        print(f"\n{experiment}\n")
        print_levels(own)
        print_differences(own, experiment)
        if experiment == "in_turn":
            print_rounds(own)
        if args.figure:
            draw(own, experiment).savefig(args.figure, dpi=120)


if __name__ == "__main__":
    main()
