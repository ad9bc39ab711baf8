"""Checks of arguments, of installed packages, and of what a task's environment returns."""

import copy
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from numbers import Real
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces

Env = gym.Env
Info = dict[str, Any]
Options = dict[str, Any] | None
# What `state_dict` returns, and `load_state_dict` takes.
State = dict[str, Any]
ResetResult = tuple[Any, Info]
# The results of a step of one environment, and of a vector environment.
EnvStep = tuple[Any, Any, bool, bool, Info]
StepResult = tuple[Any, np.ndarray, np.ndarray, np.ndarray, Info]
# A vector environment's seed. By `seed_of_each`, environment i gets seed + i, or entry i.
Seed = int | Sequence[int | None] | None

#: The extra that installs each module. :mod:`sb3_moe.layers.extras` lists those of `sb3_moe`.
EXTRAS = {
    "ale_py": "atari",
    "envpool": "envpool",
    "gymnax": "minatar",
    "jax": "minatar",
    "metaworld": "metaworld",
    "mujoco": "mujoco",
    "pygame": "classic-control",
    "six": "minatar",
}

# The learner keeps rewards in float32, in which larger ones would be infinite.
MAX_REWARD = float(np.finfo(np.float32).max)
# A tuple of types, as `isinstance` runs at every step and takes twice as long with a union.
_NUMBERS = (float, int, np.number, np.bool_)

SUCCESS_KEYS = ("is_success", "success")
# The success of an episode in which no step has reported success or failure.
UNKNOWN = float("nan")


def whole(name: str, value: Any, minimum: int | None = 1) -> int:
    """Return a count as an int; whole floats, such as 1e5, are accepted.

    :param name: name of the argument, for the error
    :param value: what was given
    :param minimum: the least that is allowed; None: any
    :raises ValueError: if it isn't a whole number or is below the minimum
    """
    if not _is_finite(value) or value != int(value):
        raise ValueError(f"`{name}` must be a whole number, got {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")
    return int(value)


def optional_whole(name: str, value: Any) -> int | None:
    """Return None for None, and any other value as :func:`whole` does."""
    return None if value is None else whole(name, value)


def finite(name: str, value: Any) -> float:
    """Return a quantity as a float.

    :raises ValueError: if it isn't a finite number
    """
    if not _is_finite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """Return a quantity above zero as a float.

    :raises ValueError: if it isn't a finite number above 0
    """
    if finite(name, value) <= 0:
        raise ValueError(f"`{name}` must be positive, got {value!r}")
    return float(value)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and abs(value) < math.inf


def require_extra(part: str, *modules: str) -> None:
    """Raise a one-line error unless the modules that a part of this package imports are installed.

    :param part: what the error calls the part
    :param modules: the modules' names, which are keys of :data:`EXTRAS`
    :raises ImportError: naming the missing modules, and the extras that install them
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[module] for module in missing))
        raise ImportError(f"{part} needs {', '.join(missing)}: pip install 'sb3-moe[{extras}]'")


class CheckedTask(gym.Wrapper):
    """Raise a TypeError for a reward that is no finite number, or an observation of a wrong shape.

    Without this, numpy would cast or broadcast them silently. An episode's last observation is
    returned as a copy, since the task may write the next one into the same array.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._space = env.observation_space
        self._shape = env.observation_space.shape

    def reset(self, **kwargs: Any) -> ResetResult:
        """Start an episode; arguments that are None are left out, as the task may not take them."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        obs, info = self.env.reset(**given)
        require_observation(self._space, obs)
        return obs, info

    def step(self, action: Any) -> EnvStep:
        """Act."""
        obs, reward, terminated, truncated, info = result = self.env.step(action)
        if not isinstance(reward, _NUMBERS) or not -MAX_REWARD <= reward <= MAX_REWARD:
            raise TypeError(
                f"the reward must be a finite number in the range of float32, got {reward!r}"
            )
        # A cheap comparison first, as this runs at every step.
        if not isinstance(obs, np.ndarray) or obs.shape != self._shape:
            require_observation(self._space, obs)
        if terminated or truncated:
            return copy.deepcopy(obs), reward, terminated, truncated, info
        return result


def require_observation(space: Space, obs: Any) -> None:
    """Raise TypeError if an observation has another shape or other keys than its space."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or obs.keys() != space.spaces.keys():
            raise TypeError(
                f"the observation must have the keys {sorted(space.spaces)}, got {obs!r}"
            )
        for key, part in space.spaces.items():
            require_observation(part, obs[key])
        return
    expected = space.shape or ()
    # `np.shape` takes ten times as long as the attribute, and this runs at every step.
    shape = obs.shape if isinstance(obs, np.ndarray) else np.shape(obs)
    if shape != expected:
        raise TypeError(f"the observation must have the shape {expected}, got {shape}")


def seed_of_each(seed: Seed, num_envs: int) -> list[int | None]:
    """Return a seed for each environment: ``seed + i``, the given seeds, or None for all.

    :raises ValueError: if a sequence doesn't hold `num_envs` seeds
    """
    if seed is None or isinstance(seed, int | np.integer):
        return [None if seed is None else int(seed) + index for index in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"`seed` must hold num_envs={num_envs} seeds, got {len(seed)}")
    return list(seed)


def succeeded(so_far: float, info: Mapping[str, Any]) -> float:
    """Return 1 if a step of the episode reported success, else 0 if one reported failure, else NaN.

    :param so_far: what this returned for the step before, NaN at first
    :param info: the step's info; values that aren't numbers are ignored
    """
    for key in SUCCESS_KEYS:
        value = info.get(key)
        if isinstance(value, np.ndarray) and not value.shape:
            value = value.item()
        if isinstance(value, _NUMBERS) and value == value:  # only NaN differs from itself
            so_far = float(np.fmax(so_far, value > 0))
    return so_far
