"""The state of an environment of any kind, where it has one to give, and back again."""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle

# Windows that can't be pickled stay as they are, and how an environment was made isn't state.
_WINDOW = ("screen", "clock", "surf", "viewer", "window_surface")
_SPEC = ("spec", "_cached_spec")
_KEPT = ("env", "ale", *_SPEC, *_WINDOW)


class Stateless(gym.Wrapper[Any, Any, Any, Any]):
    """An outermost wrapper without state of its own, so that snapshots leave it out."""


def snapshot(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Return the state of an environment and its wrappers, or None if it has none to give.

    An environment gives its own (`state_dict`), is cloned (`clone_state`, as ALE), or pickled; one
    that pickles by building itself again (EzPickle, as MuJoCo) would lose its state. What its parts
    share, and where they point back at it or at its wrappers, is kept.
    """
    layers = _layers(env)
    base: Any = layers[-1]
    try:
        held: list[Any] = [_attributes(layer) for layer in layers]
        if gives_state(base):
            given, held[-1] = ("own", own_state(base)), None
            if given[1] is None:
                return None
        elif hasattr(base, "clone_state"):
            given = ("clone", pickle.dumps(base.clone_state(include_rng=True)))
            del held[-1]["ale"]
        else:
            _refuse_to_build_again(base)
            given = ("pickle", None)
        file = io.BytesIO()
        _Saver(file, layers).dump(held)
    except Exception:  # pickling other people's classes can raise anything
        return None
    return {"base": given, "layers": file.getvalue(), "classes": _classes(layers)}


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Bring an environment, built in the same way, into a state.

    :raises ValueError: if the state is of an environment of other classes
    """
    layers = _layers(env)
    if state["classes"] != _classes(layers):
        raise ValueError(f"`state` must be of {_classes(layers)}, got one of {state['classes']}")
    for layer, saved in zip(layers, _Loader(state["layers"], layers).load(), strict=True):
        if saved is not None:
            kept = {name: value for name, value in vars(layer).items() if name in _KEPT}
            vars(layer).clear()
            vars(layer).update(kept | saved)
    kind, value = state["base"]
    base: Any = layers[-1]
    if kind == "own":
        base.load_state_dict(value)
    elif kind == "clone":
        base.restore_state(pickle.loads(value))


def gives_state(base: Any) -> bool:
    """Return whether an environment gives its state, and takes it back."""
    return hasattr(base, "state_dict") and hasattr(base, "load_state_dict")


def own_state(base: Any) -> Any:
    """Return the state that an environment gives, or None if it says that this isn't all."""
    state = base.state_dict()
    return None if isinstance(state, dict) and not state.get("exact", True) else state


class _Saver(cloudpickle.Pickler):
    """Pickle what layers hold; of a layer itself, only which one it is.

    Functions without a name of their own are pickled too: Gymnasium's wrappers hold such.
    """

    def __init__(self, file: io.BytesIO, layers: list[Any]) -> None:
        super().__init__(file)
        self._places = {id(layer): index for index, layer in enumerate(layers)}

    def persistent_id(self, obj: Any) -> int | None:
        place = self._places.get(id(obj))
        if place is None:
            _refuse_to_build_again(obj)
        return place

    def reducer_override(self, obj: Any) -> Any:
        named = isinstance(obj, type | types.FunctionType) and "<" not in obj.__qualname__
        if named and obj.__module__ == "__main__":
            return NotImplemented  # by name, so that the environment meets its own classes again
        return super().reducer_override(obj)


class _Loader(pickle.Unpickler):
    """Load what layers hold, pointing at these layers."""

    def __init__(self, saved: bytes, layers: list[Any]) -> None:
        super().__init__(io.BytesIO(saved))
        self._layers = layers

    def persistent_load(self, pid: int) -> Any:
        return self._layers[pid]


def _refuse_to_build_again(obj: Any) -> None:
    if isinstance(obj, EzPickle):
        raise pickle.PicklingError(f"{type(obj)} would build itself again and lose its state")


def _attributes(layer: Any) -> dict[str, Any]:
    # Python gives a pair where a class has `__slots__`.
    if isinstance(object.__getstate__(layer), tuple):
        raise pickle.PicklingError(f"{type(layer)} keeps state in `__slots__`")
    return {
        name: value
        for name, value in vars(layer).items()
        if name not in _SPEC and not (name in _WINDOW and not _can_be_pickled(value))
    }


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _layers(env: gym.Env[Any, Any]) -> list[Any]:
    """List the wrappers, outermost first, and the base."""
    while isinstance(env, Stateless):
        env = env.env
    layers: list[Any] = [env]
    while isinstance(env, gym.Wrapper):
        env = env.env
        layers.append(env)
    return layers


def _classes(layers: list[Any]) -> list[str]:
    # Without their modules: another script may define them elsewhere.
    return [type(layer).__name__ for layer in layers]
