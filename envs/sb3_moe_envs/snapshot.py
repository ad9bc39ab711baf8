"""The state of an environment of any kind, where it can be had, and back again."""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Iterator
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle

# Windows, if they can't be pickled, belong to the process, and how it was made isn't state.
_WINDOW = ("screen", "clock", "surf", "viewer", "window_surface")
_SPEC = ("spec", "_cached_spec")
_LIVE = ("env", "ale", *_SPEC, *_WINDOW)


class Stateless(gym.Wrapper[Any, Any, Any, Any]):
    """An outermost wrapper without state of its own, so that snapshots leave it out."""


def snapshot(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Return the state of an environment and its wrappers, or None if it has none to give.

    An environment gives its own (`state_dict`), is cloned (`clone_state`, as ALE), or pickled; one
    that pickles by building itself again (EzPickle, as MuJoCo) would lose its state. What its parts
    share, and where they point back at it or at its wrappers, is kept.
    """
    layers = _layers(env)
    try:
        base, attributes = _base_state(layers[-1])
        held = [*map(_attributes, layers[:-1]), attributes]
        return {"base": base, "layers": _pickled(held, layers), "classes": _classes(layers)}
    except Exception:  # what others' classes raise when they are pickled can be anything
        return None


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Bring an environment, built in the same way, into a state.

    :raises ValueError: if the state is of an environment of other classes
    """
    layers = _layers(env)
    # Version 0.1 didn't say.
    if state.get("classes", _classes(layers)) != _classes(layers):
        raise ValueError(f"`state` must be of {_classes(layers)}, got one of {state['classes']}")
    if "wrappers" in state:
        state = _from_0_1(state)
        held = state["layers"]
    else:
        held = _Loader(state["layers"], layers).load()
    for layer, saved in zip(layers, held, strict=True):
        if saved is not None:
            live = {name: value for name, value in vars(layer).items() if name in _LIVE}
            vars(layer).clear()
            _fill(layer, live | saved)
    kind, value = state["base"]
    base: Any = layers[-1]
    if kind == "own":
        base.load_state_dict(value)
    elif kind == "clone":
        base.restore_state(pickle.loads(value))


def gives_state(base: Any) -> bool:
    """Say whether an environment gives its state, and takes it back."""
    return hasattr(base, "state_dict") and hasattr(base, "load_state_dict")


def own_state(base: Any) -> Any:
    """Return the state that an environment gives, or None if it says that this isn't all."""
    state = base.state_dict()
    return None if isinstance(state, dict) and not state.get("exact", True) else state


def _fill(layer: Any, held: dict[str, Any]) -> None:
    for name, value in held.items():
        if isinstance(getattr(type(layer), name, None), types.MemberDescriptorType):
            setattr(layer, name, value)  # of `__slots__`
        else:
            vars(layer)[name] = value


class _Saver(cloudpickle.Pickler):
    """Pickle what layers hold; of a layer itself, only which one it is.

    Functions without a name of their own are taken too: Gymnasium's wrappers hold such.
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
    """Load what layers hold, pointing at these layers.

    A name is looked up where the layers' own code would: a script that goes on with another's run
    has its classes, but not under their names.
    """

    def __init__(self, saved: bytes, layers: list[Any]) -> None:
        super().__init__(io.BytesIO(saved))
        self._layers = layers

    def persistent_load(self, pid: int) -> Any:
        return self._layers[pid]

    def find_class(self, module: str, name: str) -> Any:
        first, *rest = name.split(".")
        for known in self._scripts() if module == "__main__" else ():
            if first in known:
                return functools.reduce(getattr, rest, known[first])
        return super().find_class(module, name)

    def _scripts(self) -> Iterator[dict[str, Any]]:
        """Yield the globals of the layers' functions that a script defines."""
        for kind in (kind for layer in self._layers for kind in type(layer).__mro__):
            for function in vars(kind).values():
                if isinstance(function, types.FunctionType) and function.__module__ == "__main__":
                    yield function.__globals__


def _base_state(base: Any) -> tuple[tuple[str, Any], dict[str, Any] | None]:
    """Return how a base gives its state, and which attributes are pickled besides."""
    if gives_state(base):
        state = own_state(base)
        if state is None:
            raise pickle.PicklingError(f"{type(base)} says that its state isn't exact")
        return ("own", state), None
    if hasattr(base, "clone_state"):
        ale = pickle.dumps(base.clone_state(include_rng=True))
        return ("clone", ale), _attributes(base, skip="ale")
    _refuse_to_build_again(base)
    return ("pickle", None), _attributes(base)


def _refuse_to_build_again(obj: Any) -> None:
    """Raise for what pickles by building itself anew, and would lose its state."""
    if isinstance(obj, EzPickle):
        raise pickle.PicklingError(f"{type(obj)} would build itself again")


def _attributes(layer: Any, skip: str = "") -> dict[str, Any]:
    # Python's own `__getstate__` gives a pair where a class has `__slots__`.
    held: Any = object.__getstate__(layer)
    held, slots = held if isinstance(held, tuple) else (held, {})
    return {
        name: value
        for name, value in ((held or {}) | slots).items()
        if name not in (skip, *_SPEC) and not (name in _WINDOW and _is_of_the_process(value))
    }


def _is_of_the_process(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return True
    return False


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
    """Name the classes, without their modules: another script may define them elsewhere."""
    return [type(layer).__name__ for layer in layers]


def _pickled(held: list[Any], layers: list[Any]) -> bytes:
    file = io.BytesIO()
    _Saver(file, layers).dump(held)
    return file.getvalue()


def _from_0_1(state: dict[str, Any]) -> dict[str, Any]:
    """Read a state of version 0.1, in which each layer was pickled alone."""
    kind, value = state["base"]
    own, rest = value if kind == "clone" else (value, None)
    wrappers = [pickle.loads(saved) for saved in state["wrappers"]]
    attributes = None if kind == "own" else pickle.loads(own)
    return {"base": (kind, value if kind == "own" else rest), "layers": [*wrappers, attributes]}
