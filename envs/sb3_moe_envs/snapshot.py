"""Save the state of an environment of any kind, if that is possible, and restore it."""

import io
import pickle
import sys
import types
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.utils import EzPickle

from sb3_moe_envs.checks import Env, State


def snapshot(env: Env) -> State | None:
    """Return the state of an environment and its wrappers, or None if it can't be saved.

    The innermost environment returns its own state (`state_dict`), is cloned (`clone_state`, as
    ALE), or is pickled with its wrappers. The result is None for an environment that pickles by
    building itself again (EzPickle, as MuJoCo's), which would lose its state.
    """
    base: Any = env.unwrapped
    try:
        state = None
        if gives_state(base):
            state = own_state(base)
            if state is None:
                return None
        elif hasattr(base, "clone_state"):
            state = pickle.dumps((base.clone_state(include_rng=True), base.np_random))
        file = io.BytesIO()
        _Saver(file, base if state is not None else None).dump(env)
    except Exception:  # pickling other people's classes can raise anything
        return None
    return {"base": state, "env": file.getvalue()}


def restore(env: Env, state: State) -> Env:
    """Return an environment in a saved state, to replace `env`, which was built in the same way."""
    base: Any = env.unwrapped
    if state["base"] is not None:
        if gives_state(base):
            base.load_state_dict(state["base"])
        else:
            clone, base.np_random = pickle.loads(state["base"])
            base.restore_state(clone)
    return _Loader(state["env"], env).load()


def gives_state(base: Any) -> bool:
    """Return whether an environment has `state_dict` and `load_state_dict`."""
    return hasattr(base, "state_dict") and hasattr(base, "load_state_dict")


def own_state(base: Any) -> Any:
    """Return an environment's state, or None if `"exact"` in it is False."""
    state = base.state_dict()
    return None if isinstance(state, dict) and not state.get("exact", True) else state


class _Saver(cloudpickle.Pickler):
    """Pickle an environment, but not its innermost one (`base`) if that is saved in another way.

    Lambdas and functions within functions are pickled too, as some of Gymnasium's wrappers hold
    them.
    """

    def __init__(self, file: io.BytesIO, base: Env | None) -> None:
        super().__init__(file)
        self._base = base

    def persistent_id(self, obj: Any) -> str | None:
        return "base" if obj is self._base and obj is not None else None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, EzPickle):
            raise pickle.PicklingError(f"{type(obj)} would build itself again and lose its state")
        if type(obj).__module__.partition(".")[0] == "pygame":
            return type(None), ()  # a window belongs to its process; `render` opens a new one
        named = isinstance(obj, type | types.FunctionType) and "<" not in obj.__qualname__
        if named and obj.__module__ == "__main__":
            return NotImplemented  # by name, so that no copies of the script's classes arise
        return super().reducer_override(obj)


class _Loader(pickle.Unpickler):
    """Load an environment; if its innermost one was not pickled, that of `built` takes its place.

    `built` must have been built in the same way.
    """

    def __init__(self, saved: bytes, built: Env) -> None:
        super().__init__(io.BytesIO(saved))
        self._base: Env = built.unwrapped
        layers = [built]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        self._classes = {each.__qualname__: each for env in layers for each in type(env).__mro__}

    def persistent_load(self, pid: str) -> Env:
        return self._base

    def find_class(self, module: str, name: str) -> Any:
        """Return a class; if it is of a script that isn't running now, look it up in `built`."""
        if module != "__main__" or hasattr(sys.modules[module], name.partition(".")[0]):
            return super().find_class(module, name)
        if name not in self._classes:
            raise pickle.UnpicklingError(
                f"{name!r} was part of the script that saved this environment: put such classes "
                "and functions into a module of their own, which every script can import"
            )
        return self._classes[name]
