"""Draw every figure of the studies from the committed data.

    python examples/redraw.py                           # all of them
    python examples/redraw.py paper/tier1 conflict      # of one report, and `conflict/against_*`

Bands and bars are Student's 95% intervals over seeds. A report's folder has the returns of all
episodes in `scores.npz` and all other measures in `curves.csv.xz`. The last weights of experts are
in its `gates.npz`, or in the archive of its runs, `*_cells.tar.xz`.
"""

import argparse
import io
import runpy
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from gymnasium import spaces
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

from sb3_moe.measures.budget import measure
from sb3_moe.policies.on_policy import MoeMultiInputPolicy
from sb3_moe.study.config import StudyConfig, load_study
from sb3_moe.study.figures import draw_curves, draw_experts
from sb3_moe.study.judging import t_interval
from sb3_moe.study.results import WHOLE, Results, Run
from sb3_moe.watching import figures as plots
from sb3_moe_envs import get_suite

HERE = Path(__file__).parent
BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK = plots.COLORS
#: The color and marker of a network in all figures. Those of `hidden/report.py` are different ones.
LOOKS = {
    "dense": (BLUE, "s"),
    "dense-wide": (RED, "o"),
    "dense-matched": (RED, "^"),
    "dense-pcgrad": (ORANGE, "s"),
    "dense-blind": (BLUE, "D"),
    "heads": (GREEN, "D"),
    "multi-head": (GREEN, "^"),
    "task-big": (PINK, "v"),
    "separate": (BLACK, "o"),
    "separate-updates": (PINK, "<"),
    "uniform-big": (GREEN, "X"),
    "soft-big": (SKY, "P"),
    "soft-blind": (RED, "s"),
    "soft-middle": (ORANGE, "D"),
    "soft-big-pi": (BLACK, "s"),
    "soft-big-vf": (ORANGE, "o"),
    "top1-big": (ORANGE, "^"),
    "top1-frozen": (GREEN, "<"),
    "top2": (ORANGE, "v"),
    "top2-big": (BLACK, "<"),
    "top2-big-spectral": (GREEN, "v"),
    "sphere": (GREEN, "o"),
    "wide-l2": (BLUE, "P"),
    "wide-ewc": (SKY, "s"),
    "wide-sparse": (BLACK, "^"),
    "dense-l2": (RED, "P"),
    "dense-ewc": (SKY, "o"),
    "dense-sparse": (BLACK, "D"),
    "went-on": (BLACK, "v"),
    "upcycled": (ORANGE, "<"),
    "moore": (PINK, "D"),
    "moore-1": (BLUE, "v"),
    "simba": (ORANGE, "X"),
    "paco": (SKY, "^"),
    "normalised": (BLACK, "P"),
}
#: Study files, without `.yaml`, of the reports whose folder has another name.
FILES = {"metaworld/mt3": "studies/metaworld_mt3", "paper/earlier/results": "paper/earlier/study"}
#: The reports from which the paper's learning rates were picked.
RATES = {
    "paper/rates": ["paper/rates", "paper/rates_second", "paper/rates_second_rest"],
    "paper/earlier/rates": ["paper/earlier/rates"],
}
#: Tables of `recompute.py`, the reports that they belong to, and their unit.
EFFECTS = {
    "interleaved": ("conflict/interleaved", "return per episode"),
    "in_turn": ("conflict/sequence", "return per episode"),
    "in_turn_again": ("conflict/in_turn", "return per episode"),
    "gradients": ("conflict/gradients", "return per episode"),
    "forgetting": ("grow/sequence", "return per episode"),
    "upcycled": ("grow/upcycled", "return per episode"),
    "mt3": ("metaworld/mt3", "area under success (share of episodes)"),
    "mt3_normalized": ("metaworld/mt3_all_normalized", "area under success (share of episodes)"),
    "minatar": ("paper/tier1", "return in units of 16.47 (SpaceInvaders) and 4.05 (Breakout)"),
    "interleaved_tuned": ("paper/interleaved", "return in units of 16.47 and 4.05"),
}
#: What a dense network gains from scratch, as `paper/claims.yaml` fixed it.
UNITS = {"SpaceInvaders": 16.47, "Breakout": 4.05}
#: Units by which areas were divided while rates were picked.
PROVISIONAL = {"SpaceInvaders": 9.0, "Breakout": 3.0}
#: Reports by the number of conflicting tasks.
COUNTS = {1: "tasks1", 2: "tasks2", 4: "tasks4", 8: "interleaved", 16: "tasks16"}
# A network for each task: with the settings of the others, and with as many updates as an expert.
SEPARATE = {"alone": "separate", "alone_updates": "separate-updates"}
# With fewer seeds an interval would be so wide that it hides everything else.
FEWEST_SEEDS = 3


def looks() -> dict[str, dict[str, str]]:
    """Give the looks of all networks as matplotlib takes them."""
    return {name: {"color": color, "marker": marker} for name, (color, marker) in LOOKS.items()}


# ------------------------------------------------------------------------------- against the steps


def returns(folder: Path, tasks: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """Give a report's mean returns as the rows of a table."""
    with np.load(folder / "scores.npz") as scores:
        for key in [key for key in scores.files if key.endswith("/returns")]:
            group, network, _ = key.rsplit("/", 2)
            regime, _, order = group.partition("/")
            steps, seeds = scores[f"{group}/{network}/steps"], scores[f"{group}/{network}/seeds"]
            values = scores[key].mean(axis=-1)
            for seed, step, task in np.ndindex(*values.shape):
                value = values[seed, step, task]
                place = (regime, order.replace(".", " "), network, seeds[seed])
                yield *place, "return", tasks[task], steps[step], value


def results_of(folder: Path) -> Results:
    """Read a report's folder as results that the package can draw."""
    name = str(folder.relative_to(HERE))
    study = load_study(str(HERE / f"{FILES.get(name, name)}.yaml"))
    columns = ["regime", "order", "architecture", "seed", "measure", "task", "step", "value"]
    table = pd.DataFrame(returns(folder, study.games), columns=columns)
    if (folder / "curves.csv.xz").exists():
        other = pd.read_csv(folder / "curves.csv.xz", na_filter=False)
        other = other.rename(columns={"game": "task"})
        other["task"] = other["task"].replace("all games", WHOLE)
        table = pd.concat([table, other])
    random = pd.read_csv(folder / "summary.csv").groupby("game")["random"].first().to_dict()
    gates = dict(gates_of(folder, study))
    runs = [Run(run, {}, gates.get(run.name, {})) for run in study.runs()]
    return Results(study, runs, random, table)


def gates_of(folder: Path, study: StudyConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the weights of experts of a report's runs, by the run's name."""
    archive = folder.with_name(f"{folder.name}_cells.tar.xz")
    if (folder / "gates.npz").exists():
        found: dict[str, dict[str, Any]] = defaultdict(lambda: {"steps": np.zeros(1)})
        with np.load(folder / "gates.npz") as gates:
            for key in gates.files:
                run, _, mixture = key.partition("/")
                found[run][mixture] = gates[key][None]
        yield from found.items()
    elif archive.exists():
        with tarfile.open(archive) as runs:
            there = {*runs.getnames()}  # a network may have fewer seeds than the study
            for run in study.runs():
                if (name := f"cells/{run.name}/diagnostics.npz") in there:
                    yield run.name, weights_in(runs, name)


def weights_in(runs: tarfile.TarFile, name: str) -> dict[str, Any]:
    """Read the steps and the weights of experts from a run's diagnostics in an archive."""
    file = runs.extractfile(name)
    assert file is not None
    found = np.load(io.BytesIO(file.read()))
    names = [each for each in found.files if each.startswith("gates/")]
    return {each: found[each] for each in ("steps", *names)}


def draw_report(folder: Path) -> None:
    """Draw a report's curves, of success if measured, else of return, and weights of experts."""
    results = results_of(folder)
    study, found = results.study, set(results.table["measure"])
    units = UNITS if {*study.games} == {*UNITS} else {}
    curves = "success" if "success" in found else "return"
    drawn = {each: draw_curves(results, each, units, looks()) for each in (curves, "dormant")}
    drawn["expert_weights"] = draw_experts(results)
    for name, figure in drawn.items():
        if figure is not None:
            plots.save_figure(figure, folder / name, ("png",), dpi=140)


def draw_effects(table: str) -> None:
    """Draw the differences of a table of `recompute.py`, and the range too small to matter."""
    folder, unit = EFFECTS[table]
    script = runpy.run_path(str(HERE / "recompute.py"))
    effects = script["effects_of"](script["specifications"]()[table])
    figure = Figure(figsize=(8, 1 + 0.3 * len(effects)), layout="constrained")
    axes = figure.subplots()
    for row, effect in enumerate(effects.values()):
        mean, low, high, _ = script["estimate"](effect.terms)
        axes.plot([low, high], [row, row], color=BLUE)
        axes.plot(mean, row, "o", color=BLUE)
        axes.barh(row, 2 * (effect.margin or 0), left=-(effect.margin or 0), color="0.88")
    axes.axvline(0, color="0.35", linewidth=1)
    axes.set_yticks(range(len(effects)), ["\n".join(wrap(words, 52)) for words in effects])
    axes.use_sticky_edges = False
    axes.margins(0.03)
    axes.invert_yaxis()
    label = f"difference with its 95% interval, {unit}"
    figure.supxlabel(f"{label}\ngray: smaller than the margin", fontsize="medium")
    plots.save_figure(figure, HERE / folder / "differences", ("png",))


def draw_seconds() -> None:
    """Draw success on MT3 with normalized observations against the processor time of the runs."""
    script = runpy.run_path(str(HERE / "recompute.py"))
    seconds = script["seconds_of_runs"]()
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for network, runs in script["successes"]("mt3_all_normalized").items():
        minutes = runs.steps / runs.steps[-1] * np.median(seconds[network]) / 60
        values = runs.values.mean(-1)
        look = looks()[network]
        plots.plot_mean(axes, minutes, values.mean(0), t_interval(values), network, look)
    axes.set_xlabel("minutes of one core")
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("share of episodes that succeed, mean over tasks")
    plots.add_legend(figure)
    plots.save_figure(figure, HERE / "metaworld" / "mt3_all_normalized" / "seconds", ("png",))


# ---------------------------------------------------------------------------------- against a value


class Point(NamedTuple):
    """A value with its interval, at a place on the horizontal axis."""

    x: float
    value: float
    low: float
    high: float


def draw_against(points: Mapping[str, list[Point]], xlabel: str, ylabel: str) -> Figure:
    """Draw values with their intervals: a line with a band for each name, or a dot with a bar."""
    places, names = sorted({p.x for each in points.values() for p in each}), [*points]
    parts, every = plots.into_panels(names), {"markevery": 1, "markersize": 6}
    figure = Figure(figsize=(6.4 * len(parts), 4.4), layout="constrained")
    panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
    for axes, part in zip(panels, parts, strict=True):
        for name in part:
            xs, values, lows, highs = np.array(points[name]).T
            if len(xs) > 1:
                plots.plot_mean(axes, xs, values, (lows, highs), name, looks()[name] | every)
            else:
                ends = values - lows, highs - values
                axes.errorbar(xs, values, ends, label=name, ls="", ms=8, **looks()[name])
        axes.set_xscale("log")
        # Ticks are where the points of lines are, but at round numbers for dots.
        ticks = LogLocator(10, (1, 2, 5)) if axes.containers else FixedLocator(places)
        axes.xaxis.set_major_locator(ticks)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(xlabel)
    figure.supylabel(ylabel, fontsize="medium")
    plots.add_legend(figure)
    return figure


def point(x: float, values: Any) -> Point:
    """Give a mean with Student's interval over seeds, or none if seeds are too few."""
    mean = float(np.mean(values))
    interval = t_interval(values) if len(values) >= FEWEST_SEEDS else (mean, mean)
    return Point(x, mean, *map(float, interval))


def draw_rates(name: str) -> None:
    """Draw each network's return at the learning rates among which one was picked."""
    rows = pd.concat(pd.read_csv(HERE / each / "measures.csv") for each in RATES[name])
    rows = rows[rows["measure"] == "area"]
    rows[["network", "rate"]] = rows["architecture"].str.rsplit("-", n=1, expand=True)
    rows["value"] /= rows["game"].map(PROVISIONAL)
    lines: dict[str, list[Point]] = defaultdict(list)
    seeds = rows.groupby(["network", "rate", "seed"], sort=False)["value"].mean()
    for (network, rate), values in seeds.groupby(["network", "rate"], sort=False):
        lines[network].append(point(float(rate), values.to_numpy()))
    lines = {network: sorted(points) for network, points in lines.items()}
    label = "return per episode while trained,\nin units of 9 (SpaceInvaders) and 3 (Breakout)"
    figure = draw_against(lines, "learning rate", label)
    plots.save_figure(figure, HERE / name / "against_rates", ("png",))


def composites(report: Path) -> dict[str, np.ndarray]:
    """Give the return at the end, averaged over tasks, of every seed, by network.

    Of a run on one task alone, only that task counts.
    """
    rows = pd.read_csv(report / "measures.csv").rename(columns={"game": "task"})
    alone = (rows["regime"] == "scratch") & (rows["task"] != rows["order"])
    final = rows[(rows["measure"] == "final") & ~alone]
    seeds = final.groupby(["architecture", "seed"], sort=False)["value"].mean()
    return {str(name): each.to_numpy() for name, each in seeds.groupby("architecture", sort=False)}


def flops(study: Path) -> dict[str, int]:
    """Give the FLOPs that each network of a study takes for one observation."""
    config = load_study(str(study))
    task = get_suite(str(config.tasks))[0].make()
    seen = {"obs": task.observation_space, "task_id": spaces.Discrete(len(config.games))}
    costs = {}
    for each in config.architectures:
        options: dict[str, Any] = dict(each.policy_kwargs)
        policy = MoeMultiInputPolicy(spaces.Dict(seen), task.action_space, lambda _: 0.0, **options)
        costs[each.name] = measure(policy).total.flops
    return costs


def against_tasks(folder: Path) -> dict[str, list[Point]]:
    """Give every network's returns by the number of tasks."""
    lines: dict[str, list[Point]] = defaultdict(list)
    for count, name in COUNTS.items():
        if (folder / name / "measures.csv").exists():
            for network, values in composites(folder / name).items():
                if len(values) >= FEWEST_SEEDS:
                    lines[network].append(point(count, values))
    return {network: points for network, points in lines.items() if len(points) > 1}


def against_flops(folder: Path) -> dict[str, list[Point]]:
    """Give every network's return on eight tasks, by its FLOPs per observation."""
    costs = flops(folder / "interleaved.yaml")
    found = {
        network: [point(costs[network], values)]
        for network, values in composites(folder / "interleaved").items()
    }
    for study, network in SEPARATE.items():
        if (folder / study / "measures.csv").exists():
            found[network] = [point(costs["dense"], composites(folder / study)["dense"])]
    return found


def draw_conflict(folder: Path = HERE / "conflict") -> None:
    """Draw returns on conflicting tasks against their number and FLOPs, and write the numbers."""
    rows = []
    drawn = {
        "tasks": (against_tasks(folder), "conflicting tasks, each with as many steps"),
        "flops": (against_flops(folder), "FLOPs per observation"),
    }
    for name, (points, xlabel) in drawn.items():
        figure = draw_against(points, xlabel, "return per episode at the end, mean over tasks")
        figure.axes[0].set_ylim(0, 500)  # what CartPole can return; some intervals leave it
        plots.save_figure(figure, folder / f"against_{name}", ("png",))
        rows += [
            {"against": name, "network": network, **each._asdict()}
            for network, every in points.items()
            for each in every
        ]
    pd.DataFrame(rows).to_csv(folder / "against.csv", index=False, float_format="%.6g")


def tasks() -> Mapping[str, Callable[[], None]]:
    """Give all that can be drawn, by name."""
    names = sorted(str(path.parent.relative_to(HERE)) for path in HERE.glob("*/**/scores.npz"))
    rated = [each for every in RATES.values() for each in every]
    found: dict[str, Callable[[], None]] = {
        name: partial(draw_report, HERE / name) for name in names if name not in rated
    }
    found |= {name: partial(draw_rates, name) for name in RATES}
    found |= {f"{table} differences": partial(draw_effects, table) for table in EFFECTS}
    return found | {"conflict": draw_conflict, "metaworld seconds": draw_seconds}


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", nargs="*", help="of which reports; otherwise all")
    known = tasks()
    for name in parser.parse_args().figures or known:
        print(name, flush=True)
        known[name]()


if __name__ == "__main__":
    main()
