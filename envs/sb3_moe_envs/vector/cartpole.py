"""Gymnasium's CartPole, many environments in one step of numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import seeding

from sb3_moe_envs.checks import Options, ResetResult, Seed, StepResult, require_extra, seed_of_each
from sb3_moe_envs.vector.batched import BatchedVectorEnv
from sb3_moe_envs.vector.infos import stack_final

#: where `CartPole-v1` is truncated
MAX_STEPS = 500


class CartPoleVectorEnv(BatchedVectorEnv):
    """Environments of `CartPole-v1` with SAME_STEP autoreset, each with its own random stream.

    Seeded ``s``, environment ``i`` plays what a lone `CartPole-v1` seeded ``s + i`` does.

    :param num_envs: how many, at least 1
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, num_envs: int = 1, *, render_mode: str | None = None) -> None:
        super().__init__(num_envs, render_mode, CartPoleEnv.metadata["render_fps"])
        # Whose constants and spaces these are.
        self._pole = CartPoleEnv()
        self._set_spaces(self._pole.observation_space, self._pole.action_space)
        self._random: list[np.random.Generator] = []
        self._states = np.zeros((4, self.num_envs))
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._actions = np.zeros(self.num_envs, dtype=np.int64)

    @property
    def observations(self) -> np.ndarray:
        """The latest observation of each environment, as reset or step returned it."""
        return self._states.T.astype(np.float32)

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: seeds environment i with ``seed + i``; a sequence gives each its own
        """
        for i, own in enumerate(seed_of_each(seed, self.num_envs)):
            if own is not None or i >= len(self._random):
                self._random[i : i + 1] = [seeding.np_random(own)[0]]
            self._start(i)
        return self.observations, {}

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        if not self._random:
            raise gym.error.ResetNeeded("call reset() on CartPole before anything else")
        self._actions = self._choices(actions)

    def step_wait(self) -> StepResult:
        """Step every environment with its action."""
        self._states = self._moved()
        self._steps += 1
        x, _, theta, _ = np.abs(self._states)
        terminated = (x > self._pole.x_threshold) | (theta > self._pole.theta_threshold_radians)
        truncated = self._steps >= MAX_STEPS
        ended = np.flatnonzero(terminated | truncated).tolist()
        infos: dict[str, Any] = {}
        if ended:
            last = self.observations
            infos = stack_final({i: (last[i], {}) for i in ended}, self.num_envs)
            for i in ended:
                self._start(i)
        return self.observations, np.ones(self.num_envs), terminated, truncated, infos

    @staticmethod
    def draw(observation: np.ndarray) -> np.ndarray:
        """Return one observation as Gymnasium's image of it."""
        require_extra("a image of classic control", "pygame")
        pole: Any = CartPoleEnv(render_mode="rgb_array")
        pole.state = observation
        image: np.ndarray = pole.render()
        pole.close()
        return image

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next steps depend on, as numpy arrays and plain values."""
        return {
            "states": self._states.copy(),
            "steps": self._steps.copy(),
            "random": [random.bit_generator.state for random in self._random],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        :param state: of as many environments
        """
        self._states, self._steps = state["states"].copy(), state["steps"].copy()
        self._random = [seeding.np_random(None)[0] for _ in state["random"]]
        for random, saved in zip(self._random, state["random"], strict=True):
            random.bit_generator.state = saved

    def _start(self, i: int) -> None:
        self._states[:, i] = self._random[i].uniform(low=-0.05, high=0.05, size=(4,))
        self._steps[i] = 0

    def _moved(self) -> np.ndarray:
        """Return the states one step on: Gymnasium's equations and Euler's method."""
        pole, (_, speed, theta, turn) = self._pole, self._states
        force = np.where(self._actions == 1, pole.force_mag, -pole.force_mag)
        cos, sin = np.cos(theta), np.sin(theta)
        pushed = (force + pole.polemass_length * np.square(turn) * sin) / pole.total_mass
        inertia = pole.length * (4.0 / 3.0 - pole.masspole * np.square(cos) / pole.total_mass)
        spin = (pole.gravity * sin - cos * pushed) / inertia
        push = pushed - pole.polemass_length * spin * cos / pole.total_mass
        return self._states + pole.tau * np.stack((speed, push, turn, spin))
