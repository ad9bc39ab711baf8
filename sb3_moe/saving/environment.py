"""Pickle a VecEnv with all its wrappers; loading it opens its monitor's file again."""

import inspect
import io
import os
import pickle
from typing import Any

import cloudpickle
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from sb3_moe.vec_env import GymnasiumVecEnv, make_multitask_vec_env


class UnknownEnvError(ValueError):
    """An environment of a kind whose state can't be saved."""


def save_env(env: VecEnv) -> tuple[bytes, bool]:
    """Return an environment as a pickle, and whether the pickle holds its whole state.

    :param env: of :func:`sb3_moe.make_multitask_vec_env`, or a DummyVecEnv, in any wrappers
    :raises UnknownEnvError: if it is of another kind
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(env)
    return file.getvalue(), pickler.exact


def load_env(saved: tuple[bytes, bool]) -> tuple[VecEnv, bool]:
    """Return a saved environment, and whether its whole state was saved."""
    return pickle.loads(saved[0]), saved[1]


class _Pickler(cloudpickle.Pickler):
    """Pickle environments with all their attributes, of which SB3's own pickles leave out many.

    ``exact`` becomes False if the state of a task can't be saved. An EzPickle, for example, is only
    built again from its constructor's arguments.
    """

    exact = True

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle):
            self.exact = False
        if isinstance(obj, VecEnv):
            return self._reduced(obj)
        if isinstance(obj, ResultsWriter):
            return _reopened, (obj.file_handler.name, tuple(obj.logger.fieldnames)[3:])
        if type(obj).__module__.partition(".")[0] == "pygame":
            return type(None), ()  # it belongs to this process, and rendering makes it again
        return super().reducer_override(obj)

    def _reduced(self, env: VecEnv) -> tuple[Any, ...]:
        if isinstance(env, GymnasiumVecEnv) and env.recipe is not None:
            state = env.state_dict()
            self.exact &= bool(state.get("exact", True))
            return _built, (env.recipe, state)
        if not isinstance(env, DummyVecEnv | VecEnvWrapper):
            raise UnknownEnvError(
                "the environment must be of sb3_moe.make_multitask_vec_env or a DummyVecEnv, "
                f"whose state can be saved, got {type(env).__name__}"
            )
        held = {key: value for key, value in vars(env).items() if key != "class_attributes"}
        return object.__new__, (type(env),), held, None, None, _fill


def _fill(env: VecEnv, held: dict[str, Any]) -> None:
    vars(env).update(held)
    if isinstance(env, VecEnvWrapper):
        env.class_attributes = dict(inspect.getmembers(type(env)))


def _built(recipe: dict[str, Any], state: dict[str, Any]) -> GymnasiumVecEnv:
    monitored: Any = make_multitask_vec_env(**recipe)
    env = monitored.venv
    env.load_state_dict(state)
    return env


def _reopened(name: str, extra_keys: tuple[str, ...]) -> ResultsWriter:
    """Open a monitor's file to append to it; rows written after the snapshot stay in it."""
    is_there = os.path.exists(name)
    return ResultsWriter(name, extra_keys=extra_keys, override_existing=not is_there)
