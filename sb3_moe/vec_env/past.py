"""What happened before, beside each observation: for any VecEnv, any algorithm and any policy.

Shapes: n environments, D numbers of an observation, A of an action, K rows of a history.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_moe.layers.checks import whole
from sb3_moe.vec_env.observations import map_observation
from sb3_moe.vec_env.task_ids import HISTORY_KEY


class VecPast(VecEnvWrapper):
    """Base class of wrappers that add to each observation something that they keep of the past.

    A subclass begins episodes in ``_begin``, takes note of steps in ``_observe``, and returns what
    observations get from ``_added``.

    On-policy, put VecNormalize below (inside). The past still holds the environment's own rewards,
    so that it is the same in an evaluation, which normalizes no rewards. Off-policy, where replay
    buffers hold raw observations, put ``VecNormalize(..., norm_obs_keys=["obs"])`` above (around).

    :cvar key: of what is added
    :param venv: with flat Box observations, or a Dict with some
    :param encode: a function from a batch of observations to a few numbers of each, (n, D); None:
        all flat Boxes
    :raises ValueError: if the spaces don't fit, or observations are normalized by task; at a reset,
        if a normalizer above would change what is added, or a replay buffer would store the
        observations of a normalizer below, which lack it
    """

    key: str

    def __init__(self, venv: VecEnv, encode: Callable[[Any], Any] | None = None) -> None:
        from sb3_moe_envs.belief import Numbers

        if getattr(unwrap_vec_normalize(venv), "num_tasks", None) is not None:
            raise ValueError(
                "PerTaskVecNormalize must know which task is played, and "
                f"{type(self).__name__} is for tasks that nobody names: use VecNormalize"
            )
        super().__init__(venv)
        spaces_of = venv.observation_space, venv.action_space
        self.numbers = Numbers.of_spaces(*spaces_of, encode)
        obs, actions = (create_empty_array(space, venv.num_envs) for space in spaces_of)
        #: numbers of the observations before the next step, (n, D)
        self._obs_nD = self.numbers.of_observations(obs)
        self._action_dim = self.numbers.of_actions(actions).shape[1]

    def _show(self, added: spaces.Box) -> None:
        """Tell the space of what is added."""
        self.observation_space = spaces.Dict(
            {**_parts(self.venv.observation_space), self.key: added}
        )

    def _begin(self, which: Any) -> None:
        """Begin episodes, whose first observations are in ``self._obs_nD``.

        :param which: indices of the environments
        """
        raise NotImplementedError

    def _observe(self, transitions: Any) -> None:
        """Take note of a step of every environment.

        :param transitions: :class:`sb3_moe_envs.belief.Transitions`
        """
        raise NotImplementedError

    def _added(self) -> np.ndarray:
        """Return what is added to each observation, as a new array."""
        raise NotImplementedError

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        above, evaluated = _callers()
        self._check_above(above)
        if isinstance(evaluated, BaseAlgorithm):
            self._check_model(evaluated)
        obs: Any = self.venv.reset()
        self._obs_nD = self.numbers.of_observations(obs)
        self._begin(slice(None))
        return _with(obs, self.key, self._added())

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Take note of the step; a terminal observation has its own episode's past."""
        from sb3_moe_envs.belief import Transitions

        obs, rewards, dones, infos = self.venv.step_wait()
        first_nD = self.numbers.of_observations(obs)
        ended = np.flatnonzero(dones)
        last_nD = first_nD.copy() if len(ended) else first_nD
        for i in ended:
            final = infos[i]["terminal_observation"]
            last_nD[i] = self.numbers.of_observations(map_observation(_batch_of_one, final))[0]
        below = unwrap_vec_normalize(self.venv)
        own = rewards if below is None else below.get_original_reward()
        actions = self.numbers.of_actions(self._actions)
        self._observe(Transitions(self._obs_nD, actions, own[:, None], last_nD))
        self._obs_nD = first_nD
        added = self._added()
        for i in ended:
            final = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = _with(final, self.key, added[i].copy())
        if len(ended):
            self._begin(ended)
            added = self._added()
        return _with(obs, self.key, added), rewards, dones, infos

    def _check_above(self, above: Any) -> None:
        """Raise ValueError if a normalizer and this wrapper are in the wrong order.

        :param above: the wrapper or algorithm that uses this environment
        """
        changes = isinstance(above, VecNormalize) and above.norm_obs and self.key in above.obs_rms
        is_kept = isinstance(above, OffPolicyAlgorithm) and unwrap_vec_normalize(self.venv)
        if changes or is_kept:
            name = type(self).__name__
            raise ValueError(
                f"VecNormalize must be below {name}, or above it with norm_obs_keys=['obs']; "
                "off-policy always above, because replay buffers keep raw observations"
            )

    def _check_model(self, model: BaseAlgorithm) -> None:
        """Prepare for a model that somebody evaluates here."""


def wrap_inside(env: VecEnv, wrap: Callable[[VecEnv], VecEnv]) -> VecEnv:
    """Return an environment with one more wrapper, inside those that show the past.

    :param env: in any wrappers; it stays as it is
    :param wrap: puts the wrapper around an environment
    """
    if not isinstance(env, VecPast):
        return wrap(env)
    outer = type(env).__new__(type(env))
    vars(outer).update(vars(env), venv=wrap_inside(env.venv, wrap))
    return outer


def _callers() -> tuple[Any, Any]:
    """Return what called a wrapper's ``reset``, and the model that SB3 evaluates there, if it does.

    A wrapper has no other way to find what is above it.
    """
    frame: Any = sys._getframe(2)
    above = frame.f_locals.get("self")
    while isinstance(frame.f_locals.get("self"), VecEnvWrapper):
        frame = frame.f_back
    # By its name, because sb3-contrib has another one for masked actions. A variable `model` of any
    # other function, or of a notebook, may be of another environment.
    is_evaluation = frame.f_code.co_name == "evaluate_policy"
    return above, frame.f_locals.get("model") if is_evaluation else None


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"obs": space}


def _with(obs: Any, key: str, added: np.ndarray) -> dict[str, Any]:
    return {**(obs if isinstance(obs, dict) else {"obs": obs}), key: added}


def _batch_of_one(array: Any) -> np.ndarray:
    return np.asarray(array)[None]


class VecHistory(VecPast):
    """Show the last steps of each environment's episode as ``"history"`` beside ``"obs"``.

    The history is (n, K, D + A + 2), float32, with the current step last. A row is [observation |
    the action that led to it | the reward that came with it | 1]; rows from before the episode's
    start are zeros. Actions of Discrete and MultiDiscrete spaces are one-hots. The rules of
    :class:`VecPast` say where a VecNormalize goes.

    :param venv: with flat Box observations, or a Dict with some
    :param length: K, how many rows
    :raises ValueError: as :class:`VecPast`
    """

    key = HISTORY_KEY

    def __init__(self, venv: VecEnv, length: int) -> None:
        whole("length", length)
        super().__init__(venv)
        self.length = length
        self._obs_dim = self._obs_nD.shape[1]
        shape = length, self._obs_dim + self._action_dim + 2
        self._rows_nKW = np.zeros((venv.num_envs, *shape), np.float32)
        self._show(spaces.Box(-np.inf, np.inf, shape, np.float32))

    def _begin(self, which: Any) -> None:
        self._rows_nKW[which] = 0.0
        self._rows_nKW[which, -1, : self._obs_dim] = self._obs_nD[which]
        self._rows_nKW[which, -1, -1] = 1.0

    def _observe(self, transitions: Any) -> None:
        _, actions, rewards, next_obs = transitions
        row = np.concatenate([next_obs, actions, rewards, np.ones_like(rewards)], axis=1)
        self._rows_nKW[:, :-1] = self._rows_nKW[:, 1:]
        self._rows_nKW[:, -1] = row

    def _added(self) -> np.ndarray:
        return self._rows_nKW.copy()
