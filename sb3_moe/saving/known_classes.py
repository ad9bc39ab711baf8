"""The classes that a file may name; nothing else is ever imported for one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sb3_moe import layers
from sb3_moe.saving.container import UnsafeFileError

_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"
_OF_MODULES = {
    _SB3: "A2C DDPG DQN PPO SAC TD3",
    _CONTRIB: "CrossQ MaskablePPO QRDQN RecurrentPPO TQC TRPO",
    "torch.nn": "CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh Identity LeakyReLU "
    "LogSigmoid Mish PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Softshrink Softsign Tanh "
    "Tanhshrink Threshold",
    "torch.optim": "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop "
    "SGD",
    f"{_SB3}.common.sb2_compat.rmsprop_tf_like": "RMSpropTFLike",
    f"{_SB3}.common.torch_layers": "CombinedExtractor FlattenExtractor NatureCNN",
    "sb3_moe.policies.extractors": "TaskExtractor",
    f"{_SB3}.common.buffers": "DictReplayBuffer DictRolloutBuffer NStepReplayBuffer ReplayBuffer "
    "RolloutBuffer",
    f"{_SB3}.her": "HerReplayBuffer",
    f"{_CONTRIB}.common.maskable.buffers": "MaskableDictRolloutBuffer MaskableRolloutBuffer",
    "sb3_moe.buffers": "DeviceReplayBuffer DeviceRolloutBuffer MultiTaskReplayBuffer "
    "MultiTaskRolloutBuffer",
    "sb3_moe.layers": " ".join(
        name for name in layers.__all__ if isinstance(getattr(layers, name), type)
    ),
}
#: The module of each class by its name. A file has the name alone, so that modules may move.
KNOWN = {name: module for module, names in _OF_MODULES.items() for name in names.split()}


def named(role: str, value: Any) -> dict[str, str]:
    """Return the JSON of a class, or of a function that the user names.

    :param role: the argument that takes it
    :param value: a class or function
    :raises ValueError: if it has no name that could be given again
    """
    name = getattr(value, "__name__", "")
    if name in KNOWN and _known(name) is value:
        return {"class": name}
    if not name.isidentifier():
        raise ValueError(
            f"`{role}` can't be saved: {value!r} has no name under which `custom_objects` could "
            "give it back; use a class or a function with a name"
        )
    return {"custom": name}


def found(role: str, value: Mapping[str, Any], custom_objects: Mapping[str, Any]) -> Any:
    """Return the class or function that :func:`named` named.

    :param role: the argument that takes it
    :param value: the JSON
    :param custom_objects: the user's own, by name
    :raises UnsafeFileError: if it isn't on the list, isn't given, or needs sb3-contrib
    """
    ((kind, name),) = value.items()
    if kind == "custom":
        if name not in custom_objects:
            raise UnsafeFileError(
                f"its `{role}` is a class or function of its maker's: pass custom_objects="
                f"{{{name[:60]!r}: ...}} to say what that is"
            )
        return custom_objects[name]
    if name not in KNOWN:
        raise UnsafeFileError(f"its `{role}` is {name[:60]!r}, which is none of the known classes")
    if (known := _known(name)) is None:
        raise UnsafeFileError(f"its `{role}` is {name}, which needs sb3-contrib installed")
    return known


def _known(name: str) -> Any:
    """Import what the list above names, never what a file says; None without sb3-contrib."""
    try:
        return getattr(import_module(KNOWN[name]), name)
    except ImportError:
        return None
