"""A VecEnv with all its wrappers as a value, and back again."""

from __future__ import annotations

import inspect
import pickle
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor

from sb3_moe.vec_env import GymnasiumVecEnv, make_multitask_vec_env

# What belongs to the process; a file is opened again by its name.
NOT_SAVED = ("venv", "class_attributes", "results_writer")


class SavedEnv(NamedTuple):
    """An environment as a value.

    :param base: the innermost VecEnv: arguments and state of one of
        :func:`sb3_moe.make_multitask_vec_env`, or the environments of a DummyVecEnv
    :param layers: class, attributes and, for a monitor, file of each wrapper, innermost first
    :param exact: False if a task has no state to be saved, and so starts new episodes
    """

    base: bytes
    layers: list[tuple[type[VecEnvWrapper], bytes, str | None]]
    exact: bool


def save_env(env: VecEnv) -> SavedEnv:
    """Return an environment as a value.

    :param env: of :func:`sb3_moe.make_multitask_vec_env`, or a DummyVecEnv, in any wrappers
    :raises ValueError: if it is of another kind
    """
    layers: list[tuple[type[VecEnvWrapper], bytes, str | None]] = []
    while isinstance(env, VecEnvWrapper):
        layers.insert(0, _save_layer(env))
        env = env.venv
    if isinstance(env, GymnasiumVecEnv) and env.built_with is not None:
        state = env.state_dict()
        exact = state["env"].get("exact", True)
        return SavedEnv(cloudpickle.dumps((env.built_with, state)), layers, exact)
    if isinstance(env, DummyVecEnv):
        return SavedEnv(cloudpickle.dumps(env.envs), layers, all(map(_pickles_whole, env.envs)))
    raise ValueError(
        "the environment must be of sb3_moe.make_multitask_vec_env or a DummyVecEnv, "
        f"whose state can be saved, got {type(env).__name__}"
    )


def load_env(saved: SavedEnv) -> VecEnv:
    """Return an environment in the state in which it was saved."""
    base = pickle.loads(saved.base)
    if isinstance(base, tuple):
        built_with, state = base
        monitored = make_multitask_vec_env(**{**built_with, "monitor_dir": None})
        assert isinstance(monitored, VecMonitor)
        env = monitored.venv
        assert isinstance(env, GymnasiumVecEnv)
        env.built_with = built_with
        # Without the last observations, the next reset starts new episodes.
        env.load_state_dict(state if saved.exact else {**state, "observations": None})
    else:
        env = DummyVecEnv([_giving(each) for each in base])
    for layer in saved.layers:
        env = _load_layer(env, *layer)
    return env


def _save_layer(layer: VecEnvWrapper) -> tuple[type[VecEnvWrapper], bytes, str | None]:
    attributes = {key: value for key, value in vars(layer).items() if key not in NOT_SAVED}
    writer = getattr(layer, "results_writer", None) if isinstance(layer, VecMonitor) else None
    return type(layer), cloudpickle.dumps(attributes), writer and writer.file_handler.name


def _load_layer(
    env: VecEnv, kind: type[VecEnvWrapper], attributes: bytes, monitor_file: str | None
) -> VecEnvWrapper:
    layer = kind.__new__(kind)
    vars(layer).update(pickle.loads(attributes))
    layer.venv = env
    layer.class_attributes = dict(inspect.getmembers(kind))
    if isinstance(layer, VecMonitor):
        layer.results_writer = None
        if monitor_file:
            layer.results_writer = ResultsWriter(
                monitor_file, extra_keys=layer.info_keywords, override_existing=False
            )
    return layer


def _pickles_whole(env: gym.Env[Any, Any]) -> bool:
    """Tell an environment that pickles with its state from one that would build itself anew."""
    base: Any = env.unwrapped
    if hasattr(base, "state_dict"):
        return bool(base.state_dict().get("exact", True))
    return not isinstance(base, EzPickle)


def _giving(env: gym.Env[Any, Any]) -> Any:
    return lambda: env
