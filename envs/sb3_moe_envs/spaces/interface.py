"""What an agent sees of several tasks: one observation space, one action space, one task id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.spaces.actions import ActionFit, action_mask, pad_actions
from sb3_moe_envs.spaces.observations import ArrayFit, ObservationFit, empty, pad_observations
from sb3_moe_envs.spaces.task_id import ENCODERS

MODES = ("pad", "strict")
INVALID_ACTIONS = ("noop", "modulo", "error")


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
    :raises ValueError: if an argument is unknown or the spaces don't fit
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
        check_options(task_id, obs_space, action_space, invalid_action)
        self.task_spaces = list(observation_spaces)
        common, self._observations = _unify_observations(observation_spaces, names, obs_space)
        self._common = common
        self._encoder = ENCODERS[task_id](common, names)
        self.observation_space = self._encoder.space
        self.action_space, self._actions = _unify_actions(
            action_spaces, names, action_space, invalid_action
        )
        masks = [action_mask(self.action_space, space) for space in action_spaces]
        if masks[0] is None:
            self._masks = None
        else:
            self._masks = np.stack([mask for mask in masks if mask is not None])
            # A mask would tell the tasks apart.
            self._masks |= task_id == "none"

    def encode(self, task: int, obs: Any) -> Any:
        """Turn a task's observation into the common one."""
        return self._encoder.single(self._observations[task].single(obs), task)

    def encode_batch(self, parts: Sequence[tuple[int, Any, Any]], tasks_B: np.ndarray) -> Any:
        """Join batches of observations.

        :param parts: (task, rows, observations of these rows) for all rows
        :param tasks_B: (B,) the task of each row
        """
        if len(parts) == 1 and self._is_same(parts[0][0]):
            return self._encoder.batch(parts[0][2], tasks_B)
        out = empty(self._common, (len(tasks_B),))
        for task, rows, obs in parts:
            self._observations[task].write(out, rows, obs)
        return self._encoder.batch(out, tasks_B)

    def decode(self, task: int, action: Any) -> Any:
        """Turn an action, or a batch of them, of the common space into a task's."""
        return self._actions[task](action)

    def masks(self, tasks: Any) -> np.ndarray:
        """Return which actions are valid in each task of an index or an array of them.

        :raises TypeError: if the action space has no choices to mask
        """
        if self._masks is None:
            raise TypeError(
                f"`action_masks` needs a Discrete or MultiDiscrete (or flat MultiBinary) action "
                f"space, got "
                f"{self.action_space}"
            )
        return self._masks[tasks].copy()

    def pad_mask(self, mask: Any) -> Any:
        """Return a task's own action mask at the length of the common Discrete space."""
        if not isinstance(self.action_space, spaces.Discrete) or np.ndim(mask) != 1:
            return mask
        padded = np.zeros(int(self.action_space.n), np.asarray(mask).dtype)
        padded[: len(mask)] = mask
        return padded

    def _is_same(self, task: int) -> bool:
        fit = self._observations[task]
        return isinstance(fit, ArrayFit) and fit.same


def check_options(task_id: str, obs_space: str, action_space: str, invalid_action: str) -> None:
    """Raise ValueError if an option of an `Interface` is unknown, whatever the spaces are."""
    _require("task_id", task_id, tuple(ENCODERS))
    _require("obs_space", obs_space, MODES)
    _require("action_space", action_space, MODES)
    _require("invalid_action", invalid_action, INVALID_ACTIONS)


def _require(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}")


def _unify_observations(
    task_spaces: Sequence[Space[Any]], names: Sequence[str], mode: str
) -> tuple[Space[Any], list[ObservationFit]]:
    if mode == "strict":
        _require_equal(task_spaces, names, "obs_space")
    return pad_observations(task_spaces, names)


def _unify_actions(
    task_spaces: Sequence[Space[Any]], names: Sequence[str], mode: str, invalid: Any
) -> tuple[Space[Any], list[ActionFit]]:
    if mode == "strict":
        _require_equal(task_spaces, names, "action_space")
    return pad_actions(task_spaces, names, invalid)


def _require_equal(task_spaces: Sequence[Space[Any]], names: Sequence[str], argument: str) -> None:
    for name, space in zip(names, task_spaces, strict=True):
        if space != task_spaces[0]:
            raise ValueError(
                f"`{argument}`='strict' needs equal spaces, got {names[0]!r}: {task_spaces[0]} and "
                f"{name!r}: {space}"
            )
