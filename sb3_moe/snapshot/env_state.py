"""A VecEnv with all its wrappers as a value, and back again."""

from __future__ import annotations

import inspect
import io
import pickle
from typing import Any, NamedTuple

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecMonitor

from sb3_moe.snapshot.monitor_file import Reopened, arguments_of
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.make import make_multitask_vec_env


class SavedEnv(NamedTuple):
    """An environment as a value.

    :param base: what each layer of the VecEnv holds, innermost first, as one pickle, so that what
        they share stays shared
    :param layers: the class of each layer
    :param exact: False if a task has no state to be saved, and so starts new episodes
    """

    base: bytes
    layers: list[Any]
    exact: bool


def save_env(env: VecEnv) -> SavedEnv:
    """Return an environment as a value.

    :param env: of :func:`sb3_moe.make_multitask_vec_env`, or a DummyVecEnv, in any wrappers
    :raises ValueError: if it is of another kind, or a part can't be pickled
    """
    layers = _layers(env)
    base, exact = _save_base(layers[0])
    file = io.BytesIO()
    pickler = _Pickler(file, layers)
    try:
        pickler.dump([base, *map(_held, layers[1:])])
    except Exception as error:  # what others' classes raise when they are pickled can be anything
        raise ValueError(
            "the environment can't be saved, since a part of it can't be pickled "
            f"({type(error).__name__}: {error}); give that part a `__getstate__`, or build the "
            "environment with sb3_moe.make_multitask_vec_env"
        ) from error
    return SavedEnv(file.getvalue(), [type(each) for each in layers], exact and pickler.exact)


def load_env(saved: SavedEnv) -> VecEnv:
    """Return an environment in the state in which it was saved."""
    if not saved.layers or isinstance(saved.layers[0], tuple):
        return _load_0_1(saved)
    layers = [kind.__new__(kind) for kind in saved.layers]
    held = _Unpickler(saved.base, layers).load()
    if isinstance(held[0], bytes):
        held[0] = vars(_built(*pickle.loads(held[0]), exact=saved.exact))
    for layer, attributes in zip(layers, held, strict=True):
        _fill(layer, attributes)
    outermost: VecEnv = layers[-1]
    return outermost


class _Pickler(cloudpickle.Pickler):
    """Pickle what layers hold: of a layer itself which one it is, of a file its name, no windows.

    ``exact`` turns False at an object that pickles by building itself anew.
    """

    def __init__(self, file: io.BytesIO, layers: list[VecEnv]) -> None:
        super().__init__(file)
        self._places = {id(layer): place for place, layer in enumerate(layers)}
        self.exact = True

    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, EzPickle):
            self.exact = False
        return self._places.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ResultsWriter):
            return Reopened, arguments_of(obj)
        if type(obj).__module__.partition(".")[0] == "pygame":
            return type(None), ()  # it belongs to the process, and is made again to render
        return super().reducer_override(obj)


class _Unpickler(pickle.Unpickler):
    """Load what layers hold, pointing at these layers."""

    def __init__(self, saved: bytes, layers: list[VecEnv]) -> None:
        super().__init__(io.BytesIO(saved))
        self._layers = layers

    def persistent_load(self, pid: int) -> VecEnv:
        return self._layers[pid]


def _layers(env: VecEnv) -> list[VecEnv]:
    """List a VecEnv and its wrappers, innermost first."""
    layers = [env]
    while isinstance(env, VecEnvWrapper):
        env = env.venv
        layers.insert(0, env)
    return layers


def _save_base(base: VecEnv) -> tuple[Any, bool]:
    """Return what the innermost VecEnv holds, and False if it is known to be less than all."""
    if isinstance(base, GymnasiumVecEnv) and base.recipe is not None:
        state = base.state_dict()
        return cloudpickle.dumps((base.recipe, state)), state["env"].get("exact", True)
    if isinstance(base, DummyVecEnv):
        return _held(base), all(map(_is_exact, base.envs))
    raise ValueError(
        "the environment must be of sb3_moe.make_multitask_vec_env or a DummyVecEnv, "
        f"whose state can be saved, got {type(base).__name__}"
    )


def _is_exact(env: gym.Env[Any, Any]) -> bool:
    base: Any = env.unwrapped
    return not hasattr(base, "state_dict") or bool(base.state_dict().get("exact", True))


def _held(layer: VecEnv) -> dict[str, Any]:
    return {key: value for key, value in vars(layer).items() if key != "class_attributes"}


def _fill(layer: VecEnv, attributes: dict[str, Any]) -> None:
    vars(layer).update(attributes)
    if isinstance(layer, VecEnvWrapper):
        layer.class_attributes = dict(inspect.getmembers(type(layer)))


def _built(recipe: dict[str, Any], state: dict[str, Any], *, exact: bool) -> GymnasiumVecEnv:
    monitored = make_multitask_vec_env(**{**recipe, "monitor_dir": None})
    assert isinstance(monitored, VecMonitor)
    env = monitored.venv
    assert isinstance(env, GymnasiumVecEnv)
    env.recipe = recipe
    # Without the last observations, the next reset starts new episodes.
    env.load_state_dict(state if exact else {**state, "observations": None})
    return env


def _reopened(name: str, extra_keys: tuple[str, ...]) -> ResultsWriter:
    """Return a monitor's file, as snapshots of before the class was known name it."""
    return Reopened(name, extra_keys)


def _load_0_1(saved: SavedEnv) -> VecEnv:
    """Read an environment of version 0.1, in which each layer was pickled alone."""
    base = pickle.loads(saved.base)
    env: VecEnv
    if isinstance(base, tuple):
        env = _built(*base, exact=saved.exact)
    else:
        env = DummyVecEnv([_giving(each) for each in base])
    for kind, attributes, monitor_file in saved.layers:
        layer = kind.__new__(kind)
        _fill(layer, {**pickle.loads(attributes), "venv": env})
        if isinstance(layer, VecMonitor):
            keys = layer.info_keywords
            layer.results_writer = Reopened(monitor_file, keys) if monitor_file else None
        env = layer
    return env


def _giving(env: gym.Env[Any, Any]) -> Any:
    return lambda: env
