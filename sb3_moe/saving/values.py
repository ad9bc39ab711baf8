"""The file of a saved model: safetensors, with JSON in its metadata.

Plain values stay as they are in the JSON. Any other value is an object with one key, which says
what it is: ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``,
``{"float": "inf"}``, ``{"float64": 1.5}``, ``{"dtype": "float32"}``, ``{"array": "3"}``,
``{"tensor": "3"}``, ``{"class": ...}``, ``{"custom": ...}``, or an object of ``OBJECTS``. Arrays
and tensors lie beside the JSON, under the names in it.
"""

import json
import math
import os
import textwrap
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch as th
from gymnasium import spaces
from stable_baselines3.common import noise
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy
from torch import Tensor

from sb3_moe.layers import __all__ as layer_names
from sb3_moe.policies.learning_rates import LinearPerBlock, Restarted
from sb3_moe.policies.placements import Placement

#: The most bytes of a file's header: the JSON, and the names and shapes of tensors.
MAX_HEADER = 2**21
_NOT_OURS = (
    "sb3_moe.save didn't write it; a file of SB3's model.save is opened by PPO.load or its like"
)


class UnsafeFileError(ValueError):
    """A file can't be opened safely; the message says in one line what is wrong with it."""


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn any error that a file's contents cause into one line that names the file.

    :param path: the file
    :raises MemoryError: if there is too little memory here, which is no fault of the file's
    :raises UnsafeFileError: in place of any other exception
    """
    try:
        yield
    except (MemoryError, th.OutOfMemoryError):
        raise
    except Exception as error:  # contents can be wrong in any way
        reason = str(error)
        if not isinstance(error, UnsafeFileError):
            reason = f"it describes no model that can be built ({type(error).__name__}: {error})"
        line = textwrap.shorten(reason, 400, placeholder=" ...")
        raise UnsafeFileError(f"{path.name} can't be opened: {line}") from error


def pack(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return a file's contents.

    :param state: plain values
    :param tensors: by name, none of which needs to be contiguous or on the CPU
    :raises ValueError: if the values and names are too long
    """
    # Copies, since safetensors refuses tensors that share memory, such as two views of one.
    own = {
        name: tensor.detach().cpu().clone(memory_format=th.contiguous_format)
        for name, tensor in tensors.items()
    }
    said = json.dumps(state, allow_nan=False)
    # The checksum is a tensor, since safetensors writes several entries of metadata in any order.
    own["crc32"] = th.tensor(_checksum(said, own))
    data = safetensors.torch.save(own, {"model": said})
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise ValueError(
            "a model's arguments and the names of its tensors must take at most "
            f"{MAX_HEADER:,} bytes, and these take {length:,}: give long arguments as arrays"
        )
    return data


def unpack(file: IO[bytes], max_bytes: float) -> tuple[Any, dict[str, Tensor]]:
    """Return what :func:`pack` was given.

    :param file: open for reading
    :param max_bytes: the most that the file may hold
    :raises UnsafeFileError: if the file is too large, is damaged, or is of another kind
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if size > max_bytes:
        raise UnsafeFileError(f"it has {size} bytes: pass max_bytes={2 * size} if it is yours")
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER:
        raise UnsafeFileError(_NOT_OURS)
    data = start + file.read()
    try:
        header = json.loads(data[8 : 8 + length])
        tensors = safetensors.torch.load(data)
        said = header["__metadata__"]["model"]
        state = json.loads(said)
        crc = int(tensors.pop("crc32"))
    except Exception as error:  # the library's errors have no class in common
        raise UnsafeFileError(f"{_NOT_OURS} ({type(error).__name__}: {error})") from error
    if crc != _checksum(said, tensors):
        raise UnsafeFileError("it is damaged: its checksum is wrong")
    return state, tensors


def _checksum(said: str, tensors: Mapping[str, Tensor]) -> int:
    """Return a checksum against damage, not against forgery."""
    crc = zlib.crc32(said.encode())
    for name in sorted(tensors):
        data = tensors[name].reshape(-1).view(th.uint8)
        crc = zlib.crc32(data.numpy().data, crc)
    return crc


_SB3 = "stable_baselines3"
_CONTRIB = "sb3_contrib"
# The classes that a file may name for each argument that takes one, by module. Any other class
# could do harm there: an algorithm in place of an extractor would make an environment, and import
# the module in the environment's id.
_OF_ROLES = {
    "algorithm": {
        _SB3: "A2C DDPG DQN PPO SAC TD3",
        _CONTRIB: "CrossQ MaskablePPO QRDQN RecurrentPPO TQC TRPO",
    },
    "activation_fn": {
        "torch.nn": "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU "
        "LogSigmoid Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign "
        "Tanh Tanhshrink Threshold"
    },
    "optimizer_class": {
        "torch.optim": "Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop SGD",
        f"{_SB3}.common.sb2_compat.rmsprop_tf_like": "RMSpropTFLike",
    },
    "features_extractor_class": {
        f"{_SB3}.common.torch_layers": "CombinedExtractor FlattenExtractor NatureCNN",
        "sb3_moe.policies.extractors": "TaskExtractor",
    },
    "replay_buffer_class": {
        f"{_SB3}.common.buffers": "DictReplayBuffer NStepReplayBuffer ReplayBuffer",
        f"{_SB3}.her": "HerReplayBuffer",
        "sb3_moe.vec_env": "DeviceReplayBuffer MultiTaskReplayBuffer ReturnScaledReplayBuffer",
    },
    "rollout_buffer_class": {
        f"{_SB3}.common.buffers": "DictRolloutBuffer RolloutBuffer",
        f"{_CONTRIB}.common.maskable.buffers": "MaskableDictRolloutBuffer MaskableRolloutBuffer",
        "sb3_moe.vec_env": "DeviceRolloutBuffer",
    },
}
#: For each argument, the module of each class by the class's name. A file holds only this name, so
#: that modules may move.
KNOWN = {
    role: {name: module for module, names in modules.items() for name in names.split()}
    for role, modules in _OF_ROLES.items()
}
# All other arguments may name the classes of `sb3_moe.layers`.
_LAYERS = {name: "sb3_moe.layers" for name in layer_names if name[0].isupper()}


def _kept(*names: str, **others: str) -> dict[str, str]:
    return {name: name for name in names} | others


# Classes of objects that are mere data, and the attribute that keeps each argument of the
# constructor. A space's bounds are stored in full, so that a few bytes can't describe a space that
# takes much memory.
_OBJECTS: dict[type[Any], dict[str, str]] = {
    FloatSchedule: _kept("value_schedule"),
    ConstantSchedule: _kept("val"),
    LinearSchedule: _kept("start", "end", "end_fraction"),
    LinearPerBlock: _kept("initial", "num_blocks"),
    Restarted: _kept("schedule", "begin"),
    Placement: _kept(*(each.name for each in fields(Placement))),
    noise.NormalActionNoise: _kept(mean="_mu", sigma="_sigma", dtype="_dtype"),
    noise.OrnsteinUhlenbeckActionNoise: _kept(
        "initial_noise", mean="_mu", sigma="_sigma", theta="_theta", dt="_dt", dtype="_dtype"
    ),
    spaces.Box: _kept("low", "high", "dtype"),
    spaces.Discrete: _kept("n", "start", "dtype"),
    spaces.MultiDiscrete: _kept("nvec", "start", "dtype"),
    spaces.MultiBinary: _kept("n"),
    spaces.Text: _kept("max_length", "min_length", charset="characters"),
    spaces.Dict: _kept("spaces"),
    spaces.Tuple: _kept("spaces"),
}
OBJECTS = {kind.__name__: (kind, attributes) for kind, attributes in _OBJECTS.items()}
# Options whose text may be "package.module:Class", which the policy imports. A file holds only the
# name of the class, and whoever loads the file passes the class in `custom_objects`.
_IMPORTED = ("router", "head_router", "expert")
_LARGEST_SPACE = 2**24
_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


class Encoder:
    """Turns values into JSON, and collects their tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        #: the user's own classes and functions, by their names in the file
        self.own: dict[str, Any] = {}

    def encode(self, name: str, value: Any) -> Any:
        """Return a value's JSON.

        :param name: the argument that the value belongs to
        :param value: plain values, arrays, tensors, spaces, classes, schedules, noises, and
            nestings of them
        :raises ValueError: if it is something else
        """
        if _is_import(name, value):
            module, _, attribute = value.partition(":")
            value = getattr(import_module(module), attribute)
        match value:
            case np.float64():
                # NumPy may round otherwise when it computes with a np.float64 than with a Python
                # float. Its other numbers become Python's.
                return {"float64": self.encode(name, float(value))}
            case np.generic() if value.dtype.name in _DTYPES:
                return self.encode(name, value.item())
            case Tensor():
                return {"tensor": self._keep(value)}
            case np.ndarray() if value.dtype.name in _DTYPES and value.dtype.isnative:
                # A copy: torch warns of arrays that can't be written to.
                return {"array": self._keep(th.from_numpy(np.array(value, order="C")))}
            case np.dtype():
                return {"dtype": value.name}
            case None | bool() | str() | int():
                return value
            case float():
                return value if math.isfinite(value) else {"float": repr(value)}
            case list():
                return [self.encode(name, each) for each in value]
            case tuple():
                return {"tuple": [self.encode(name, each) for each in value]}
            case Mapping() if not isinstance(value, spaces.Space):
                return {"dict": [self._entry(name, *pair) for pair in value.items()]}
            case GoalSelectionStrategy():
                return value.name.lower()
            case noise.VectorizedActionNoise():
                # `learn` makes a copy of the noise for each environment.
                return self.encode(name, value.base_noise)
            case type() if issubclass(value, np.generic):
                return {"dtype": np.dtype(value).name}
        return self._object(name, value)

    def _entry(self, name: str, key: Any, value: Any) -> list[Any]:
        if not isinstance(key, str | int):
            raise ValueError(f"`{name}` can't be saved: the key {key!r} is no text")
        return [key, self.encode(_role(name, key), value)]

    def _keep(self, tensor: Tensor) -> str:
        own = str(len(self.tensors))
        self.tensors[own] = tensor
        return own

    def _object(self, name: str, value: Any) -> Any:
        kind = _kind_of(value)
        if kind in _OBJECTS:
            given = {key: getattr(value, attribute) for key, attribute in _OBJECTS[kind].items()}
            return {kind.__name__: self.encode("", given)["dict"]}
        own = getattr(value, "__name__", "")
        if _known(name, own) is value:
            return {"class": own}
        if not own.isidentifier():
            raise ValueError(
                f"`{name}` can't be saved without pickle: {value!r} is no plain value, known "
                "class, space, schedule or noise, nor a class or function of your own that has a "
                "name"
            )
        if (other := self.own.setdefault(own, value)) is not value:
            raise ValueError(
                f"`{name}` can't be saved: {value!r} has the name of {other!r}, and "
                "`custom_objects` could give back only one of them; rename one"
            )
        return {"custom": own}


@dataclass
class Decoder:
    """Turns JSON into values.

    :param tensors: by name
    :param custom_objects: the user's own classes and functions, by name
    """

    tensors: Mapping[str, Tensor]
    custom_objects: Mapping[str, Any]

    def decode(self, name: str, value: Any) -> Any:
        """Return the value that JSON stands for.

        :param name: the argument that the value belongs to
        :param value: its JSON
        :raises ValueError: if it stands for no value
        """
        if _is_import(name, value):
            raise UnsafeFileError(f"its `{name}` names a module to import, {value[:60]!r}")
        if isinstance(value, list):
            return [self.decode(name, each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        match kind, content:
            case "tuple", list():
                return tuple(self.decode(name, each) for each in content)
            case "dict", list():
                return {key: self.decode(_role(name, key), each) for key, each in content}
            case "float", "nan" | "inf" | "-inf":
                return float(content)
            case "float64", _:
                return np.float64(self.decode(name, content))
            case "dtype", str() if content in _DTYPES:
                return np.dtype(content).type
            case "array", str() if content in self.tensors:
                return self.tensors[content].numpy()
            case "tensor", str() if content in self.tensors:
                return self.tensors[content]
            case "class" | "custom", str():
                return self._named(name, kind, content)
            case str(), list() if kind in OBJECTS:
                return self._object(kind, content)
        raise UnsafeFileError(f"its `{name}` holds a value of no known kind, {str(value)[:60]}")

    def _named(self, role: str, kind: str, name: str) -> Any:
        """Return a known class, or the custom object that the user gives by this name."""
        if kind == "custom":
            if name not in self.custom_objects:
                raise UnsafeFileError(
                    f"its `{role}` is a class or function of whoever saved it: pass it in "
                    f"custom_objects={{{name[:60]!r}: ...}}"
                )
            return self.custom_objects[name]
        if (known := _known(role, name)) is None:
            raise UnsafeFileError(
                f"its `{role}` is {name[:60]}, which needs sb3-contrib installed or is not known"
            )
        return known

    def _object(self, kind: str, content: list[Any]) -> Any:
        made, attributes = OBJECTS[kind]
        given = self.decode(kind, {"dict": content})
        if set(given) != set(attributes):
            raise UnsafeFileError(f"its {kind} must have {sorted(attributes)}")
        if made is spaces.Dict:
            given["spaces"] = list(given["spaces"].items())  # Gymnasium would sort a dict
        value = made(**given)
        if isinstance(value, spaces.Space) and math.prod(value.shape or ()) > _LARGEST_SPACE:
            raise UnsafeFileError(f"its {kind} space has more than {_LARGEST_SPACE} numbers")
        return value


def made_anew(space: spaces.Space) -> spaces.Space:
    """Return a space of Gymnasium's own classes that equals a space of our classes.

    :raises ValueError: if a file may not hold spaces of its kind
    """
    encoder = Encoder()
    state = encoder.encode("space", space)
    return Decoder(encoder.tensors, {}).decode("space", state)


def _kind_of(value: Any) -> type[Any]:
    """Return a value's class; for a space that names its tasks, the Gymnasium class it extends."""
    classes = type(value).__mro__ if hasattr(value, "task_names") else ()
    return next((each for each in classes if each in _OBJECTS), type(value))


def _is_import(name: str, value: Any) -> bool:
    return name in _IMPORTED and isinstance(value, str) and ":" in value


def _role(outer: str, key: Any) -> str:
    """Return the argument that a dict's entry is for: usually the entry's key.

    A router or an expert may be a dict by network. Its entries are for the dict's own argument.
    """
    return outer if outer in _IMPORTED else str(key)


def _known(role: str, name: str) -> Any:
    """Import a class that the lists above name, never one that only a file names.

    :return: None if the lists don't name it, or sb3-contrib is not installed
    """
    try:
        return getattr(import_module(KNOWN.get(role, _LAYERS)[name]), name)
    except (ImportError, KeyError):
        return None
