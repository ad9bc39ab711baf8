"""Recompute every table of the results pages from the committed data, as Markdown.

    python examples/recompute.py              # all tables
    python examples/recompute.py minatar mt3  # some of them

Each run gives one number, mostly a mean over tasks, and the seeds of a network are a sample.
Intervals are Student's 95% intervals of one sample, and Welch's of sums and differences of samples.
Where seeds were paired, their differences are one sample. A test compares the pages with this
output.

Scores are read from the raw archives (`scores.npz`, `*_cells.tar.xz`). Where a study kept no
archive, and for dormant neurons, the numbers of every run are in `measures.csv`.
"""

import argparse
import csv
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

HERE = Path(__file__).parent
Array = NDArray[np.float64]
Samples = dict[str, Array]  # (seeds,) each
Term = tuple[int, Array]  # a sign and a sample

# ---------------------------------------------------------------------------------------- the data


class Curves(NamedTuple):
    """What a network reached on every task while it was trained."""

    steps: Array  # (evaluations,)
    values: Array  # means over episodes, (seeds, evaluations, tasks)

    def final(self) -> Array:
        """Give the mean over tasks at the end of the run, (seeds,)."""
        return self.values[:, -1].mean(-1)

    def area(self, until: float) -> Array:
        """Give the mean value until a step, (seeds, tasks)."""
        steps = np.append(self.steps[self.steps < until], until)
        values = [[np.interp(steps, self.steps, task) for task in run.T] for run in self.values]
        return np.trapezoid(values, steps, axis=-1) / until

    def block(self, place: int, blocks: int) -> Self:
        """Give one of the run's equally long blocks, from its first evaluation to its last."""
        length = (len(self.steps) - 1) // blocks
        there = slice(place * length, (place + 1) * length + 1)
        return Curves(self.steps[there] - self.steps[there][0], self.values[:, there])

    def lost(self, cycles: int) -> Array:
        """Give each task's loss since its last block, of tasks trained in order, (seeds, tasks)."""
        tasks = self.values.shape[-1]
        first, blocks = tasks * (cycles - 1), tasks * cycles
        ends = [self.block(first + k, blocks).values[:, -1, k] for k in range(tasks)]
        return np.stack(ends, -1) - self.values[:, -1]


@cache
def curves(study: str, group: str) -> dict[str, Curves]:
    """Read the returns of a study's networks.

    :param group: the regime and, where tasks come one after the other, their order
    """
    with np.load(HERE / study / "scores.npz") as scores:
        return {
            network: Curves(
                scores[f"{group}/{network}/steps"].astype(float),
                scores[f"{group}/{network}/returns"].mean(-1),
            )
            for network in (key.split("/")[-2] for key in scores.files if key.endswith("/returns"))
            if f"{group}/{network}/returns" in scores
        }


@cache
def successes(archive: str) -> dict[str, Curves]:
    """Read the share of episodes of MT3 that succeeded, of the networks in an archive of runs."""
    found: dict[str, list[Array]] = {}
    with tarfile.open(HERE / "metaworld" / f"{archive}_cells.tar.xz") as runs:
        for name in sorted(each for each in runs.getnames() if each.endswith("/scores.npz")):
            file = runs.extractfile(name)
            assert file is not None
            scores = np.load(io.BytesIO(file.read()))
            network = name.split(")-")[-1].rpartition("-s")[0]
            found.setdefault(network, []).append(scores["successes"].mean(-1))
            steps = scores["steps"].astype(float)
    return {network: Curves(steps, np.stack(values)) for network, values in found.items()}


@cache
def measured(study: str, measure: str, regime: str, order: str = "", task: str = "") -> Samples:
    """Read one measure of every run, averaged over tasks.

    :param order: of the tasks; empty: the mean over orders
    :param task: the only one that counts; empty: the mean over tasks
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    with (HERE / study / "measures.csv").open() as file:
        for row in csv.DictReader(file):
            wanted = (row["measure"], row["regime"]) == (measure, regime)
            if wanted and order in ("", row["order"]) and task in ("", row["game"]):
                seeds = found.setdefault(row["architecture"], {})
                tasks = seeds.setdefault(row["seed"], {})
                tasks.setdefault(row["game"], []).append(float(row["value"]))
    return {
        network: np.array(
            [
                np.mean([np.mean(orders) for orders in seeds[seed].values()])
                for seed in sorted(seeds, key=int)
            ]
        )
        for network, seeds in found.items()
    }


# ---------------------------------------------------------------------------------- the statistics


class Effect(NamedTuple):
    """A sum of samples, and what was claimed about it before the runs.

    :param margin: the smallest effect that matters; None: the effect is only described
    :param below: whether the claim is that the effect stays below the margin
    :param either: whether the claim is of an effect in either direction
    """

    terms: list[Term]
    margin: float | None = None
    below: bool = False
    either: bool = False


class Estimate(NamedTuple):
    """A mean, its 95% interval, and the p value of the hypothesis that it is at most 0."""

    mean: float
    low: float
    high: float
    p: float


def estimate(terms: Sequence[Term]) -> Estimate:
    """Estimate a sum of samples, with its interval and the test that it is at most 0."""
    mean = float(sum(sign * sample.mean() for sign, sample in terms))
    errors = np.array([sample.var(ddof=1) / len(sample) for _, sample in terms])
    if not errors.any():  # all runs alike, such as all successful
        return Estimate(mean, mean, mean, float(mean <= 0))
    fewer = np.array([len(sample) - 1 for _, sample in terms])
    freedom = errors.sum() ** 2 / (errors**2 / fewer).sum()
    error = float(np.sqrt(errors.sum()))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(mean, mean - half, mean + half, float(stats.t.sf(mean / error, freedom)))


def holm(p_values: list[float]) -> list[float]:
    """Correct the p values of one family of tests."""
    order = np.argsort(p_values)
    adjusted = np.array(p_values)[order] * np.arange(len(p_values), 0, -1)
    return list(np.maximum.accumulate(adjusted)[np.argsort(order)])


def verdicts(effects: list[Effect], alpha: float) -> list[str]:
    """Judge the claims of one family by the rule of the protocols."""
    estimates = [estimate(effect.terms) for effect in effects]
    p_values = [
        2 * min(found.p, 1 - found.p) if effect.either else found.p
        for effect, found in zip(effects, estimates, strict=True)
    ]
    family = [k for k, each in enumerate(effects) if each.margin and not each.below]
    for k, p in zip(family, holm([p_values[k] for k in family]), strict=True):
        p_values[k] = p
    return [
        verdict(effect, found, p < alpha)
        for effect, found, p in zip(effects, estimates, p_values, strict=True)
    ]


def verdict(effect: Effect, found: Estimate, significant: bool) -> str:
    """Judge one effect: "supported" says that the estimate, not the interval, passes the margin."""
    if effect.margin is None:
        return "described"
    mean, low, high, _ = found
    if effect.either and mean < 0:
        mean, low, high = -mean, -high, -low
    there, ruled_out = mean >= effect.margin and significant, high < effect.margin
    if effect.below:
        there, ruled_out = ruled_out, there
    elif there and low < effect.margin:
        return "**supported**; the interval reaches below the margin"
    return "**supported**" if there else "**contradicted**" if ruled_out else "undecided"


# ----------------------------------------------------------------------------- the samples by name

EIGHT = [f"CartPole{k}" for k in range(8)]
#: What a dense network gains from scratch, as `paper/claims.yaml` fixed it.
UNITS = {"SpaceInvaders": 16.47, "Breakout": 4.05}
#: The orders of the games; each game comes first in one and second in the other.
ORDERS = ("SpaceInvaders.Breakout", "Breakout.SpaceInvaders")
#: Steps of all three tasks of MT3 together, half and a quarter of them.
STEPS, HALF, QUARTER = 603_000, 301_500, 150_750
#: Milliseconds of MOORE and of its matched baseline, by their ratio, from metaworld/protocol.md: an
#: update, an update with the environments' steps, and an update since MOORE became faster.
TIMES = {"1.9": (27, 14.4), "1.7": (31, 18), "1.5": (21, 14.4)}


def named(when: str, found: Mapping[str, Array]) -> Samples:
    """Prefix the names of networks with when, where or how they were measured."""
    return {f"{when} {network}": sample for network, sample in found.items()}


def in_turn(study: str) -> Samples:
    """Give final returns on eight CartPoles in turn, and the loss since each one's last block."""
    runs = curves(study, f"crl/{'.'.join(EIGHT)}")
    final = named("crl", {network: each.final() for network, each in runs.items()})
    return final | named("lost", {network: each.lost(2).mean(1) for network, each in runs.items()})


def conflict() -> Samples:
    """Give returns at the end on conflicting tasks."""
    interleaved = curves("conflict/interleaved", "mtrl")
    found = named("mtrl", {network: runs.final() for network, runs in interleaved.items()})
    found |= in_turn("conflict/sequence")
    found |= named("again", in_turn("conflict/in_turn"))
    counts = [f"tasks{number}" for number in (1, 2, 4, 16)]
    for study in ("routing_confirmed", "gradients", "images", *counts):
        found |= named(study, measured(f"conflict/{study}", "final", "mtrl"))
    for study in ("alone", "alone_updates"):
        tasks = [measured(f"conflict/{study}", "final", "scratch", task, task) for task in EIGHT]
        found[study] = np.mean([task["dense"] for task in tasks], axis=0)
    return found


def games(when: str, runs: Mapping[str, Sequence[Curves]]) -> Samples:
    """Give mean returns on two games while they are trained, in `UNITS`, and the mean over both.

    :param runs: of each network, those in which the first game is trained, and the second
    """
    found: Samples = {}
    for network, of_games in runs.items():
        areas = [
            each.area(each.steps[-1])[:, task] / unit
            for task, (each, unit) in enumerate(zip(of_games, UNITS.values(), strict=True))
        ]
        found[f"{when} {network}"] = np.mean(areas, axis=0)
        found |= {f"{when} {game} {network}": area for game, area in zip(UNITS, areas, strict=True)}
    return found


def at_once(study: str) -> Samples:
    """Give the mean returns on two games that are interleaved."""
    return games("mtrl", {name: [runs, runs] for name, runs in curves(study, "mtrl").items()})


def areas(study: str) -> Samples:
    """Give mean returns on two games while they are trained.

    `mtrl` is interleaved, `first` from scratch, `second` after the other game, `crl` the mean of
    the last two and `gain` their difference. The mean is over both games if no game is named.
    """
    one, other = (curves(study, f"crl/{order}") for order in ORDERS)
    found = at_once(study)
    found |= games(
        "first", {name: [one[name].block(0, 2), other[name].block(0, 2)] for name in one}
    )
    found |= games(
        "second", {name: [other[name].block(1, 2), one[name].block(1, 2)] for name in one}
    )
    for network in one:
        first_area, second_area = found[f"first {network}"], found[f"second {network}"]
        found[f"crl {network}"] = (first_area + second_area) / 2
        found[f"gain {network}"] = second_area - first_area
    return found


def minatar() -> Samples:
    """Give the results of the studies of the paper's questions."""
    own = "paper/earlier/own_rates"
    found = areas("paper/tier1")
    found |= named("tuned", at_once("paper/interleaved"))
    found |= named("0.005", areas("paper/earlier/results")) | named("0.001", areas(own))
    for regime in ("crl", "mtrl"):
        for measure in ("dormant", "inactive"):
            found |= named(f"{measure} {regime}", measured("paper/tier1", measure, regime))
    for game in UNITS:
        area = measured(own, "relative_area", "crl", task=game)
        found[f"actor - critic {game}"] = area["soft-big-pi"] - area["soft-big-vf"]
    orders = (order.replace(".", " ") for order in ORDERS)
    first, second = (measured(own, "average_performance", "crl", order) for order in orders)
    found["order"] = first["soft-big"] - second["soft-big"]
    idle = measured(own, "dormant", "crl")
    found["dormant, half as long"] = idle["dense-matched"] - idle["soft-big"]
    return found


def metaworld() -> Samples:
    """Give areas under success on MT3."""
    found = {network: runs.area(STEPS).mean(1) for network, runs in successes("mt3").items()}
    for times, (slow, fast) in TIMES.items():
        moore = successes("mt3")["moore"].area(STEPS * fast / slow)
        found[f"moore {times}"] = moore.mean(1)
    for archive in ("mt3", "mt3_normalised"):
        for network, runs in successes(archive).items():
            found[f"quarter {network}"] = runs.area(QUARTER).mean(1)
    for network, runs in successes("mt3").items():
        found[f"raw {network}"] = runs.area(HALF).mean(1)
    return found | normalized()


def normalized() -> Samples:
    """Give areas under success on MT3 with normalized observations.

    `a as long as b` is the area of `a` in the median processor time that runs of `b` took.
    """
    found: Samples = {}
    seconds = seconds_of_runs()
    for network, runs in successes("mt3_all_normalized").items():
        found[f"normalized {network}"] = runs.area(HALF).mean(1)
        for other in seconds:
            until = HALF * min(1, np.median(seconds[other]) / np.median(seconds[network]))
            found[f"{network} as long as {other}"] = runs.area(until).mean(1)
    return found


def seconds_of_runs() -> Samples:
    """Give the processor seconds of MT3's runs with normalized observations, by network."""
    found: dict[str, list[float]] = {}
    with (HERE / "metaworld" / "mt3_all_normalized" / "seconds.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["network"], []).append(float(row["seconds"]))
    return {network: np.array(values) for network, values in found.items()}


def mt10() -> Samples:
    """Give the share of MT10's episodes that succeed: the mean of each run's last two evaluations.

    By network: the mean over all tasks, the mean over its three worst, and each task's own.
    """
    runs: dict[str, dict[str, list[list[float]]]] = {}
    with (HERE / "mt10" / "results.csv").open() as file:
        for row in csv.DictReader(file):
            values = [float(row[f"task_{k}"]) for k in range(10)]
            runs.setdefault(row["network"], {}).setdefault(row["seed"], []).append(values)
    found = {}
    for network, seeds in runs.items():
        ends = np.array([np.mean(evaluations[-2:], axis=0) for evaluations in seeds.values()])
        found[network] = ends.mean(1)
        found[f"{network} worst"] = np.sort(ends, axis=1)[:, :3].mean(1)
        found |= {f"{network} {task}": column for task, column in enumerate(ends.T)}
    return found


def conflict_map() -> Samples:
    """Give returns at the end by number of tasks, share of conflicts, factor of steps, network."""
    found: dict[str, list[float]] = {}
    with (HERE / "conflict" / "map.csv").open() as file:
        for row in csv.DictReader(file):
            name = " ".join(row[key] for key in ("tasks", "share", "times", "network"))
            found.setdefault(name, []).append(float(row["return"]))
    return {name: np.array(values) for name, values in found.items()}


def growing() -> Samples:
    """Give the results on forgetting, upcycling, plasticity and `match_scale`."""
    found = in_turn("grow/sequence")
    for network, runs in curves("grow/minatar_pair", f"crl/{ORDERS[1]}").items():
        found[f"Breakout {network}"], found[f"SpaceInvaders {network}"] = runs.values[:, -1].T
        found[f"lost Breakout {network}"] = runs.lost(2)[:, 0]
    before = curves("grow/upcycled", "crl/Breakout")["dense"].values[:, -1, 0]
    for network, runs in curves("grow/upcycled", "crl/SpaceInvaders").items():
        found[f"area {network}"] = runs.area(runs.steps[-1])[:, 1]
        found[f"reached {network}"] = runs.values[:, -1, 1]
        found[f"start {network}"] = runs.values[:, 0, 0] - before
        found[f"lost {network}"] = before - runs.values[:, -1, 0]
    orders = [f"Breakout{k}" for k in range(10)]
    played = curves("plasticity/permuted_breakout", f"crl/{'.'.join(orders)}")["dense"].values
    ends = np.stack([played[:, k + 1, k] for k in range(10)], 1)
    found["permuted"] = ends[:, -2:].mean(1) - ends[:, :2].mean(1)
    for study in ("match_scale", "match_scale_minatar"):
        scale = measured(f"studies/{study}", "relative_area", "scratch")
        for network in ("soft", "top1-16"):
            found[f"{study} {network}"] = scale[f"{network}-matched"] - scale[network]
    return found


# -------------------------------------------------------------------------------------- the tables

EFFECT = ["effect", "difference, 95% interval", "n", "margin", "verdict"]
SUCCESS = ["", "door-close", "reach", "faucet-close", "mean over tasks", "its 95% interval"]
ALL = (conflict, conflict_map, minatar, metaworld, mt10, growing)
SOURCES = {each.__name__: cache(each) for each in ALL}


def number(value: float, digits: int) -> str:
    """Write a number; one that would round to 0 gets one significant digit if `digits` isn't 0."""
    if digits and 0 < abs(value) < 0.5 * 10**-digits:
        return f"{value:.1g}"
    return f"{value:.{digits}f}" if round(value, digits) else "0"


def interval(terms: Sequence[Term], digits: int = 2) -> str:
    """Write a mean with its interval."""
    mean, low, high = (number(value, digits) for value in estimate(terms)[:3])
    return f"{mean} [{low}, {high}]"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [f"| {' | '.join(row)} |" for row in [header, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def effects_of(table: dict[str, Any]) -> dict[str, Effect]:
    """Read the effects of a table of `recompute.yaml`, by their descriptions."""
    samples = SOURCES[table["from"]]()
    return {
        words: Effect(
            [(1, samples[name]) for name in each["plus"].split(" + ")]
            + [(-1, samples[name]) for name in each.get("minus", "").split(" + ") if name],
            next((each[kind] for kind in ("margin", "below", "either") if kind in each), None),
            "below" in each,
            "either" in each,
        )
        for words, each in table["effects"].items()
    }


def effect_rows(table: dict[str, Any]) -> list[list[str]]:
    """Write a row for each effect, with its verdict."""
    effects, rows = effects_of(table), []
    judged = verdicts(list(effects.values()), table.get("alpha", 0))
    for (words, effect), found in zip(effects.items(), judged, strict=True):
        seeds = dict.fromkeys(str(len(sample)) for _, sample in effect.terms)
        margin = f"{'below ' * effect.below}{effect.margin:g}" if effect.margin else "-"
        difference = interval(effect.terms, table.get("digits", 2))
        rows.append([words, difference, " and ".join(seeds), margin, found])
    return rows


def level_rows(table: dict[str, Any]) -> list[list[str]]:
    """Write a row for each network, with what it reached."""
    samples, digits = SOURCES[table["from"]](), table.get("digits", 2)
    empty = ["-"] * len(table["columns"])
    return [
        ([words, *(interval([(1, samples[name])], digits) for name in names)] + empty)[: len(empty)]
        for words, names in table["levels"].items()
    ]


def success_rows(archives: dict[str, str], step: int) -> list[list[str]]:
    """Write success on MT3 until a step: means over seeds, and the lowest and the highest seed."""

    def ranges(values: Array, digits: int) -> list[str]:
        columns = [*((task, digits) for task in values.T), (values.mean(1), 2)]
        return [f"{x.mean():.2f} ({x.min():.{d}f} to {x.max():.{d}f})" for x, d in columns]

    rows = []
    for network, archive in archives.items():
        runs = successes(archive)[network]
        end, area = runs.values[:, runs.steps == step][:, 0], runs.area(step)
        found = interval([(1, area.mean(1))])
        rows.append([f"`{network}`, {len(area)} seeds, at the end", *ranges(end, 1), "-"])
        rows.append([f"`{network}`, area under success", *ranges(area, 2), found])
    return rows


def specifications() -> dict[str, dict[str, Any]]:
    """Read `recompute.yaml`."""
    return dict(yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))


def tables() -> dict[str, str]:
    """Give every table by its name."""
    specs = specifications()
    effects = {name: effect_rows(each) for name, each in specs.items() if "effects" in each}
    overview = [
        [f"{effect['overview']}: {row[0]}", *row[1:]]
        for name, rows in effects.items()
        for effect, row in zip(specs[name]["effects"].values(), rows, strict=True)
        if "overview" in effect
    ]
    found = {name: markdown(EFFECT, rows) for name, rows in effects.items()}
    found["overview"] = markdown(EFFECT, overview)
    for name, each in specs.items():
        if "levels" in each:
            found[name] = markdown(each["columns"], level_rows(each))
    networks = dict.fromkeys(("dense", "multi-head", "dense-wide", "moore"), "mt3")
    short = {"simba": "mt3_simba", "paco": "mt3_paco", "normalised": "mt3_normalised"}
    found["success"] = markdown(SUCCESS, success_rows(networks, STEPS))
    found["quarter"] = markdown(SUCCESS, success_rows(networks | short, QUARTER))
    normal = dict.fromkeys(seconds_of_runs(), "mt3_all_normalized")
    raw = dict.fromkeys(("dense-wide", "moore"), "mt3")
    found["success_normalized"] = markdown(SUCCESS, success_rows(normal, HALF))
    found["success_raw"] = markdown(SUCCESS, success_rows(raw, HALF))
    return found


def main() -> None:
    """Print tables between the marks that stand around them in the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", help="their names; otherwise all")
    found = tables()
    for name in parser.parse_args().tables or found:
        print(f"<!-- {name} -->\n{found[name]}\n<!-- /{name} -->\n")


if __name__ == "__main__":
    main()
