"""The state of an environment of any kind, where it can be had, and back again."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
from gymnasium.utils import EzPickle

# Windows can't be pickled, and belong to the process.
_WINDOW = ("screen", "clock", "surf", "viewer", "spec")


class Stateless(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that has no state of its own, so that snapshots leave it out."""


def snapshot(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Return the state of an environment and its wrappers, or None if it has none to give.

    An environment gives its own (`state_dict`), is cloned (`clone_state`, as ALE), or pickled; one
    that pickles by building itself again (EzPickle, as MuJoCo) would lose its state.
    """
    try:
        base = _base_state(env.unwrapped)
        layers = [_pickled(layer, skip=("env",)) for layer in _wrappers(env)]
    except (pickle.PicklingError, TypeError, AttributeError):
        return None
    return None if base is None else {"base": base, "wrappers": layers}


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Bring an environment, built in the same way, into a state."""
    base: Any = env.unwrapped
    kind, value = state["base"]
    if kind == "own":
        base.load_state_dict(value)
    else:
        vars(base).update(pickle.loads(value[0] if kind == "clone" else value))
    if kind == "clone":
        base.restore_state(pickle.loads(value[1]))
    for layer, saved in zip(_wrappers(env), state["wrappers"], strict=True):
        vars(layer).update(pickle.loads(saved))


def _base_state(base: Any) -> tuple[str, Any] | None:
    if hasattr(base, "state_dict"):
        return "own", base.state_dict()
    if hasattr(base, "clone_state"):
        ale = pickle.dumps(base.clone_state(include_rng=True))
        return "clone", (_pickled(base, skip=("ale", *_WINDOW)), ale)
    if isinstance(base, EzPickle):
        return None
    return "pickle", _pickled(base, skip=_WINDOW)


def _wrappers(env: gym.Env[Any, Any]) -> list[Any]:
    layers = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, Stateless):
            layers.append(env)
        env = env.env
    return layers


def _pickled(layer: Any, skip: tuple[str, ...]) -> bytes:
    return pickle.dumps({key: value for key, value in vars(layer).items() if key not in skip})
