"""What an agent sees of several tasks: one observation space, one action space, one task id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.actions import TaskMasks, pad_actions
from sb3_moe_envs.spaces.observations import empty, pad_observations, row_of
from sb3_moe_envs.spaces.task_id import ENCODERS

OPTIONS = {
    "task_id": tuple(ENCODERS),
    "obs_space": ("pad", "strict"),
    "action_space": ("pad", "strict"),
    "invalid_action": ("noop", "modulo", "error"),
}


class Interface:
    """Translate between the common spaces and each task's own.

    :param observation_spaces: one per task
    :param action_spaces: one per task
    :param names: the tasks' names
    :param task_id: `"dict"`, `"onehot"`, `"channels"`, `"info"` or `"none"`
    :param obs_space: `"pad"` to a common space, or `"strict"`: they must be equal
    :param action_space: as `obs_space`
    :param invalid_action: what an action that the task lacks does: `"noop"` (the task's first
        action), `"modulo"` (wraps around) or `"error"`
    :raises ValueError: if the spaces don't fit
    """

    def __init__(
        self,
        observation_spaces: Sequence[Space[Any]],
        action_spaces: Sequence[Space[Any]],
        names: Sequence[str],
        *,
        task_id: str = "dict",
        obs_space: str = "pad",
        action_space: str = "pad",
        invalid_action: str = "noop",
    ) -> None:
        self.task_spaces = list(observation_spaces)
        if obs_space == "strict":
            _require_equal(observation_spaces, names, "obs_space")
        self._common, self._observations = pad_observations(observation_spaces, names)
        self._encoder = ENCODERS[task_id](self._common, names)
        self.observation_space = self._encoder.space
        if action_space == "strict":
            _require_equal(action_spaces, names, "action_space")
        self.action_space, self._actions = pad_actions(action_spaces, names, invalid_action)
        self.masks = TaskMasks(
            self.action_space, action_spaces, invalid_action, hidden=task_id == "none"
        )

    def encode(self, task: int, obs: Any) -> Any:
        """Turn a task's observation into the common one."""
        fit = self._observations[task]
        if not fit.same:
            out = empty(self._common, 1)
            fit.write(out, 0, obs)
            obs = row_of(out, 0)
        return self._encoder.add_id(obs, np.int64(task))

    def encode_batch(self, parts: Sequence[tuple[int, Any, Any]], tasks_B: np.ndarray) -> Any:
        """Join batches of observations.

        :param parts: (task, rows, observations of these rows) for all rows
        :param tasks_B: (B,) the task of each row
        """
        task, _, out = parts[0]
        if len(parts) > 1 or not self._observations[task].same:
            out = empty(self._common, len(tasks_B))
            for task, rows, obs in parts:
                self._observations[task].write(out, rows, obs)
        return self._encoder.add_id(out, tasks_B.copy())

    def decode(self, task: int, action: Any) -> Any:
        """Turn an action, or a batch of them, of the common space into a task's."""
        return self._actions[task](action)

    def pad_mask(self, mask: Any) -> Any:
        """Return a task's own action mask at the length of the common Discrete space."""
        if not isinstance(self.action_space, spaces.Discrete) or np.ndim(mask) != 1:
            return mask
        padded = np.zeros(int(self.action_space.n), np.asarray(mask).dtype)
        padded[: len(mask)] = mask
        return padded


def check_options(options: dict[str, str]) -> None:
    """Raise if an option of :class:`Interface` is unknown, whatever the spaces are."""
    for name, value in options.items():
        if name not in OPTIONS:
            raise TypeError(f"unexpected argument {name!r}, which is none of {list(OPTIONS)}")
        if value not in OPTIONS[name]:
            raise ValueError(f"`{name}` must be one of {list(OPTIONS[name])}, got {value!r}")


def _require_equal(task_spaces: Sequence[Space[Any]], names: Sequence[str], argument: str) -> None:
    for name, space in zip(names, task_spaces, strict=True):
        if space != task_spaces[0]:
            raise ValueError(
                f"`{argument}`='strict' needs equal spaces, got {names[0]!r}: {task_spaces[0]} and "
                f"{name!r}: {space}; 'pad' joins spaces that differ"
            )
