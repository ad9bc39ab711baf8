"""A map of conflicts: when do experts pay, by number of conflicting tasks and width of dense?

    python examples/conflict/map.py rates map_rates.csv
    python examples/conflict/map.py runs map.csv --rates map_rates.csv
    python examples/conflict/map.py draw map.csv

Each run is a row of the table; runs that the table has are not trained again. The figure is written
beside the table.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch as th
from matplotlib.figure import Figure
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import make_pinned_env
from sb3_moe.study.judging import t_interval
from sb3_moe.study.preparing import beyond
from sb3_moe.vec_env import evaluate_tasks
from sb3_moe.watching.figures import COLORS, MARKERS, save_figure
from sb3_moe_envs import Task
from sb3_moe_envs.conflicts import conflicting_cartpoles

STEPS_OF_A_TASK, ENVIRONMENTS, EPISODES = 30_720, 64, 10
PPO_SETTINGS = {"n_steps": 32, "batch_size": 512, "n_epochs": 4}
EXPERTS = {"placement": "big", "net_arch": [8, 8]}
NETWORKS: dict[str, dict[str, Any]] = {
    **{f"dense-{n}": {"placement": "none", "net_arch": [n, n]} for n in (8, 32, 128)},
    "soft": {**EXPERTS, "router": "soft", "num_experts": 8},
    "task": {**EXPERTS, "router": "task"},
}
RATES, DEVELOPMENT, SEEDS = (0.001, 0.003, 0.01, 0.03), (100, 101), (0, 1, 2, 3, 4)


class Case(NamedTuple):
    """Where a network is trained.

    :param tasks: how many
    :param share: of the tasks that have coordinates of their own; the others are plain CartPole
    :param times: factor of the number of steps
    """

    tasks: int
    share: float
    times: int = 1


# The first task is always plain CartPole: with two tasks, shares of 0.5 and 1 give the same ones.
CASES = [Case(2, 0.0), Case(2, 1.0)]
CASES += [Case(number, share) for number in (8, 32) for share in (0.0, 0.5, 1.0)]
CASES += [Case(8, share, 4) for share in (0.0, 0.5, 1.0)]
KEY = [*Case._fields, "network", "rate", "seed"]


def tasks_of(case: Case) -> list[Task]:
    """Build the tasks: first those that are plain, then each in coordinates of its own."""
    own = conflicting_cartpoles(case.tasks)
    plain = case.tasks - round(case.share * case.tasks)
    return [replace(own[0 if k < plain else k], name=f"CartPole{k}") for k in range(case.tasks)]


def train(case: Case, network: str, rate: float, seed: int) -> float:
    """Train a network, and return its mean return over the tasks at the end."""
    env = sb3_moe.make_multitask_vec_env(tasks_of(case), ENVIRONMENTS, seed=1000 * seed)
    arguments = PPO_SETTINGS | {"policy_kwargs": NETWORKS[network], "learning_rate": rate}
    model = PPO("MoeMultiInputPolicy", env, seed=seed, device="cpu", **arguments)
    model.learn(STEPS_OF_A_TASK * case.tasks * case.times)
    played = make_pinned_env(env, 1, seed=1000 * seed + 500)
    return float(evaluate_tasks(model, played, EPISODES, deterministic=False).returns.mean())


def rate_trials(table: Path) -> Iterator[tuple[Any, ...]]:
    """List the runs that choose learning rates, by network and number of tasks, which all conflict.

    While a network's best rate is at an end of its grid, the grid goes on there.
    """
    cases = [Case(number, 1.0) for number in sorted({case.tasks for case in CASES})]
    grid = [(case, network, rate) for case in cases for network in NETWORKS for rate in RATES]
    while grid:
        yield from ((*each, seed) for seed in DEVELOPMENT for each in grid)
        grid = []
        for case in cases:
            for network in NETWORKS:
                scores = scores_of(table)[case.tasks, network]
                further = beyond(sorted(scores.index), scores.idxmax())
                grid += [] if further is None else [(case, network, further)]


def scores_of(table: Path) -> pd.Series:
    """Read the mean return at each learning rate, by number of tasks, network and rate."""
    return pd.read_csv(table).groupby(["tasks", "network", "rate"])["return"].mean()


def runs(rates: Path) -> Iterator[tuple[Any, ...]]:
    """List the runs of the map, whole seeds first, with the rates that a table of trials chose."""
    scores = scores_of(rates)
    for seed in SEEDS:
        for case in CASES:
            for network in NETWORKS:
                yield case, network, float(scores[case.tasks, network].idxmax()), seed


# The figure's columns, by number of tasks and factor of steps, and its rows, by share of conflicts.
COLUMNS = {
    (2, 1): "2 tasks",
    (8, 1): "8 tasks",
    (32, 1): "32 tasks",
    (8, 4): "8 tasks, four times the steps",
}
ROWS = {0.0: "none in conflict", 0.5: "half in conflict", 1.0: "all in conflict"}


def draw(table: Path) -> None:
    """Draw each network's return in each case, the mean over seeds with its 95% t interval.

    Columns of which runs are missing are left out.
    """
    returns = pd.read_csv(table).groupby([*Case._fields, "network"])["return"].agg(list)
    returns = returns[returns.map(len) == len(SEEDS)]
    last = list(NETWORKS)[-1]
    columns = {each: COLUMNS[each] for each in COLUMNS if (each[0], 1.0, each[1], last) in returns}
    figure = Figure(figsize=(2.7 * len(columns), 5.6), layout="constrained")
    panels = figure.subplots(len(ROWS), len(columns), sharex=True, sharey=True)
    for axes_of_row, (share, row) in zip(panels, ROWS.items(), strict=True):
        axes_of_row[0].set_ylabel(row)
        for axes, ((tasks, times), column) in zip(axes_of_row, columns.items(), strict=True):
            if share == 0:
                axes.set_title(column, fontsize="medium")
            if (tasks, share, times) not in CASES:
                axes.text(0.5, 0.5, "the same as all", transform=axes.transAxes, ha="center")
            for k, network in enumerate(NETWORKS):
                of_seeds = np.array(returns.get((tasks, share, times, network), []))
                if len(of_seeds):
                    axes.hlines(k, *t_interval(of_seeds), color=COLORS[k], linewidth=2)
                    axes.plot(of_seeds.mean(), k, MARKERS[k], color=COLORS[k])
            axes.set_xlim(0, 510)
            axes.grid(axis="x", color="0.9")
    panels[0, 0].set_yticks(range(len(NETWORKS)), NETWORKS)
    panels[0, 0].invert_yaxis()
    figure.supxlabel("return at the end, mean over tasks (at most 500)", fontsize="medium")
    save_figure(figure, table.with_suffix(""), ("png",))


def main() -> None:
    """Train the runs that the table does not have, or draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["rates", "runs", "draw"])
    parser.add_argument("table", type=Path)
    parser.add_argument("--rates", type=Path, help="the table of rates, for the runs")
    args = parser.parse_args()
    if args.what == "draw":
        draw(args.table)
        return
    th.set_num_threads(1)
    if not args.table.exists():
        args.table.write_text(",".join([*KEY, "return"]) + "\n")
    todo = rate_trials(args.table) if args.what == "rates" else runs(args.rates)
    for case, *rest in todo:
        with args.table.open() as file:
            done = [[row[name] for name in KEY] for row in csv.DictReader(file)]
        key = [*map(str, (*case, *rest))]
        if key not in done:
            score = round(train(case, *rest), 2)
            print(*key, score, flush=True)
            with args.table.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow([*key, score])


if __name__ == "__main__":
    main()
