"""What the vector worlds share: copies of one game that start again in the same step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_moe_envs.numbers import whole

StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorWorld(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Copies of one game with SAME_STEP autoreset, whose step can run in the background.

    :param num_envs: how many copies, at least 1
    :param render_mode: None or ``"rgb_array"``
    :param render_fps: pictures a second
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, num_envs: int, render_mode: str | None, render_fps: int) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array', got {render_mode!r}")
        self.num_envs = whole("num_envs", num_envs)
        self.render_mode = render_mode
        # ale-py writes into a dict that all vector environments share; this one is our own.
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": render_fps,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every copy with its action.

        :param actions: of shape (num_envs, ...)
        """
        self.step_async(actions)
        return self.step_wait()

    @abstractmethod
    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step, so that several worlds can run at once."""

    @abstractmethod
    def step_wait(self) -> StepResult:
        """Wait for the step that :meth:`step_async` began."""

    @property
    @abstractmethod
    def observations(self) -> np.ndarray:
        """The latest observation of each copy, as reset or step returned it."""

    @staticmethod
    @abstractmethod
    def draw(observation: np.ndarray) -> np.ndarray:
        """Return one observation as a picture, uint8 of shape (height, width, 3)."""

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one picture a copy."""
        if self.render_mode is None:
            return None
        return tuple(self.draw(observation) for observation in self.observations)

    def _set_spaces(self, observation_space: Space[Any], action_space: Space[Any]) -> None:
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)

    def _choices(self, actions: Any) -> np.ndarray:
        """Return the copies' choices as int64, having looked that there are such.

        :param actions: of a Discrete space from 0 on, (num_envs,)
        :raises ValueError: if the shape is another, or one is no whole number or out of range
        """
        actions, space = np.asarray(actions), self.single_action_space
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), got {actions.shape}")
        assert isinstance(space, spaces.Discrete)
        size = int(space.n)
        if actions.dtype.kind in "iub":
            fits = actions.min() >= 0 and actions.max() < size
        else:
            fits = np.isin(actions, np.arange(size)).all()
        if not fits:
            raise ValueError(f"actions must be in [0, {size}), got {actions}")
        return actions.astype(np.int64)

    def _reset_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        """Return which copies a reset starts anew: those of ``options["reset_mask"]``, or all."""
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ValueError(
                f"`reset_mask` must be a bool array of shape ({self.num_envs},), "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        return mask

    def _seed_of_each(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """Return a seed for each copy: ``seed + i``, the given ones, or none."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"`seed` must hold num_envs={self.num_envs} seeds, got {len(seed)}")
        return list(seed)

    def _final_infos(
        self, last: dict[int, np.ndarray], final_info: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the infos of a step in which episodes ended.

        :param last: the last observation by index of the copy whose episode ended
        :param final_info: arrays with a row for each copy, of which those that ended count
        """
        done = np.zeros(self.num_envs, dtype=bool)
        final_obs = np.empty(self.num_envs, dtype=object)  # of None
        for i, observation in last.items():
            final_obs[i], done[i] = observation, True
        masks = {f"_{key}": done.copy() for key in final_info}
        return {
            "final_obs": final_obs,
            "_final_obs": done,
            "final_info": final_info | masks,
            "_final_info": done.copy(),
        }


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeat the last row of an array up to a size: what is added does what the last copy does."""
    missing = size - len(rows)
    return rows if missing == 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
