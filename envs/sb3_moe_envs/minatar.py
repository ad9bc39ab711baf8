"""MinAtar's five games, from gymnax: one environment, or many copies in one compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_moe_envs.vector.channels import colour_channels
from sb3_moe_envs.vector.gymnax import GymnaxVectorEnv

GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


class MinAtarVectorEnv(GymnaxVectorEnv):
    """Copies of one MinAtar game that step together.

    :param game: one of :data:`GAMES`
    :param num_envs: how many copies, at least 1
    :param kwargs: as of :class:`~sb3_moe_envs.vector.gymnax.GymnaxVectorEnv`
    :raises ValueError: if the game is unknown
    """

    def __init__(self, game: str, num_envs: int = 1, **kwargs: Any) -> None:
        if game not in GAMES:
            raise ValueError(f"`game` must be one of {GAMES}, got {game!r}")
        self.game = game
        super().__init__(f"{game}-MinAtar", num_envs, **kwargs)


class MinAtarEnv(gym.Env[np.ndarray, np.int64]):
    """One MinAtar game; an observation is (10, 10, channels) zeros and ones, uint8.

    :param game: one of :data:`GAMES`
    :param render_mode: None or ``"rgb_array"``
    :param use_minimal_action_set: the game's own actions in place of all six
    :param params: gymnax parameters to change, such as ``{"max_steps_in_episode": 500}``
    :raises ValueError: if an argument is unknown
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        render_mode: str | None = None,
        use_minimal_action_set: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self._world = MinAtarVectorEnv(
            game,
            render_mode=render_mode,
            use_minimal_action_set=use_minimal_action_set,
            params=params,
        )
        self.game = game
        self.render_mode = render_mode
        self.observation_space = self._world.single_observation_space
        self.action_space = self._world.single_action_space
        self._observation: np.ndarray | None = None
        # The world starts the next episode by itself; the next reset hands its start over.
        self._next_start: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; after a finished one, without a seed, the one the seed has next."""
        super().reset(seed=seed)
        if seed is None and self._observation is None:
            seed = int(self.np_random.integers(2**31))
        if seed is None and self._next_start is not None:
            self._observation = self._next_start
        else:
            self._observation = self._world.reset(seed=seed)[0][0]
        self._next_start = None
        return self._observation, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one of the actions (nothing, left, up, right, down, fire)."""
        if self._next_start is not None:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        observations, rewards, terminated, truncated, infos = self._world.step(np.array([action]))
        self._observation = observations[0]
        if "final_obs" in infos:
            self._next_start, self._observation = observations[0], infos["final_obs"][0]
        return self._observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """Return the game as a picture of shape (160, 160, 3), uint8."""
        if self.render_mode is None or self._observation is None:
            return None
        return colour_channels(self._observation)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, as numpy arrays and plain values."""
        return {
            "world": self._world.state_dict(),
            "observation": self._observation,
            "next_start": self._next_start,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        :param state: taken from the same game
        """
        self._world.load_state_dict(state["world"])
        self._observation, self._next_start = state["observation"], state["next_start"]
        self.np_random.bit_generator.state = state["np_random"]
