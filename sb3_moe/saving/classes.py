"""The classes that a file may name; nothing else is ever imported for one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sb3_moe import layers
from sb3_moe.plasticity.activations import ACTIVATIONS
from sb3_moe.policies.registration import TABLE
from sb3_moe.saving.errors import UnsafeFileError

_SB3 = "stable_baselines3.common"
_CONTRIB = "sb3_contrib.common"

# What each argument that takes a class may name, as module:Class; a file has the class alone, so
# that modules may move.
KNOWN: dict[str, tuple[str, ...]] = {
    "activation_fn": (
        *(f"torch.nn:{each.__name__}" for each in ACTIVATIONS),
        "torch.nn:Identity",
        "torch.nn:LogSigmoid",
        "torch.nn:Tanhshrink",
        "torch.nn:Softshrink",
        "torch.nn:Hardsigmoid",
    ),
    "optimizer_class": (
        *(
            f"torch.optim:{name}"
            for name in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta")
        ),
        "torch.optim:RMSprop",
        "torch.optim:SGD",
        "sb3_moe.optimizers:ExpertAdam",
        "sb3_moe.optimizers:ExpertAdamW",
        f"{_SB3}.sb2_compat.rmsprop_tf_like:RMSpropTFLike",
    ),
    "features_extractor_class": (
        f"{_SB3}.torch_layers:FlattenExtractor",
        f"{_SB3}.torch_layers:NatureCNN",
        f"{_SB3}.torch_layers:CombinedExtractor",
        "sb3_moe.policies.extractors:TaskExtractor",
    ),
    "replay_buffer_class": (
        f"{_SB3}.buffers:ReplayBuffer",
        f"{_SB3}.buffers:DictReplayBuffer",
        f"{_SB3}.buffers:NStepReplayBuffer",
        "stable_baselines3.her:HerReplayBuffer",
        "sb3_moe.buffers:DeviceReplayBuffer",
        "sb3_moe.buffers:MultiTaskReplayBuffer",
    ),
    "rollout_buffer_class": (
        f"{_SB3}.buffers:RolloutBuffer",
        f"{_SB3}.buffers:DictRolloutBuffer",
        "sb3_moe.buffers:DeviceRolloutBuffer",
        "sb3_moe.buffers:MultiTaskRolloutBuffer",
        f"{_CONTRIB}.maskable.buffers:MaskableRolloutBuffer",
        f"{_CONTRIB}.maskable.buffers:MaskableDictRolloutBuffer",
    ),
}
# Options that take a class of ours, by whatever name they have.
LAYERS = tuple(
    f"sb3_moe.layers:{name}" for name in layers.__all__ if isinstance(getattr(layers, name), type)
)


def is_custom(value: Any) -> bool:
    """Say whether this is the JSON that stands for an object of the user's own."""
    return isinstance(value, dict) and set(value) == {"custom"}


def names_asked(value: Any) -> set[str]:
    """Return the names of all objects of the user's own in a file's JSON."""
    if is_custom(value) and isinstance(value["custom"], str):
        return {value["custom"]}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(names_asked, inner))


def name_of(role: str, value: Any) -> dict[str, str]:
    """Return the JSON of a class, or of a function that the user names.

    :param role: the argument that takes it
    :param value: a class or function
    :raises ValueError: if it has no name that could be given again
    """
    for name, known in _known(role).items():
        if _is_installed(known) and _import(known) is value:
            return {"class": name}
    name = getattr(value, "__name__", "")
    if not name.isidentifier():
        raise ValueError(
            f"`{role}` can't be saved: {value!r} has no name under which `custom_objects` could "
            "give it back; use a class or a function with a name"
        )
    return {"custom": name}


def class_of(role: str, value: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> Any:
    """Return the class that :func:`name_of` named.

    :param role: the argument that takes it
    :param value: the JSON
    :param custom_objects: the user's own, by name
    :raises UnsafeFileError: if it isn't on the list, or isn't given
    """
    if is_custom(value):
        return custom_object(role, value["custom"], custom_objects)
    known = _known(role)
    if value["class"] not in known:
        raise UnsafeFileError(
            f"its `{role}` is {str(value['class'])[:80]!r}, which is none of the known classes"
        )
    return _import(known[value["class"]])


def custom_object(role: str, name: Any, custom_objects: Mapping[str, Any]) -> Any:
    """Return an object of the user's own.

    :raises UnsafeFileError: saying what to pass, if it isn't given
    """
    if not isinstance(name, str) or name not in custom_objects:
        raise UnsafeFileError(
            f"its `{role}` is a class or function of its maker's: pass custom_objects="
            f"{{{str(name)[:60]!r}: ...}} to say what that is"
        )
    return custom_objects[name]


def algorithm_name(algorithm: type[Any]) -> Any:
    """Return the JSON of an algorithm's class."""
    for name in TABLE:
        if _is_installed(TABLE[name].algorithm) and _import(TABLE[name].algorithm) is algorithm:
            return name
    return {"custom": algorithm.__name__}


def algorithm_of(value: Any, custom_objects: Mapping[str, Any]) -> type[Any]:
    """Return the class that :func:`algorithm_name` named.

    :raises UnsafeFileError: if there is none, or it needs sb3-contrib
    """
    if is_custom(value):
        found: type[Any] = custom_object("algorithm", value["custom"], custom_objects)
        return found
    if not isinstance(value, str) or value not in TABLE:
        raise UnsafeFileError(f"its algorithm is {str(value)[:60]!r}, none of {sorted(TABLE)}")
    if not _is_installed(TABLE[value].algorithm):
        raise UnsafeFileError(f"its algorithm is {value}, which needs sb3-contrib installed")
    return _import(TABLE[value].algorithm)


def policy_name(algorithm: type[Any], policy: type[Any]) -> Any:
    """Return the JSON of a policy's class: the algorithm's name for it where it has one."""
    for alias, known in algorithm.policy_aliases.items():
        if known is policy:
            return alias
    return {"custom": policy.__name__}


def policy_of(algorithm: type[Any], value: Any, custom_objects: Mapping[str, Any]) -> type[Any]:
    """Return the class that :func:`policy_name` named.

    :raises UnsafeFileError: if the algorithm has no such policy
    """
    if is_custom(value):
        found: type[Any] = custom_object("policy", value["custom"], custom_objects)
        return found
    if not isinstance(value, str) or value not in algorithm.policy_aliases:
        raise UnsafeFileError(
            f"its policy is {str(value)[:60]!r}, none of {sorted(algorithm.policy_aliases)}"
        )
    return algorithm.policy_aliases[value]


def lstm_states() -> type[Any] | None:
    """Return sb3-contrib's pair of recurrent states, if it is installed."""
    name = f"{_CONTRIB}.recurrent.type_aliases:RNNStates"
    found: type[Any] | None = _import(name) if _is_installed(name) else None
    return found


def _known(role: str) -> dict[str, str]:
    return {name.partition(":")[2]: name for name in KNOWN.get(role, LAYERS)}


def _is_installed(name: str) -> bool:
    return find_spec(name.split(".")[0].split(":")[0]) is not None


def _import(name: str) -> Any:
    """Import what one of the lists above names, never what a file says."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
