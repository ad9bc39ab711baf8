"""Arguments as JSON: an object has one key, which says what it is; arrays lie beside.

Plain values stay as they are. ``{"tuple": [...]}``, ``{"dict": {...}}``, ``{"float": "inf"}``,
``{"array": "3"}``, ``{"scalar": "3"}``, ``{"dtype": "float32"}``, ``{"class": ...}``,
``{"custom": ...}``, and the objects of ``OBJECTS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import (
    KEY_TO_GOAL_STRATEGY,
    GoalSelectionStrategy,
)

from sb3_moe.layers.classes import Registry
from sb3_moe.layers.registry import EXPERTS, ROUTERS
from sb3_moe.learning_rates import LinearPerBlock, Restarted
from sb3_moe.policies.placements import Placement
from sb3_moe.saving.classes import class_of, is_custom, name_of
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.strict_json import MAX_INT
from sb3_moe.saving.tensors import check_array

# Schedules, noises and placements: class, and for each argument of its constructor the attribute
# that keeps it.
OBJECTS: dict[str, tuple[type[Any], dict[str, str]]] = {
    "FloatSchedule": (FloatSchedule, {"value_schedule": "value_schedule"}),
    "ConstantSchedule": (ConstantSchedule, {"val": "val"}),
    "LinearSchedule": (
        LinearSchedule,
        {"start": "start", "end": "end", "end_fraction": "end_fraction"},
    ),
    "LinearPerBlock": (LinearPerBlock, {"initial": "initial", "num_blocks": "num_blocks"}),
    "Restarted": (Restarted, {"schedule": "schedule", "begin": "begin"}),
    "Placement": (Placement, {each.name: each.name for each in fields(Placement)}),
    "NormalActionNoise": (
        NormalActionNoise,
        {"mean": "_mu", "sigma": "_sigma", "dtype": "_dtype"},
    ),
    "OrnsteinUhlenbeckActionNoise": (
        OrnsteinUhlenbeckActionNoise,
        {
            "mean": "_mu",
            "sigma": "_sigma",
            "theta": "_theta",
            "dt": "_dt",
            "initial_noise": "initial_noise",
            "dtype": "_dtype",
        },
    ),
}
# Which of them an argument may hold; under a name that isn't here, none.
_NOISES = frozenset({"NormalActionNoise", "OrnsteinUhlenbeckActionNoise"})
_SCHEDULES = frozenset(OBJECTS) - _NOISES - {"Placement"}
OBJECTS_OF: dict[str, frozenset[str]] = {
    **dict.fromkeys(("learning_rate", "clip_range", "clip_range_vf"), _SCHEDULES),
    **dict.fromkeys(("lr_schedule", "exploration_schedule"), _SCHEDULES),
    **dict.fromkeys(("schedule", "value_schedule"), _SCHEDULES),
    "action_noise": _NOISES,
    "placement": frozenset({"Placement"}),
}
# Options whose text may be "package.module:Class", which whoever reads it imports: a file says
# what the class is called instead, and whoever opens it what that is.
IMPORTING: dict[str, Registry[Any]] = {"router": ROUTERS, "head_router": ROUTERS, "expert": EXPERTS}
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


class Encoder:
    """Turns values into JSON and collects their arrays."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        #: the user's own classes and functions, by the name that the file has
        self.own: dict[str, Any] = {}

    def array(self, name: str, value: Any) -> str:
        """Keep an array and return what the file calls it.

        :param name: the argument that it belongs to
        :param value: the array, or a number
        :raises ValueError: if it holds anything but numbers
        """
        array = np.asarray(value)
        check_array(f"`{name}`", array)
        own = str(len(self.arrays))
        self.arrays[own] = array
        return own

    def encode(self, name: str, value: Any) -> Any:
        """Return a value's JSON.

        :param name: the argument that the value belongs to
        :param value: plain values, arrays, classes, schedules, noises, and nestings of them
        :raises ValueError: if it is something else
        """
        if _is_import(name, value):
            return self._named(name, IMPORTING[name].find(value))
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.generic):
            return {"scalar": self.array(name, value)}
        if isinstance(value, int):
            if abs(value) >= MAX_INT:
                raise ValueError(f"`{name}` must be a number of 64 bits to be saved, got {value}")
            return int(value)
        if isinstance(value, float):
            return float(value) if np.isfinite(value) else {"float": repr(float(value))}
        if isinstance(value, list):
            return [self.encode(name, each) for each in value]
        if isinstance(value, tuple):
            return {"tuple": [self.encode(name, each) for each in value]}
        if isinstance(value, Mapping):
            return {"dict": self._entries(name, value)}
        return self._encode_object(name, value)

    def _entries(self, name: str, value: Mapping[Any, Any]) -> dict[str, Any]:
        if other := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"`{name}` can't be saved: the key {other[0]!r} is no text")
        return {key: self.encode(_role(name, key), each) for key, each in value.items()}

    def _encode_object(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {"array": self.array(name, value)}
        if isinstance(value, type) and issubclass(value, np.generic):
            return {"dtype": np.dtype(value).name}
        if isinstance(value, np.dtype):
            return {"dtype": value.name}
        if isinstance(value, GoalSelectionStrategy):
            return next(text for text, each in KEY_TO_GOAL_STRATEGY.items() if each is value)
        if isinstance(value, VectorizedActionNoise):
            # `learn` makes as many of it as there are environments.
            return self.encode(name, value.base_noise)
        for known, (kind, attributes) in OBJECTS.items():
            if type(value) is kind:
                own = {key: getattr(value, attr) for key, attr in attributes.items()}
                return {known: self._entries(name, own)}
        if isinstance(value, type) or (callable(value) and hasattr(value, "__name__")):
            return self._named(name, value)
        raise ValueError(
            f"`{name}` can't be saved without pickle: {value!r} is no plain value, known class, "
            "schedule or noise; a function or class of your own must be given by itself"
        )

    def _named(self, role: str, value: Any) -> dict[str, str]:
        """Return the JSON of a class or function; ``custom_objects`` has one for each name.

        :raises ValueError: if another of the user's own has its name
        """
        named = name_of(role, value)
        if is_custom(named):
            other = self.own.setdefault(named["custom"], value)
            if other is not value:
                raise ValueError(
                    f"`{role}` can't be saved: {value!r} has the name of {other!r}, and "
                    "`custom_objects` could give back only one of them; rename one"
                )
        return named


class Decoder:
    """Turns JSON into values.

    :param arrays: by name
    :param custom_objects: the user's own classes and functions, by name
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], custom_objects: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self._unused = set(arrays)
        self.custom_objects = custom_objects

    def array(self, name: Any) -> np.ndarray:
        """Return an array by its name.

        :raises UnsafeFileError: if there is none
        """
        if not isinstance(name, str) or name not in self._arrays:
            raise UnsafeFileError(f"it names the array {str(name)[:60]!r}, which it hasn't")
        self._unused.discard(name)
        return self._arrays[name]

    def check_all_used(self) -> None:
        """Refuse arrays that no value named.

        :raises UnsafeFileError: if there are any
        """
        if self._unused:
            raise UnsafeFileError(f"its array {min(self._unused)[:60]!r} belongs to nothing")

    def decode(self, name: str, value: Any) -> Any:
        """Return the value of its JSON.

        :param name: the argument that the value belongs to
        :param value: the JSON
        :raises UnsafeFileError: if it is none
        """
        if _is_import(name, value):
            raise UnsafeFileError(f"its `{name}` names a module to import, {value[:60]!r}")
        if value is None or isinstance(value, bool | str | int | float):
            return value
        if isinstance(value, list):
            return [self.decode(name, each) for each in value]
        if not isinstance(value, dict) or len(value) != 1:
            raise UnsafeFileError(f"its `{name}` is an object without one kind")
        ((kind, content),) = value.items()
        match kind:
            case "tuple":
                return tuple(self.decode(name, each) for each in checked_type(list, content, name))
            case "dict":
                entries = checked_type(dict, content, name).items()
                return {key: self.decode(_role(name, key), each) for key, each in entries}
            case "float" if content in ("nan", "inf", "-inf"):
                return float(content)
            case "array":
                return self.array(content)
            case "scalar" if self.array(content).ndim == 0:
                return self.array(content)[()]
            case "dtype" if content in DTYPES:
                return np.dtype(content).type
            case "class" | "custom" if isinstance(content, str):
                return class_of(name, value, self.custom_objects)
        if kind in OBJECTS_OF.get(name, ()):
            return self._object(kind, content)
        raise UnsafeFileError(f"its `{name}` is of the unknown kind {kind[:60]!r}")

    def _object(self, kind: str, content: Any) -> Any:
        made, attributes = OBJECTS[kind]
        if set(checked_type(dict, content, kind)) != set(attributes):
            raise UnsafeFileError(f"its {kind} must have {sorted(attributes)}")
        values = {key: self.decode(key, each) for key, each in content.items()}
        try:
            return made(**values)
        except (TypeError, ValueError) as error:
            raise UnsafeFileError(f"its {kind} is not valid: {error}") from error


def _is_import(name: str, value: Any) -> bool:
    return name in IMPORTING and isinstance(value, str) and ":" in value


def _role(outer: str, key: str) -> str:
    """Return the argument that an entry of a dict is for: in a dict by tower, the dict's own."""
    return outer if outer in IMPORTING or outer == "placement" else key


def as_pythons(value: Any) -> Any:
    """Return a number of NumPy's as one of Python's, if it isn't one anyway, as float64 is.

    SB3 keeps whichever it was given, and NumPy rounds by a float64 otherwise than by a float.
    """
    ours = not isinstance(value, np.generic) or isinstance(value, float)
    return value if ours else value.item()


def checked_type(kind: type[Any], value: Any, name: str) -> Any:
    """Return a value if it is of a type.

    :raises UnsafeFileError: if it isn't
    """
    if not isinstance(value, kind):
        raise UnsafeFileError(f"its `{name[:60]}` holds no {kind.__name__}")
    return value
