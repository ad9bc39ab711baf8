"""The last steps of each episode beside its observation, over any of SB3's VecEnvs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize


class VecHistory(VecEnvWrapper):
    """Show the last steps of each environment's episode as ``"history"`` beside ``"obs"``.

    A row of the history is [observation | the action that led to it | the reward that came with it
    | 1], and a row from before the episode's start is zeros: (n_envs, length, columns), float32,
    the current step last. Actions of Discrete and MultiDiscrete spaces are one-hots.

    VecNormalize goes below it. Rewards in the history are the environment's own even then, so that
    an evaluation, which normalizes none, shows what training does. Off-policy, where
    replay buffers hold raw observations, put ``VecNormalize(..., norm_obs_keys=["obs"])`` above:
    it leaves the history alone.

    :param venv: with flat Box observations, alone or as ``"obs"`` beside ``"task_id"``
    :param length: how many rows
    :raises ValueError: if the spaces don't fit, or a PerTaskVecNormalize is below; at the first
        reset, if a normalizer above would change the history
    """

    def __init__(self, venv: VecEnv, length: int) -> None:
        from sb3_moe_envs.history import History

        _refuse_per_task(unwrap_vec_normalize(venv))
        self.length = length
        own = venv.observation_space, venv.action_space
        self._history = History(*own, length, venv.num_envs)
        super().__init__(venv, observation_space=self._history.observation_space)

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        # Nothing else tells a wrapper of what is above it.
        self._check_above(sys._getframe(1).f_locals.get("self"))
        return self._history.start(self.venv.reset())

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Add the step to the history; an episode that ended keeps its own in its last one."""
        obs, rewards, dones, infos = self.venv.step_wait()
        finals = {i: infos[i]["terminal_observation"] for i in np.flatnonzero(dones).tolist()}
        below = unwrap_vec_normalize(self.venv)
        own = rewards if below is None else below.get_original_reward()
        shown, finals = self._history.step_and_restart(self._actions, obs, own, finals)
        for i, final in finals.items():
            infos[i]["terminal_observation"] = final
        return shown, rewards, dones, infos

    def _check_above(self, caller: Any) -> None:
        if isinstance(caller, VecNormalize):
            _refuse_per_task(caller)
            if caller.norm_obs and "history" in caller.obs_rms:
                raise ValueError(
                    "VecNormalize must not change a history: put it below, as in "
                    "VecHistory(VecNormalize(env), length), or give it norm_obs_keys=['obs']"
                )
        elif isinstance(caller, OffPolicyAlgorithm) and unwrap_vec_normalize(self.venv):
            raise ValueError(
                f"{type(caller).__name__} keeps observations that are not normalized, which have "
                "no history below VecHistory: put VecNormalize above it, with norm_obs_keys=['obs']"
            )


def _refuse_per_task(normalizer: Any) -> None:
    if isinstance(normalizer, PerTaskVecNormalize):
        raise ValueError(
            "PerTaskVecNormalize knows which task is played, which a history is there to infer: "
            "use VecNormalize"
        )
