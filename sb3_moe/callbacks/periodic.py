"""What callbacks share: when they act, what a model remembers for them, and what they log."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EventCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.layers.checks import number
from sb3_moe.saving.files import Record
from sb3_moe.vec_env.make import are_interleaved
from sb3_moe.vec_env.tasks import TASK, only_task, require_tasks, short_names, task_names

# The most rows that one callback adds to SB3's printed table.
ROWS = 5


class CheckedCallback(EventCallback):
    """A callback that checks before training whether a model has what it needs.

    :param verbose: 0 or 1
    """

    def __init__(self, verbose: int = 0) -> None:
        super().__init__(verbose=verbose)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the model has what this callback needs."""

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check the model, and read the tasks' names."""
        self.check_model(model)
        before = [vars(self).get(name) for name in ("model", "task_names")]
        super().init_callback(model)
        self.task_names = task_names(self.training_env)
        #: whether this call of `learn` goes on with the one before, in which this callback was too
        self.goes_on = before == [model, self.task_names] and model.num_timesteps > 0

    def say(self, text: str) -> None:
        """Print something, if ``verbose`` asks for it."""
        if self.verbose:
            print(text)

    def log_scalars(self, kinds: Mapping[str, Mapping[str, float]], length: int = TASK) -> None:
        """Record values of several kinds in SB3's logger, without those that are NaN.

        Only the first kind with at most ``ROWS`` values is printed; other outputs get all kinds.

        :param kinds: for each kind's key, such as ``"plasticity/dormant/{}"``, its values by what
            takes the place of ``{}``, such as a layer's name
        :param length: the most characters of a name that takes that place; longer ones are cut
        """
        names = list(dict.fromkeys(name for values in kinds.values() for name in values))
        places = dict(zip(names, short_names(names, length), strict=True))
        shown = next((key for key, values in kinds.items() if 0 < len(values) <= ROWS), None)
        for key, values in kinds.items():
            for name, value in values.items():
                if not math.isnan(value):
                    exclude = None if key == shown else ("stdout", "log")
                    self.logger.record(key.format(places[name]), value, exclude=exclude)

    def log_by_task(self, kinds: Mapping[str, Iterable[float]], length: int = TASK) -> None:
        """Record values of several kinds, one for each task, as :meth:`log_scalars` does."""
        by_task = {k: dict(zip(self.task_names, v, strict=True)) for k, v in kinds.items()}
        self.log_scalars(by_task, length)


class PeriodicCallback(CheckedCallback):
    """Act before the first rollout, then after every ``every`` global steps, and at the end.

    It acts at the start of a rollout, where the policy has learned from all steps so far. Global
    steps are counted over all parallel environments.

    :param every: global steps between actions, at least 1
    :param verbose: 0 or 1
    :raises TypeError: if ``every`` is no number
    :raises ValueError: if ``every`` is below 1, or NaN
    """

    def __init__(self, every: int, *, verbose: int = 0) -> None:
        super().__init__(verbose)
        if not number("every", every) >= 1:
            raise ValueError(f"`every` must be at least 1 global step, got {every}")
        self.every = every
        self._last: int | None = None
        self._continue = True

    @abstractmethod
    def act(self, step: int) -> bool | None:
        """Do the work of this callback.

        :param step: global steps so far
        :return: False to end the training
        """

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._last = self._resume(self.model.num_timesteps)
        self._continue = True

    def _resume(self, step: int) -> int | None:
        """Return the latest step at which this callback acted, in a run that stands at ``step``."""
        return self._last if self.goes_on else None

    def _on_rollout_start(self) -> None:
        if self._is_due(self.model.num_timesteps):
            self._do(self.model.num_timesteps)

    def _is_due(self, step: int) -> bool:
        return self._last is None or step // self.every > self._last // self.every

    def _on_training_end(self) -> None:
        if self._last != self.model.num_timesteps:
            self._do(self.model.num_timesteps)

    def _do(self, step: int) -> None:
        self._last = step
        self._continue = self.act(step) is not False and self._continue
        self._continue = self._on_event() and self._continue

    def _on_step(self) -> bool:
        return self._continue


class RecordingCallback(PeriodicCallback):
    """Measure periodically, and keep the measurements in memory or in a file.

    :cvar file: the file's name
    :cvar own: how measures begin that no other callback writes into the file
    :param log_path: folder for the file; None: none is written
    """

    file: ClassVar[str] = "diagnostics.npz"
    own: ClassVar[str] = ""

    def __init__(
        self,
        every: int,
        *,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        self.log_path = None if log_path is None else Path(log_path) / self.file

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Begin a record, or go on with the one in memory or in the file."""
        super().init_callback(model)
        if not self.goes_on or self.log_path is not None:
            self.record = Record(self.log_path, {"task_names": np.array(self.task_names)})

    @property
    def diagnostics(self) -> dict[str, np.ndarray]:
        """The recorded arrays, as of this callback's last row; others may add to the file later."""
        return {**self.record.constants, **self.record.rows}

    def _resume(self, step: int) -> int | None:
        self.record.resume(step)
        rows = self.record.rows
        # Other callbacks write rows of the same file.
        own = [values for name, values in rows.items() if name.startswith(self.own)]
        there = [np.isfinite(each).any(axis=tuple(range(1, each.ndim))) for each in own]
        return max((int(step) for each in there for step in rows["steps"][each]), default=None)


class CurrentTask:
    """Track which task all parallel environments play.

    :param env: the training environment
    :param required: whether the environment must have tasks, and tasks that end: it warns if they
        are interleaved
    :raises ValueError: if tasks are required, and there are none
    """

    def __init__(self, env: VecEnv, *, required: bool = True) -> None:
        if required:
            require_tasks(env)
        self.names = task_names(env)
        self.are_mixed = are_interleaved(env)
        if required and self.are_mixed:
            warnings.warn(
                "tasks are interleaved, so none ever ends: what a callback does at a task's end "
                "is never done",
                stacklevel=2,
            )
        self._env = env

    def number(self) -> int | None:
        """Return the number of the task that all environments play; None if tasks are mixed."""
        return None if self.are_mixed else only_task(self._env)

    def ended(self, kept: dict[str, Any]) -> str | None:
        """Return the name of the task that has ended since the last call; None if none has.

        :param kept: holds the current task's name under ``"task"``, and is updated in place
        """
        before = kept.get("task")
        number = self.number()
        if number is None:
            return None
        kept["task"] = self.names[number]
        return None if before == kept["task"] else before


def remembered(model: BaseAlgorithm, name: str, part: str | None = None) -> dict[str, Any]:
    """Return a dict that is kept as an attribute of a model, and so in all files of the model.

    A run that starts at step 0 empties it.

    :param model: the model in training
    :param name: name of the attribute
    :param part: key of one callback's own dict, where several callbacks share the attribute; None:
        the whole attribute
    """
    kept = vars(model).setdefault(name, {})
    if part is not None:
        kept = kept.setdefault(part, {})
    if model.num_timesteps == 0:
        kept.clear()
    return kept


def same_training(model: BaseAlgorithm) -> Callable[[], bool]:
    """Return a function that says whether the current ``learn`` is still the model's latest.

    SB3 doesn't tell callbacks when an error ends ``learn``, and the next one may be without them.

    :param model: the model in training
    """
    began = model.start_time
    return lambda: model.start_time == began


def refuse_trpo(model: BaseAlgorithm, of: str) -> None:
    """Raise for TRPO, which moves its actor without ``backward`` and without the optimizer.

    :param model: of any algorithm
    :param of: what can't work with TRPO
    :raises ValueError: if the algorithm is TRPO, naming ``of``
    """
    # Compare the class's name, because sb3_contrib need not be installed.
    if any(each.__name__ == "TRPO" for each in type(model).__mro__):
        raise ValueError(f"{of} can't be used with TRPO, whose actor learns without the optimizer")
