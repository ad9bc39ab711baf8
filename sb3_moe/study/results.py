"""The measures of a study's runs, task by task, and the table of all results.

The table has a row for each value of each run, in the columns ``regime``, ``order``,
``architecture``, ``seed``, ``measure``, ``task``, ``step`` and ``value``. In a row with a step, the
measure is of one evaluation: ``return``, ``success``, or one of :data:`INSIDES`. In a row without
one, it is one of :data:`MEASURES`, of the whole run. If a run has no value of one of these (yet),
its row has NaN, so that the table also says what is missing.

Shapes: K evaluations, N tasks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sb3_moe import measures as metrics
from sb3_moe.saving.files import read_json
from sb3_moe.study.building import algorithm_class
from sb3_moe.study.config import RunConfig, StudyConfig
from sb3_moe.study.folder import Job, refuse_changes, survey
from sb3_moe.vec_env.evaluating import predict_takes_masks

Array = npt.NDArray[np.float64]
NAN = np.nan

#: Instead of a task's name, for values of the whole run or means over tasks.
WHOLE = "all tasks"

#: The measures of layers in ``diagnostics.npz``, each with its explanation in reports.
INSIDES = {
    "dormant": "dormant neurons: share of neurons that are hardly ever active",
    "effective_rank": "effective rank: how many directions a layer's outputs really use",
    "stable_rank": "stable rank: how many directions hold most of a layer's outputs",
    "weight_norm": "weight norm: size of all weights of a network together",
    "weight_change": "weight change: how far the weights moved since the measurement before",
    "gradient_norm": "gradient norm: size of the last update's gradient, after clipping",
    "zero_gradients": "zero gradients: share of weights whose gradient was exactly 0",
}

# If `n_envs` is no multiple of the number of tasks, some tasks have more steps than their share. Up
# to this multiple of its share, a task counts as having as many steps as alone.
MOST_UNEVEN = 1.05


@dataclass(frozen=True)
class Run:
    """The results of a run, read from its folder.

    :param config: the run's configuration
    :param scores: the arrays of ``scores.npz``
    :param diagnostics: the arrays of ``diagnostics.npz``, empty if it has none
    :param is_done: whether it has come to its end; if not, it has curves but no :data:`MEASURES`
    """

    config: RunConfig
    scores: Mapping[str, np.ndarray]
    diagnostics: Mapping[str, np.ndarray] = field(default_factory=dict)
    is_done: bool = True

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Global step of each evaluation, (K,)."""
        return self.scores["steps"]

    @property
    def returns(self) -> pd.DataFrame:
        """Mean return at each evaluation, by step and task."""
        return self._by_task(self.scores["score"])

    @property
    def success(self) -> pd.DataFrame:
        """Share of episodes that succeeded, by step and task; NaN if unreported."""
        return self._by_task(self.scores["successes"].mean(axis=2))

    def _by_task(self, values_KN: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values_KN, self.steps, self.config.games, float)

    def inside(self, kind: str) -> pd.Series:
        """Give a measure that is taken inside the network, averaged over its layers, by step.

        :param kind: the measure's name, which stands before the layer's, such as ``"dormant"``
        :return: values where it was measured: callbacks that share the file may measure at other
            steps
        """
        found = self.diagnostics.items()
        layers = [v for name, v in found if name.startswith(f"{kind}/") and v.ndim == 1]
        if not layers:
            return pd.Series(dtype=float)
        mean = pd.Series(np.mean(layers, axis=0), self.diagnostics["steps"])
        return mean[np.isfinite(mean)]

    def blocks(self, task: str) -> list[tuple[float, float]]:
        """The stretches of global steps in which a task was trained.

        With a schedule, they are what evaluations recorded, since it may choose tasks as it runs.
        """
        if self.config.order:
            return planned_blocks(self.config, task)
        recorded = metrics.blocks_of(self.steps, self.scores.get("trained", self.steps * 0 - 1))
        index = self.config.games.index(task)
        own = [(block.start, block.end) for block in recorded if block.task == index]
        return own if recorded else [(0, self.config.total_steps)]

    def areas(self, curves: pd.DataFrame, task: str) -> list[float]:
        """Mean over each block of a task; NaN if the run ended earlier, or a value is NaN."""
        last = self.steps[-1] if np.isfinite(curves[task]).all() else -1
        return [
            metrics.area(curves[[task]], self.steps, start, end)[0] if last >= end else NAN
            for start, end in self.blocks(task)
        ]

    def area(self, curves: pd.DataFrame, task: str) -> float:
        """Mean over all blocks of a task; NaN as :meth:`areas`, or without blocks."""
        lengths = [end - start for start, end in self.blocks(task)]
        return np.average(self.areas(curves, task), weights=lengths) if lengths else NAN

    def lost(self, curves: pd.DataFrame, task: str) -> float:
        """Value at the end of a task's last block less that at the end of the run."""
        curve = curves[task]
        _, end = self.blocks(task)[-1]
        return value_at(curve, end) - curve.iloc[-1]


def value_at(curve: pd.Series, step: float) -> float:
    """Give the value of the last evaluation up to a step; NaN if the run ended before."""
    return curve.loc[:step].iloc[-1] if curve.index[-1] >= step else NAN


def planned_blocks(run: RunConfig, task: str) -> list[tuple[float, float]]:
    """Give the stretches of steps in which a run with an order of tasks trains a task."""
    length = run.steps_per_task
    sequence = run.order * run.cycles
    return [(k * length, (k + 1) * length) for k, each in enumerate(sequence) if each == task]


class References:
    """What a return is compared with: the random policy, and the same network from scratch.

    If the study has runs of the regime ``"scratch"``, only they count as from scratch, since the
    first block of a sequence may have another learning rate or exploration; else that block does.
    Of several such runs the first in the study counts, done or not, so that the reference stays
    the same while others are still to come.

    :param runs: those that have results, by name
    :param random: mean return of the random policy, by task
    :param planned: the runs of the study
    """

    def __init__(
        self, runs: Mapping[str, Run], random: Mapping[str, float], planned: Sequence[RunConfig]
    ) -> None:
        self.random = random
        self._alone: dict[tuple[str, int, str], Run | None] = {}
        alone = [run for run in planned if run.regime == "scratch"]
        for run in alone or planned:
            if run.order and run.architecture.start_from is None:
                key = run.architecture.name, run.seed, run.order[0]
                self._alone.setdefault(key, runs.get(run.name))

    def alone(self, run: Run, task: str, network: str | None = None) -> Run | None:
        """Give the run from scratch on a task, of the same seed and, by default, network."""
        network = network or run.config.architecture.name
        return self._alone.get((network, run.config.seed, task))

    def above_random(self, value: float, scratch: float, task: str) -> float:
        """Divide two returns, both less the random policy's; NaN if the second is not above it."""
        random = self.random[task]
        return (value - random) / (scratch - random) if scratch > random else NAN


Value = Callable[[Run, str, References], float]
#: Says whether a measure is defined for a task of a run.
Defined = Callable[[RunConfig, str], bool]


def is_trained(run: RunConfig, task: str) -> bool:
    """Say whether a run trains a task."""
    return not run.order or task in run.order


def has_an_end(run: RunConfig, task: str) -> bool:
    """Say whether a task counts at a run's end; from scratch, only the trained one does."""
    return is_trained(run, task) or run.regime != "scratch"


def has_a_block(run: RunConfig, task: str) -> bool:
    """Say whether a task has a place in a sequence of tasks."""
    return task in run.order and run.regime != "scratch"


def is_later(run: RunConfig, task: str) -> bool:
    """Say whether a task comes later in a sequence; the first task is its own reference."""
    return task in run.order and run.order[0] != task


def is_as_long_as_scratch(run: RunConfig, task: str) -> bool:
    """Say whether a block, or an interleaved run, has a task for as many steps as from scratch."""
    most = math.ceil(run.n_envs / len(run.games)) * len(run.games) / run.n_envs
    evenly = run.regime == "mtrl" and run.cycles == 1 and most <= MOST_UNEVEN
    return is_trained(run, task) and (bool(run.order) or evenly)


def is_no_opener(run: RunConfig, task: str) -> bool:
    """Say whether :func:`is_as_long_as_scratch` holds and the task doesn't open a sequence."""
    return is_as_long_as_scratch(run, task) and run.order[:1] != (task,)


@dataclass(frozen=True)
class Measure:
    """A measure of runs.

    :param meaning: what readers of a report are told
    :param value: computes it for a run and one of its :meth:`tasks`
    :param defined: says for which tasks of a run it is defined; None: it is of the whole run
    :param unit: ``"return"``: the task's own; ``"success"``: a share of episodes
    """

    meaning: str
    value: Value
    defined: Defined | None = None
    unit: str | None = None

    def tasks(self, run: RunConfig) -> list[str]:
        """List the tasks for which it is defined in a run; :data:`WHOLE` if of the whole run."""
        if self.defined is None:
            return [WHOLE]
        return [task for task in run.games if self.defined(run, task)]


MEASURES: dict[str, Measure] = {}


def measure(defined: Defined | None = None, unit: str | None = None) -> Callable[[Any], Any]:
    """Enter a function into :data:`MEASURES` under its name; its docstring is the meaning.

    :param defined: as in :class:`Measure`
    :param unit: as in :class:`Measure`
    """

    def enter(value: Value) -> Value:
        text = " ".join(str(value.__doc__).split()).removesuffix(".")
        MEASURES[value.__name__] = Measure(text[0].lower() + text[1:], value, defined, unit)
        return value

    return enter


@measure(is_trained, "return")
def block_end(run: Run, task: str, _: References | None = None) -> float:
    """Mean return over the last tenth of the task's last block of training."""
    blocks = run.blocks(task)
    if not blocks:
        return NAN
    start, end = blocks[-1]
    inside = (run.steps > end - 0.1 * (end - start)) & (run.steps <= end)
    return run.returns[task][inside].mean(skipna=False)


@measure(has_an_end, "return")
def final(run: Run, task: str, _: References | None = None) -> float:
    """Mean return at the end of the run."""
    return run.returns[task].iloc[-1]


@measure(has_an_end, "success")
def success(run: Run, task: str, _: References) -> float:
    """Share of episodes that succeed at the end of the run."""
    return run.success[task].iloc[-1]


@measure(is_trained, "return")
def area(run: Run, task: str, _: References) -> float:
    """Mean return while the task is trained."""
    return run.area(run.returns, task)


@measure(is_trained, "success")
def success_area(run: Run, task: str, _: References) -> float:
    """Mean share of successes while the task is trained."""
    return run.area(run.success, task)


def first_area(run: Run | None, task: str) -> float:
    """Mean return in a task's first block; later ones would reward what a network remembers."""
    return NAN if run is None else next(iter(run.areas(run.returns, task)), NAN)


@measure(is_later, "return")
def gain(run: Run, task: str, references: References) -> float:
    """Mean return in the task's first block less the same network's from scratch."""
    return first_area(run, task) - first_area(references.alone(run, task), task)


@measure(is_no_opener)
def plasticity(run: Run, task: str, references: References, network: str | None = None) -> float:
    """Area in the task's first block, or the run where tasks are interleaved, by the same
    network's from scratch, both above the random policy."""
    scratch = first_area(references.alone(run, task, network), task)
    return references.above_random(first_area(run, task), scratch, task)


@measure(is_as_long_as_scratch)
def relative_area(run: Run, task: str, references: References) -> float:
    """The same area by that of `dense` from scratch, both above the random policy."""
    return plasticity(run, task, references, "dense")


@measure(has_a_block, "return")
def forgetting(run: Run, task: str, _: References) -> float:
    """Mean return at the end of the task's last block less that at the end of the run."""
    return run.lost(run.returns, task)


@measure(has_a_block, "success")
def success_forgetting(run: Run, task: str, _: References) -> float:
    """Share of successes at the end of the task's last block less that at the end of the run."""
    return run.lost(run.success, task)


@measure()
def average_performance(run: Run, _: str, references: References) -> float:
    """Mean over tasks of the final return: 0 is random, 1 is `dense` from scratch."""
    shares = []
    for task in run.config.games:
        alone = references.alone(run, task, "dense")
        if alone is None or not has_an_end(run.config, task):
            return NAN
        dense = value_at(alone.returns[task], run.config.steps_per_task)
        shares.append(references.above_random(final(run, task), dense, task))
    return float(np.mean(shares))


def late(run: Run, kind: str) -> float:
    """Mean of a measure that is taken inside the network, over the second half of the run."""
    values = run.inside(kind)
    return values[values.index >= run.steps[-1] / 2].mean()


@measure()
def dormant(run: Run, _: str, __: References) -> float:
    """Share of dormant neurons, mean over layers and the second half of the run."""
    return late(run, "dormant")


@measure()
def inactive(run: Run, _: str, __: References) -> float:
    """Share of neurons that hardly any gradient reached in an update, mean over layers and the
    second half of the run."""
    return late(run, "inactive")


# The table of a study's results.

#: The columns that identify a run, and all columns.
RUN = ["regime", "order", "architecture", "seed"]
COLUMNS = [*RUN, "measure", "task", "step", "value"]
#: The file in a study's folder with its networks' values of the tuned argument.
CHOICES = "tune.json"


@dataclass(frozen=True)
class Results:
    """All that a report is made of.

    :param study: the study
    :param runs: those that are done, and others if the report has their curves
    :param random: the random policy's mean return on each task
    :param table: as the module's docstring says
    :param problems: what readers should know of single runs: run, task, problem and value
    :param arguments: of the algorithm, by network
    :param choices: how values of the tuned argument scored, and which one each network got
    :param said: with which command and versions the study was run last
    :param costs: each network's ``parameters`` and ``flops``, where its runs wrote them down
    """

    study: StudyConfig
    runs: Sequence[Run]
    random: Mapping[str, float]
    table: pd.DataFrame
    problems: Sequence[tuple[str, str, str, Any]] = ()
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def load_results(study: StudyConfig, root: Path, partial: bool = False) -> Results:
    """Read a study's folder.

    :param partial: with the curves of runs that are not done
    :raises ValueError: if no run is done, or a run's folder or ``random.json`` was made by another
        configuration
    """
    jobs = survey(study.runs(), root)
    refuse_changes(jobs)
    wanted = ("done", "interrupted") if partial else ("done",)
    there = [job for job in jobs if job.state.status in wanted]
    # A run that starts anew may hold a file without rows.
    there = [job for job in there if len(job.folder.scores().get("steps", ()))]
    if not there:
        raise ValueError(f"a report needs a run that is done, {root} has none: run the study")
    runs = read_runs(there)
    random = random_means(study, root)
    choices = root / CHOICES
    return Results(
        study,
        runs,
        random,
        as_table(study.runs(), runs, random),
        list(_problems(jobs, runs, random)),
        {job.run.architecture.name: job.folder.config().get("arguments", {}) for job in there},
        read_json(choices) if choices.exists() else {},
        read_json(root / "study.json"),
        {
            job.run.architecture.name: read_json(job.folder.path / "done.json").get("costs", {})
            for job in there
            if job.state.status == "done"
        },
    )


def read_runs(jobs: Sequence[Job]) -> list[Run]:
    """Read what the folders of runs have measured.

    Some environments report success only when there is one. So on a task where any run reports it,
    episodes without a report count as failures.
    """
    runs = [
        Run(job.run, job.folder.scores(), job.folder.diagnostics(), job.state.status == "done")
        for job in jobs
    ]
    successes = [run.scores["successes"] for run in runs]  # (K, N, episodes) each
    of_runs = [np.isfinite(each).any(axis=(0, 2)) for each in successes]
    reported_N = np.any(of_runs, axis=0)
    for each in successes:
        each[:, reported_N] = np.nan_to_num(each[:, reported_N])
    return runs


def complete_table(runs: Sequence[RunConfig]) -> pd.DataFrame:
    """Give a made-up table in which all runs are done, to see what a study will have values of."""
    there = []
    for run in runs:
        steps = np.arange(0, run.total_steps + 1, run.steps_per_task)
        ones = np.ones((len(steps), len(run.games), 1))
        inside = {"steps": steps, "dormant/all": steps, "inactive/all": steps}
        scores = {"steps": steps, "score": ones[:, :, 0], "successes": ones}
        there.append(Run(run, scores, inside))
    return as_table(runs, there, dict.fromkeys(runs[0].games, 0.0))


def key_of(run: RunConfig) -> tuple[str, str, str, int]:
    """Give a run's values in the columns of :data:`RUN`."""
    return run.regime, " ".join(run.order), run.architecture.name, run.seed


def as_table(
    planned: Sequence[RunConfig], runs: Sequence[Run], random: Mapping[str, float]
) -> pd.DataFrame:
    """Measure the runs of a study.

    :param planned: the runs of the study, done or not
    :param runs: those that have results
    :param random: mean return of the random policy, by task
    """
    found = {run.config.name: run for run in runs}
    references = References(found, random, planned)
    rows = [
        (*key_of(run), *value)
        for run in planned
        for value in _values(run, found.get(run.name), references)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64"})
    return table.replace({"value": [np.inf, -np.inf]}, np.nan)


def _values(
    config: RunConfig, run: Run | None, references: References
) -> Iterator[tuple[Any, ...]]:
    """Give measure, task, step and value for all results of a run."""
    for name, measure in MEASURES.items():
        for task in measure.tasks(config):
            value = measure.value(run, task, references) if run and run.is_done else NAN
            yield name, task, None, value
    if run is None:
        return
    curves = {"return": run.returns, "success": run.success}
    curves |= {name: run.inside(name).to_frame(WHOLE) for name in INSIDES}
    for name, curve in curves.items():
        for column, values in curve.dropna(axis=1, how="all").items():
            for step, value in values.items():
                yield name, column, step, value


def _problems(
    jobs: Sequence[Job], runs: Sequence[Run], random: Mapping[str, float]
) -> Iterator[tuple[str, str, str, Any]]:
    """List what readers should know of single runs: the run, the task, the problem, the value."""
    for job in jobs:
        if job.state.status not in ("done", "missing"):
            yield job.run.name, "", job.state.status, job.state.reason
    for run in runs:
        name = run.config.name
        last = run.steps[-1]
        if last < run.config.total_steps:
            yield name, "", "ended early", f"step {last} of {run.config.total_steps}"
        for task in run.config.games:
            end = block_end(run, task)
            odd = ~np.isfinite(run.returns[task])
            if end < random[task]:
                yield name, task, "below the random policy at the end of its training", end
            if odd.any():
                yield name, task, "returns that are not numbers", f"{odd.sum()} of {len(odd)}"


def random_means(study: StudyConfig, root: Path) -> dict[str, float]:
    """Read the random policy's mean return on each task.

    :raises ValueError: if it was not measured, or in other environments
    """
    found = read_json(root / "random.json")
    if found.get("of") != random_of(study):
        raise ValueError("random.json is of other environments: `study run` measures it again")
    return {task: float(np.mean(values)) for task, values in found["returns"].items()}


def random_of(study: StudyConfig) -> dict[str, Any]:
    """Give the settings on which the random policy's returns depend."""
    played = {name: study.to_dict()[name] for name in ("games", "tasks", "env", "no_op_max")}
    masked = predict_takes_masks(algorithm_class(study.algorithm))
    return {**played, "episodes": study.random_episodes, "masked": masked}
