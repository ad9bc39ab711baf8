"""Many environments of one kind that step together, and one of them as an ordinary environment."""

from abc import abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_moe_envs.checks import EnvStep, Options, ResetResult, StepResult, whole

# Tableau's ten colors, then as many lighter ones.
PALETTE = np.frombuffer(
    bytes.fromhex(
        "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf"
        "aec7e8 ffbb78 98df8a ff9896 c5b0d5 c49c94 f7b6d2 c7c7c7 dbdb8d 9edae5"
    ),
    np.uint8,
).reshape(-1, 3)
CELL = 16


def color_channels(observation: np.ndarray) -> np.ndarray:
    """Draw each channel's non-zero cells in a color of its own, on black.

    :param observation: (H, W, C), as in MinAtar; a cell has the color of its first non-zero channel
    :return: (16 H, 16 W, 3), uint8
    """
    height, width, channels = observation.shape
    image = np.zeros((height, width, 3), np.uint8)
    for channel in reversed(range(channels)):
        image[observation[:, :, channel] != 0] = PALETTE[channel % len(PALETTE)]
    return image.repeat(CELL, axis=0).repeat(CELL, axis=1)


class BatchedVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Base of vector environments with SAME_STEP autoreset whose step can run in the background.

    :param num_envs: how many, at least 1
    :param render_mode: None or ``"rgb_array"``
    :param render_fps: images per second
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, num_envs: int, render_mode: str | None, render_fps: int) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array', got {render_mode!r}")
        self.num_envs = whole("num_envs", num_envs)
        self.render_mode = render_mode
        self._observations: Any = None
        # A dict of our own, because ale-py writes into the one that all vector environments share.
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": render_fps,
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every environment with its action.

        :param actions: of shape (num_envs, ...)
        """
        self.step_async(actions)
        return self.step_wait()

    @abstractmethod
    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step, so that several vector environments can run at once."""

    @abstractmethod
    def step_wait(self) -> StepResult:
        """Wait for the step that :meth:`step_async` began."""

    def _require_reset(self) -> None:
        if self._observations is None:
            name = type(self).__name__
            raise gym.error.ResetNeeded(f"call reset() on {name} before anything else")

    @staticmethod
    def draw(observation: np.ndarray) -> np.ndarray:
        """Return one observation as an image, uint8 of shape (height, width, 3)."""
        return color_channels(observation)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one image for each environment."""
        if self.render_mode is None:
            return None
        self._require_reset()
        # Some pad their environments.
        return tuple(map(self.draw, np.asarray(self._observations)[: self.num_envs]))

    def _set_spaces(self, observation_space: Space, action_space: Space) -> None:
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)

    def _choices(self, actions: Any) -> np.ndarray:
        """Check actions of a Discrete space that starts at 0; return them as int64, (num_envs,).

        :raises ValueError: if the shape is wrong, or an action isn't whole or is out of range
        """
        actions = np.asarray(actions)
        space = self.single_action_space
        if actions.shape != (self.num_envs,):
            raise ValueError(f"actions must have shape ({self.num_envs},), got {actions.shape}")
        assert isinstance(space, spaces.Discrete)
        with np.errstate(invalid="ignore"):  # the comparison below refuses NaN
            chosen = actions.astype(np.int64)
        if chosen.min() < 0 or chosen.max() >= space.n or (chosen != actions).any():
            raise ValueError(f"actions must be in [0, {int(space.n)}), got {actions}")
        return chosen


class SingleEnv(gym.Env[np.ndarray, np.int64]):
    """An ordinary environment, made from a vector environment of size 1 with SAME_STEP autoreset.

    The vector environment starts the next episode by itself, and :meth:`reset` then returns that
    episode's first observation. So with the same seed both play the same.

    :param vector: with ``num_envs=1``; its ``draw(observation)`` makes the images
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, vector: VectorEnv[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._vector: Any = vector
        self.render_mode = vector.render_mode
        self.metadata = self.metadata | {"render_fps": vector.metadata["render_fps"]}
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space
        self._observation: np.ndarray | None = None
        self._next_start: np.ndarray | None = None

    def reset(self, *, seed: int | None = None, options: Options = None) -> ResetResult:
        """Start an episode.

        After a finished one and without a seed, it is the one that the vector environment has
        already started.
        """
        super().reset(seed=seed)
        if seed is None and self._observation is None:
            seed = int(self.np_random.integers(2**31))
        if seed is None and self._next_start is not None:
            observation = self._next_start
        else:
            observation = self._vector.reset(seed=seed)[0][0]
        self._observation = observation
        self._next_start = None
        return observation, {}

    def step(self, action: Any) -> EnvStep:
        """Take one action."""
        if self._next_start is not None:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        observations, rewards, terminated, truncated, infos = self._vector.step(np.array([action]))
        observation = observations[0]
        if "final_obs" in infos:
            self._next_start = observation
            observation = infos["final_obs"][0]
            infos = infos["final_info"]
        info = {key: each[0] for key, each in infos.items() if not key.startswith("_")}
        self._observation = observation
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """Return the latest observation as an image, uint8 of shape (height, width, 3)."""
        if self.render_mode is None:
            return None
        return self._vector.draw(self._observation)

    def close(self) -> None:
        """Close the vector environment."""
        self._vector.close()
