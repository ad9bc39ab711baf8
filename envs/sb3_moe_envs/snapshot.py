"""The state of an environment of any kind, where it has one to give, and back again."""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle

# Where a layer stands, and how it was made: no part of its state.
_KEPT = ("env", "ale", "spec", "_cached_spec")


def snapshot(env: gym.Env[Any, Any]) -> dict[str, Any] | None:
    """Return the state of an environment and its wrappers, or None if it has none to give.

    An environment gives its own (`state_dict`), is cloned (`clone_state`, as ALE), or pickled; one
    that pickles by building itself again (EzPickle, as MuJoCo) would lose its state. What its parts
    share, and where they point back at it or at its wrappers, is kept.
    """
    layers = _layers(env)
    base: Any = layers[-1]
    held = [{k: v for k, v in vars(layer).items() if k not in _KEPT[1:]} for layer in layers]
    try:
        state = None
        if gives_state(base):
            state, held[-1] = own_state(base), {}
            if state is None:
                return None
        elif hasattr(base, "clone_state"):
            state = pickle.dumps(base.clone_state(include_rng=True))
        elif isinstance(base, EzPickle):
            return None
        file = io.BytesIO()
        _Saver(file, layers).dump(held)
    except Exception:  # pickling other people's classes can raise anything
        return None
    return {"base": state, "layers": file.getvalue(), "classes": _classes(layers)}


def restore(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Bring an environment, built in the same way, into a state.

    :raises ValueError: if the state is of an environment of other classes
    """
    layers = _layers(env)
    if state["classes"] != _classes(layers):
        raise ValueError(f"`state` must be of {_classes(layers)}, got one of {state['classes']}")
    for layer, saved in zip(layers, _Loader(state["layers"], layers).load(), strict=True):
        if saved:
            kept = {name: value for name, value in vars(layer).items() if name in _KEPT}
            vars(layer).clear()
            vars(layer).update(kept | saved)
    base: Any = layers[-1]
    if gives_state(base):
        base.load_state_dict(state["base"])
    elif hasattr(base, "restore_state"):
        base.restore_state(pickle.loads(state["base"]))


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
        return self._places.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle):
            raise pickle.PicklingError(f"{type(obj)} would build itself again and lose its state")
        if type(obj).__module__.partition(".")[0] == "pygame":
            return type(None), ()  # a window belongs to the process, and is made again to render
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


def _layers(env: gym.Env[Any, Any]) -> list[Any]:
    """List the wrappers, outermost first, and the base."""
    layers: list[Any] = [env]
    while isinstance(env, gym.Wrapper):
        env = env.env
        layers.append(env)
    return layers


def _classes(layers: list[Any]) -> list[str]:
    # Without their modules: another script may define them elsewhere.
    return [type(layer).__name__ for layer in layers]
