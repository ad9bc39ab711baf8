"""What is measured of a run, task by task, from its folder alone.

Shapes: K evaluations, N tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sb3_moe import measures as metrics
from sb3_moe.study.config import RunConfig

Array = npt.NDArray[np.float64]
NAN = float("nan")

#: A measure that belongs to the whole run has its value under this name.
WHOLE = "all tasks"

#: What ``diagnostics.npz`` has of layers while a network is trained.
INSIDES = ["dormant", "effective_rank", "stable_rank", "weight_norm", "weight_change"]
INSIDES += ["gradient_norm", "zero_gradients"]

# Where environments can't be dealt out evenly, one task has more steps than its share; with so many
# times its share, at most, it counts as having as many steps as alone.
EVENLY = 1.05


@dataclass(frozen=True)
class Run:
    """A run as its folder has it.

    :param config: what it was
    :param scores: the arrays of ``scores.npz``
    :param diagnostics: the arrays of ``diagnostics.npz``, empty if it has none
    """

    config: RunConfig
    scores: Mapping[str, npt.NDArray[Any]]
    diagnostics: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Global step of each evaluation, (K,)."""
        return self.scores["steps"]

    def returns(self, task: str) -> Array:
        """Mean return of a task at each evaluation, (K,)."""
        return np.asarray(self.scores["score"][:, self.config.games.index(task)], np.float64)

    def success(self, task: str) -> Array:
        """Share of a task's episodes that succeeded at each evaluation, (K,); NaN if unsaid."""
        if "successes" not in self.scores:
            return np.full(len(self.steps), NAN)
        return np.asarray(self.scores["successes"][:, self.config.games.index(task)].mean(axis=1))

    def inside(self, kind: str) -> tuple[npt.NDArray[Any], Array]:
        """Give what was measured of the network, averaged over its layers.

        :param kind: what stands before the layer's name, such as ``"dormant"``
        :return: steps and values where it was measured: callbacks that share the file may measure
            at other steps
        """
        found = self.diagnostics.items()
        layers = [v for name, v in found if name.startswith(f"{kind}/") and v.ndim == 1]
        if not layers:
            return np.zeros(0), np.zeros(0)
        mean = np.mean(layers, axis=0)
        measured = np.isfinite(mean)
        return self.diagnostics["steps"][measured], mean[measured]

    def blocks(self, task: str) -> list[tuple[float, float]]:
        """The stretches of global steps in which a task was trained.

        A schedule's are those that evaluations recorded, since it may choose while it runs.
        """
        if self.config.order:
            return planned_blocks(self.config, task)
        recorded = metrics.blocks_of(self.steps, self.scores.get("trained", self.steps * 0 - 1))
        index = self.config.games.index(task)
        own = [(block.start, block.end) for block in recorded if block.task == index]
        return own if recorded else [(0, self.config.total_steps)]

    def area(self, values: Array, block: tuple[float, float]) -> float:
        """Mean of a value over a block; NaN if the run ended before it, or a value is NaN."""
        if self.steps[-1] < block[1] or not np.isfinite(values).all():
            return NAN
        return float(metrics.area(values[:, None], self.steps, *block)[0])

    def value_at(self, values: Array, step: float) -> float:
        """Value of the last evaluation up to a step; NaN if the run ended before."""
        return float(values[self.steps <= step][-1]) if self.steps[-1] >= step else NAN


def planned_blocks(run: RunConfig, task: str) -> list[tuple[float, float]]:
    """Give the stretches in which a task is trained, of a run that has an order of tasks."""
    length, sequence = run.steps_per_task, run.order * run.cycles
    return [(k * length, (k + 1) * length) for k, each in enumerate(sequence) if each == task]


def openers(runs: Sequence[RunConfig]) -> list[RunConfig]:
    """List the runs whose first block is that of a network from scratch.

    Where the regime ``"scratch"`` has runs they alone count: the first block of a sequence may
    have another learning rate or exploration.
    """
    alone = [run for run in runs if run.regime == "scratch"]
    return [run for run in alone or runs if run.order and run.architecture.start_from is None]


class References:
    """What a return is compared with: the random policy, and the same network from scratch.

    The first of the :func:`openers` counts, done or not, so that it stays the same while others
    are still to come.

    :param runs: that there are, by name
    :param random: mean return of the random policy, by task
    :param planned: the runs of the study
    """

    def __init__(
        self, runs: Mapping[str, Run], random: Mapping[str, float], planned: Sequence[RunConfig]
    ) -> None:
        self.random = random
        self._alone: dict[tuple[str, int, str], Run | None] = {}
        for run in openers(planned):
            key = run.architecture.name, run.seed, run.order[0]
            self._alone.setdefault(key, runs.get(run.name))

    def area(self, network: str, run: Run, task: str) -> float:
        """Area of a task's curve of a network from scratch, of the same seed; NaN if unknown."""
        alone = self._alone.get((network, run.config.seed, task))
        return NAN if alone is None else first_area(alone, task)

    def end(self, network: str, run: Run, task: str) -> float:
        """Return at the end of training a network from scratch, of the same seed."""
        alone = self._alone.get((network, run.config.seed, task))
        if alone is None:
            return NAN
        return alone.value_at(alone.returns(task), run.config.steps_per_task)


# For which tasks of a run a measure is defined.


def is_trained(run: RunConfig, task: str) -> bool:
    """Say whether a run trains a task."""
    return not run.order or task in run.order


def has_an_end(run: RunConfig, task: str) -> bool:
    """Say whether the end of a run counts for a task: alone, only for the one that it trains."""
    return is_trained(run, task) or run.regime != "scratch"


def is_beside_scratch(run: RunConfig, task: str) -> bool:
    """Say whether a stretch of a run has as many steps of a task as its run from scratch."""
    most = math.ceil(run.n_envs / len(run.games)) * len(run.games) / run.n_envs
    evenly = run.regime == "mtrl" and run.cycles == 1 and most <= EVENLY
    return is_trained(run, task) and (bool(run.order) or evenly)


def is_no_opener(run: RunConfig, task: str) -> bool:
    """Leave out the first task of a sequence, which is its own reference."""
    return is_beside_scratch(run, task) and run.order[:1] != (task,)


# What is measured, each of a run and a task, beside what it is compared with. `of` says whether it
# is of returns or of successes.

Of = Callable[[Run, str], Array]


def block_end(run: Run, task: str, _: Any = None) -> float:
    """Mean return of a task over the last tenth of its last block; NaN without a block."""
    blocks = run.blocks(task)
    if not blocks:
        return NAN
    start, end = blocks[-1]
    inside = (run.steps > end - 0.1 * (end - start)) & (run.steps <= end)
    return float(np.mean(run.returns(task)[inside])) if inside.any() else NAN


def final(run: Run, task: str, _: Any = None, of: Of = Run.returns) -> float:
    """Value at the end of the run."""
    return float(of(run, task)[-1])


def area(run: Run, task: str, _: Any = None, of: Of = Run.returns) -> float:
    """Mean value while a task is trained; NaN if it never is."""
    areas = [run.area(of(run, task), block) for block in run.blocks(task)]
    return float(np.mean(areas)) if areas else NAN


def forgetting(run: Run, task: str, _: Any = None, of: Of = Run.returns) -> float:
    """Value at the end of a task's last block less that at the end of the run (2105.10919)."""
    values = of(run, task)
    return run.value_at(values, run.blocks(task)[-1][1]) - float(values[-1])


def first_area(run: Run, task: str) -> float:
    """Mean return in a task's first block: later ones would reward what was kept."""
    blocks = run.blocks(task)
    return run.area(run.returns(task), blocks[0]) if blocks else NAN


def gain(run: Run, task: str, references: References) -> float:
    """Area of a task's first block less the same network's from scratch."""
    return first_area(run, task) - references.area(run.config.architecture.name, run, task)


def relative_area(run: Run, task: str, references: References, of: str | None = None) -> float:
    """Area of a task's first block by that from scratch, both above the random policy.

    :param of: the network from scratch; None: the same
    """
    scratch = references.area(of or run.config.architecture.name, run, task)
    random = references.random.get(task, NAN)
    return _ratio(first_area(run, task) - random, scratch - random)


def _ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN where the reference is no better than random."""
    return numerator / denominator if denominator > 0 else NAN


def average_performance(run: Run, _: str, references: References) -> float:
    """Mean over tasks of the final return, from random (0) to dense from scratch (1)."""
    shares = []
    for task in run.config.games:
        random = references.random.get(task, NAN)
        dense = references.end("dense", run, task)
        end = final(run, task) if has_an_end(run.config, task) else NAN
        shares.append(_ratio(end - random, dense - random))
    return float(np.mean(shares))


def inside(run: Run, *_: Any, kind: str) -> float:
    """Mean of what was measured inside the network over the second half of the run."""
    steps, values = run.inside(kind)
    late = steps >= run.diagnostics["steps"][-1] / 2 if len(steps) else np.zeros(0, bool)
    return float(np.mean(values[late])) if late.any() else NAN


@dataclass(frozen=True)
class Measure:
    """What can be known of a run.

    :param meaning: what readers are told
    :param value: of a run and one of its :meth:`tasks`
    :param defined: for which tasks of a run it is; None: it belongs to the whole run
    :param unit: ``"return"``: the task's own; ``"success"``: a share of episodes
    """

    meaning: str
    value: Callable[[Run, str, References], float]
    defined: Callable[[RunConfig, str], bool] | None = None
    unit: Literal["return", "success"] | None = None

    def tasks(self, run: RunConfig) -> list[str]:
        """List the tasks for which it is defined in a run; of the whole run :data:`WHOLE`."""
        if self.defined is None:
            return [WHOLE]
        return [task for task in run.games if self.defined(run, task)]


_BLOCK = "the task's last block of training"
_SUCCESS = Run.success
MEASURES = {
    "block_end": Measure(
        f"mean return over the last tenth of {_BLOCK}", block_end, is_trained, "return"
    ),
    "final": Measure("mean return at the end of the run", final, has_an_end, "return"),
    "success": Measure(
        "share of episodes that succeed at the end of the run",
        partial(final, of=_SUCCESS),
        has_an_end,
        "success",
    ),
    "area": Measure("mean return while the task is trained", area, is_trained, "return"),
    "success_area": Measure(
        "mean share of successes while the task is trained",
        partial(area, of=_SUCCESS),
        is_trained,
        "success",
    ),
    "gain": Measure(
        "mean return in the task's first block less the same network's from scratch",
        gain,
        lambda run, task: task in run.order and run.order[0] != task,
        "return",
    ),
    "plasticity": Measure(
        "area in the task's first block, or the run where tasks are interleaved, by the same "
        "network's from scratch, both above the random policy",
        relative_area,
        is_no_opener,
    ),
    "relative_area": Measure(
        "the same area by that of `dense` from scratch, both above the random policy",
        partial(relative_area, of="dense"),
        is_beside_scratch,
    ),
    "forgetting": Measure(
        f"mean return at the end of {_BLOCK} less that at the end of the run",
        forgetting,
        lambda run, task: task in run.order,
        "return",
    ),
    "success_forgetting": Measure(
        f"share of successes at the end of {_BLOCK} less that at the end of the run",
        partial(forgetting, of=_SUCCESS),
        lambda run, task: task in run.order,
        "success",
    ),
    "average_performance": Measure(
        "mean over tasks of the final return: 0 is random, 1 is `dense` from scratch",
        average_performance,
    ),
    "dormant": Measure(
        "share of dormant neurons, mean over layers and the second half of the run",
        partial(inside, kind="dormant"),
    ),
    "inactive": Measure(
        "share of neurons that hardly any gradient reached in an update, likewise",
        partial(inside, kind="inactive"),
    ),
}
