"""Environments that are stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from sb3_moe_envs.checks import Options, ResetResult, Seed, StepResult, seed_of_each
from sb3_moe_envs.vector.infos import Info, Rows, stack


class InTurnVectorEnv(SyncVectorEnv):
    """A `SyncVectorEnv` with SAME_STEP autoreset.

    Infos may differ in kind and shape, and nothing is copied that is new anyway.

    :param env_fns: build the environments
    """

    envs: list[Any]

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        # Gymnasium writes the mode into a dict that all environments of a class share.
        self.metadata = {**self.metadata}

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: of the first, one more for each next one; or one for each
        """
        seeds = seed_of_each(seed, self.num_envs)
        each = zip(self.envs, seeds, strict=True)
        results = [env.reset(seed=own, options=options) for env, own in each]
        infos = {row: info for row, (_, info) in enumerate(results) if info}
        return self._batch([obs for obs, _ in results]), stack(infos, self.num_envs)

    def step(  # type: ignore[override]  # Gymnasium's own returns type variables that it never binds
        self, actions: Any
    ) -> StepResult:
        """Step each environment with its action, of shape (num_envs, ...)."""
        return self.play(actions).stacked()

    def play(self, actions: Any) -> Rows:
        """Step each environment with its action."""
        observations, rewards, terminated, truncated = [], [], [], []
        infos, finals = dict[int, Info](), dict[int, tuple[Any, Info]]()
        each = zip(self.envs, iterate(self.action_space, actions), strict=True)
        for row, (env, action) in enumerate(each):
            obs, reward, ended, cut, info = env.step(action)
            if ended or cut:
                finals[row] = obs, info
                obs, info = env.reset()
            observations.append(obs)
            rewards.append(reward)
            terminated.append(ended)
            truncated.append(cut)
            if info:
                infos[row] = info
        batch = self._batch(observations)
        return Rows(batch, rewards, terminated, truncated, infos, finals)

    def _batch(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs))
