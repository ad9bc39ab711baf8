"""One copy of a vector world as an ordinary environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv


class SingleCopyEnv(gym.Env[np.ndarray, np.int64]):
    """The only copy of a vector world with SAME_STEP autoreset, stepped and reset by hand.

    The world starts the next episode by itself, and the next reset hands over its start: so this
    plays, for a seed, what the world's copy plays.

    :param world: of one copy, with ``draw(observation)`` for pictures
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, world: VectorEnv[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._world: Any = world
        self.render_mode = world.render_mode
        self.observation_space = world.single_observation_space
        self.action_space = world.single_action_space
        self._observation: np.ndarray | None = None
        self._next_start: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; after a finished one, without a seed, the one that comes next."""
        super().reset(seed=seed)
        if seed is None and self._observation is None:
            seed = int(self.np_random.integers(2**31))
        if seed is None and self._next_start is not None:
            observation = self._next_start
        else:
            observation = self._world.reset(seed=seed)[0][0]
        self._observation, self._next_start = observation, None
        return observation, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one action."""
        if self._next_start is not None:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        observations, rewards, terminated, truncated, infos = self._world.step(np.array([action]))
        observation, info = observations[0], {}
        if "final_obs" in infos:
            self._next_start, observation = observation, infos["final_obs"][0]
            info = {k: v[0] for k, v in infos["final_info"].items() if not k.startswith("_")}
        self._observation = observation
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """Return the latest observation as a picture, uint8 of shape (height, width, 3)."""
        if self.render_mode is None or self._observation is None:
            return None
        picture: np.ndarray = self._world.draw(self._observation)
        return picture

    def close(self) -> None:
        """Close the world."""
        self._world.close()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, as numpy arrays and plain values.

        :raises AttributeError: if the world has no state to give
        """
        return {
            "world": self._world.state_dict(),
            "observation": self._observation,
            "next_start": self._next_start,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        :param state: taken from an environment of the same world
        """
        self._world.load_state_dict(state["world"])
        self._observation, self._next_start = state["observation"], state["next_start"]
        self.np_random.bit_generator.state = state["np_random"]
