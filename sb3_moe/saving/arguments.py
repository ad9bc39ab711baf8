"""What an algorithm was built with and how far it has come, as SB3 keeps both on the model."""

from __future__ import annotations

from inspect import signature
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import Decoder, Encoder, as_pythons, checked_type

# Not the file's to say: where to run, and where to write.
_NOT_SAVED = frozenset({"policy", "env", "device", "tensorboard_log", "self"})
# Kept under another name than the constructor's, or set by `learn`.
PROGRESS = (
    "num_timesteps",
    "n_envs",
    "_stats_window_size",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_episode_num",
    "_current_progress_remaining",
    "_n_updates",
    "_n_calls",
    "exploration_rate",
)
# Built from the arguments, but a callback may have put another in its place.
SCHEDULES = ("lr_schedule", "exploration_schedule")


def argument_names(model: BaseAlgorithm) -> list[str]:
    """Return the arguments of a model's constructors that it keeps under their own names."""
    names = {
        name: None
        for each in type(model).__mro__
        if issubclass(each, BaseAlgorithm)
        for name in signature(each.__init__).parameters
    }
    return [name for name in names if name in vars(model) and name not in _NOT_SAVED]


def encode_arguments(encoder: Encoder, model: Any) -> dict[str, Any]:
    """Return the JSON of a model's arguments, progress and schedules."""
    arguments = {name: getattr(model, name) for name in argument_names(model)}
    if isinstance(arguments.get("train_freq"), TrainFreq):
        frequency, unit = arguments["train_freq"]
        arguments["train_freq"] = (frequency, unit.value)
    if makes_own_buffer(model):
        arguments["replay_buffer_class"] = None
    found = vars(model)
    return {
        "arguments": _encoded(encoder, arguments),
        "progress": _encoded(encoder, {n: found[n] for n in PROGRESS if n in found}),
        "schedules": _encoded(encoder, {n: found[n] for n in SCHEDULES if n in found}),
    }


def makes_own_buffer(model: Any) -> bool:
    """Tell SB3's choice of a buffer for n-step returns from the user's own, which it warns of."""
    chosen = getattr(model, "replay_buffer_class", None)
    is_dict = isinstance(model.observation_space, spaces.Dict)
    return chosen is NStepReplayBuffer and model.n_steps > 1 and not is_dict


def _encoded(encoder: Encoder, values: dict[str, Any]) -> dict[str, Any]:
    return {name: encoder.encode(name, value) for name, value in values.items()}


def decode_arguments(decoder: Decoder, state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values of what :func:`encode_arguments` returned, NumPy's numbers as Python's."""
    return {
        part: {
            name: as_pythons(decoder.decode(name, value))
            for name, value in checked_type(dict, state[part], part).items()
        }
        for part in ("arguments", "progress", "schedules")
    }


def set_arguments(model: BaseAlgorithm, values: dict[str, dict[str, Any]]) -> None:
    """Put arguments and progress on a model whose networks aren't built yet.

    :param model: as SB3's ``load`` begins
    :param values: of :func:`decode_arguments`; what an older file lacks keeps its default
    :raises UnsafeFileError: if there is a name that the model doesn't have, or progress that is
        no number
    """
    allowed = argument_names(model)
    if unknown := [name for name in values["arguments"] if name not in allowed]:
        raise UnsafeFileError(f"{type(model).__name__} has no argument {unknown[0][:60]!r}")
    for name, value in values["progress"].items():
        if name not in PROGRESS:
            raise UnsafeFileError(f"it counts {name[:60]!r}, which no model does")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnsafeFileError(f"its `{name}` must be a number")
    for name, value in values["arguments"].items():
        if not _is_like(value, getattr(model, name)):
            raise UnsafeFileError(f"its `{name}` is of the wrong type, {type(value).__name__}")
    vars(model).update(values["arguments"])
    vars(model).update(values["progress"])


def _is_like(value: Any, default: Any) -> bool:
    """Say whether a value may stand where the constructor's default stands."""
    match default:
        case bool():  # 0 and 1 do as well in Python
            return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
        case dict():
            return isinstance(value, dict)
        case int() | float():
            # Some may be None, a rate may be a schedule, a frequency has a unit, and False is 0.
            number = isinstance(value, int | float | tuple)
            fits = not isinstance(value, bool) or default in (0, 1)
            return (number and fits) or value is None or callable(value)
        case None:
            return not isinstance(value, list)
    return True


def set_schedules(model: BaseAlgorithm, values: dict[str, dict[str, Any]]) -> None:
    """Put the schedules on a model that is built.

    :raises UnsafeFileError: if there is one that the model doesn't have
    """
    for name, schedule in values["schedules"].items():
        if name not in SCHEDULES or name not in vars(model) or not callable(schedule):
            raise UnsafeFileError(f"it has a schedule {name[:60]!r} that the model hasn't")
        setattr(model, name, schedule)
