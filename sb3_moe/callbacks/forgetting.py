"""Known remedies for forgetting: weights are drawn back to where they were when a task ended."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.callbacks.weight_penalties import Pull, WeightPenaltyCallback
from sb3_moe.layers.checks import not_negative, whole
from sb3_moe.measures.gradients import fisher_information
from sb3_moe.vec_env.kept_rows import RecentRows
from sb3_moe.vec_env.make import are_interleaved
from sb3_moe.vec_env.tasks import name_of, only_task, require_tasks, task_names, tasks_stepped

# By the name of the parameter.
Arrays = dict[str, npt.NDArray[Any]]
_OBS = "obs/"


class AnchorCallback(WeightPenaltyCallback):
    """Add a penalty on how far weights have gone since the last task ended.

    It is added to the gradients by hooks, while the algorithm updates and before ``max_grad_norm``
    clips them, as if it stood in the algorithm's loss. Nothing happens in the first task, nor
    where tasks are interleaved. It logs ``continual/penalty/<name>``. What a resumed run must know
    is kept in ``model.anchors``, which SB3 saves; a run that starts at step 0 forgets it.

    :cvar key: how the log and the model call it
    :param coef: of the penalty, at least 0
    :param verbose: 1 prints the end of each task
    :raises ValueError: if ``coef`` is out of range
    """

    room: ClassVar[str] = "continual"

    @abstractmethod
    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return how strongly each weight is drawn back from now on, by the parameter's name.

        :param task: the name of the one that has just ended
        :param before: what this returned for the task before; empty at first
        """

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there are tasks, and a loss whose gradients can be added to."""
        super().init_callback(model)
        require_tasks(self.training_env)
        self.task_names = task_names(self.training_env)
        self._interleaved = are_interleaved(self.training_env)

    def _on_training_start(self) -> None:
        """Go on from what the model remembers, unless its run starts anew."""
        super()._on_training_start()
        # Others may keep theirs beside it.
        anchors = vars(self.model).setdefault("anchors", {})
        if self.model.num_timesteps == 0:
            anchors.pop(self.key, None)
        fresh: dict[str, Any] = {"task": None, "weights": {}, "strengths": {}, "rows": {}}
        self.kept: dict[str, Any] = anchors.setdefault(self.key, fresh)
        self.kept["task"] = name_of(self.kept["task"], self.task_names)

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        task = None if self._interleaved else only_task(self.training_env)
        if task is None:
            return
        before, self.kept["task"] = self.kept["task"], self.task_names[task]
        if before is not None and self.kept["task"] != before:
            self._end(before)

    def _end(self, task: str) -> None:
        if self.verbose:
            print(f"Task {task} ended at {self.model.num_timesteps} steps")
        self.kept["strengths"] = self.strengths(task, self.kept["strengths"])
        self.kept["weights"] = {
            name: each.detach().cpu().numpy().copy() for name, each in self.parameters().items()
        }
        self._pulls = None

    def pulls(self) -> Iterator[Pull]:
        """Yield the weights of the last task's end."""
        weights, strengths = self.kept["weights"], self.kept["strengths"]
        for name, parameter in self.parameters().items():
            if name in weights and name in strengths:
                anchor, strength = (
                    th.as_tensor(grown(kept[name], tuple(parameter.shape), name)).to(parameter)
                    for kept in (weights, strengths)
                )
                yield Pull(parameter, anchor, strength)


class L2AnchorCallback(AnchorCallback):
    """Draw all weights alike towards those with which the last task ended.

    The penalty is ``coef / 2`` times the squared distance: the plain baseline of Kirkpatrick et
    al. 2017 (arXiv 1612.00796), who draw towards one task too.

    :param coef: at least 0
    :param verbose: 1 prints the end of each task
    :raises ValueError: if ``coef`` is out of range
    """

    key: ClassVar[str] = "l2"

    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return 1 for every weight."""
        named = self.parameters().items()
        return {name: np.ones(each.shape, np.float32) for name, each in named}


class EWCCallback(AnchorCallback):
    """Draw weights back by how much what was learned depends on them (arXiv 1612.00796).

    The penalty is ``coef / 2`` times the sum of F (weight - weight at the last task's end)^2. F is
    the diagonal of the Fisher information: the mean over the finished task's last rows of the
    squared gradient of the log-probability of the action taken, where an algorithm has one, and
    of each critic's value of it (DQN's network, SAC's critics; a PPO's value network has none and
    goes where it likes). Over tasks F is summed, and all are drawn to the last weights, as
    in online EWC (arXiv 1805.06370, section 3.1, with ``decay`` for its gamma) and as Continual
    World does (arXiv 2105.10919): a task that comes back counts again.

    :param coef: at least 0
    :param rows: observations and actions of the finished task to judge by, at most
    :param decay: what an older F counts after each task, in [0, 1]
    :param verbose: 1 prints the end of each task
    :raises ValueError: if a number is out of range
    """

    key: ClassVar[str] = "ewc"

    def __init__(
        self, coef: float, *, rows: int = 256, decay: float = 1.0, verbose: int = 0
    ) -> None:
        super().__init__(coef, verbose=verbose)
        whole("rows", rows)
        not_negative("decay", decay)
        if decay > 1:
            raise ValueError(f"`decay` must be in [0, 1], got {decay}")
        self.rows = rows
        self.decay = decay

    def _on_step(self) -> bool:
        if self._interleaved:
            return True
        obs: Any = self.model._last_obs  # SB3 replaces it after this
        # An actor's are scaled before an off-policy algorithm keeps them.
        actions = self.locals.get("buffer_actions", self.locals["actions"])
        tasks_n = np.array(tasks_stepped(self.locals["infos"], self.task_names), dtype=np.int64)
        named = obs if isinstance(obs, Mapping) else {"": obs}
        columns = {f"{_OBS}{name}": np.asarray(column) for name, column in named.items()}
        columns["actions"] = actions
        step = self.num_timesteps // self.training_env.num_envs
        # The next task has begun before this one is known to be over: at the next rollout's start.
        for task in np.unique(tasks_n).tolist():
            mine = {name: column[tasks_n == task] for name, column in columns.items()}
            self._recent(self.task_names[task]).add(step, mine)
        return True

    def _recent(self, task: str) -> RecentRows:
        return RecentRows(self.rows, self.kept["rows"].setdefault(task, {}))

    def _end(self, task: str) -> None:
        super()._end(task)
        rows, now = self.kept["rows"], self.kept["task"]
        self.kept["rows"] = {now: rows[now]} if now in rows else {}

    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return the Fisher information of all tasks so far."""
        columns = self._recent(task).latest()
        if not columns:
            return before
        actions = columns.pop("actions")
        obs: Any = {name.removeprefix(_OBS): column for name, column in columns.items()}
        obs = obs.get("", obs)
        found = fisher_information(self.model.policy, obs, actions, self.parameters())
        for name, older in before.items():
            if name in found:
                found[name] += self.decay * grown(older, found[name].shape, name)
        return found


def grown(array: npt.NDArray[Any], shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    """Return an array in a shape that may have grown, with zeros for what is new.

    :param array: of a parameter
    :param shape: the parameter's own now
    :param name: of the parameter
    :raises ValueError: if the parameter has shrunk
    """
    if array.shape == shape:
        return array
    if array.ndim != len(shape) or any(a > b for a, b in zip(array.shape, shape, strict=True)):
        raise ValueError(
            f"`{name}` must keep at least the shape {array.shape} that it had when a task ended, "
            f"got {shape}"
        )
    return np.pad(array, [(0, b - a) for a, b in zip(array.shape, shape, strict=True)])
