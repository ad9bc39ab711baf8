"""What a replay buffer holds, as tensors by name; only the rows that were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.saving.container import UnsafeFileError, check_forms
from sb3_moe.vec_env.observations import map_observation
from sb3_moe.vec_env.replay_buffers import (
    DeviceReplayBuffer,
    MultiTaskReplayBuffer,
    end_running_episodes,
)

KINDS = (
    ReplayBuffer,
    DictReplayBuffer,
    NStepReplayBuffer,
    HerReplayBuffer,
    DeviceReplayBuffer,
    MultiTaskReplayBuffer,
)
# What a buffer keeps of each transition; HER's also where its episode begins, and how long it is.
ROWS = (
    *("observations", "next_observations", "actions", "rewards", "dones", "timeouts"),
    *("ep_start", "ep_length"),
)
_RUNNING = "current_ep_start"


def rows_written(buffer: Any) -> int:
    """Return how many rows of a buffer hold something.

    The row after the last has its next observation, with ``optimize_memory_usage``.
    """
    size = int(buffer.buffer_size)
    return size if buffer.full else min(buffer.pos + 1, size)


def encode_replay_buffer(model: Any) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """Return the JSON of the state of a model's replay buffer, and its rows.

    :raises ValueError: if it has none, or one that can't be saved
    """
    buffer: Any = getattr(model, "replay_buffer", None)
    if type(buffer) not in KINDS or getattr(buffer, "copy_info_dict", False):
        raise ValueError(
            f"`replay_buffer` must be False for {type(model).__name__} with a "
            f"{type(buffer).__name__}, got True; those of {[kind.__name__ for kind in KINDS]} "
            "without `copy_info_dict` can be saved"
        )
    rows = rows_written(buffer)
    tensors = {name: whole[:rows] for name, whole in _wholes(buffer)}
    if isinstance(buffer, HerReplayBuffer):
        tensors[_RUNNING] = th.from_numpy(buffer._current_ep_start.copy())
    state: dict[str, Any] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
    if isinstance(buffer, MultiTaskReplayBuffer):
        state["tasks"] = list(buffer._places._counts)
    return state, tensors


def load_replay_buffer(buffer: Any, state: Any, found: Mapping[str, th.Tensor]) -> None:
    """Put a file's transitions into a new buffer; the episodes that run end where they are.

    :param buffer: of the model that was built
    :param state: the JSON
    :param found: the rows
    :raises UnsafeFileError: if they don't fit
    """
    if type(buffer) not in KINDS or not 0 <= state["pos"] < buffer.buffer_size:
        raise UnsafeFileError(f"its transitions fit no {type(buffer).__name__} of this size")
    buffer.pos, buffer.full = int(state["pos"]), bool(state["full"])
    rows = rows_written(buffer)
    wholes = {name: whole[:rows] for name, whole in _wholes(buffer)}
    others = {name: each for name, each in found.items() if name not in wholes}
    check_forms("replay buffer", wholes | others, found)
    for name, whole in wholes.items():
        whole.copy_(found[name])
    if isinstance(buffer, MultiTaskReplayBuffer):
        _list_places(buffer, state["tasks"])
    if isinstance(buffer, HerReplayBuffer):
        buffer._current_ep_start = found[_RUNNING].numpy()
    end_running_episodes(buffer)


def resize(buffer: Any, rows: int) -> Any:
    """Cut a replay buffer's arrays to their first rows, or give them empty ones; return it."""

    def resized(array: Any) -> Any:
        if len(array) >= rows:
            return array[:rows]
        shape = (rows, *array.shape[1:])
        is_numpy = isinstance(array, np.ndarray)
        whole = np.zeros(shape, array.dtype) if is_numpy else array.new_zeros(shape)
        whole[: len(array)] = array
        return whole

    for name in ROWS:
        if name in vars(buffer):
            vars(buffer)[name] = map_observation(resized, vars(buffer)[name])
    return buffer


def check_num_envs(found: Mapping[str, th.Tensor], num_envs: int) -> None:
    """Raise unless a file's transitions are of as many environments as a model is to have.

    :raises ValueError: saying what to do
    """
    shape = found["rewards"].shape if "rewards" in found else ()
    if len(shape) == 2 and shape[1] != num_envs:
        raise ValueError(
            f"`env` must have as many environments as the file's replay buffer, {shape[1]}, "
            f"got {num_envs}: give as many, or replay_buffer=False to begin with an empty one"
        )


def _wholes(buffer: Any) -> Iterator[tuple[str, th.Tensor]]:
    """Yield the buffer's arrays as tensors on the same memory, environments in the second axis."""
    for name in ROWS:
        part = vars(buffer).get(name)
        if isinstance(part, dict):
            yield from ((f"{name}/{key}", th.as_tensor(each)) for key, each in part.items())
        elif part is not None:
            yield name, th.as_tensor(part)
    if isinstance(buffer, MultiTaskReplayBuffer):
        shape = buffer.buffer_size, buffer.n_envs
        yield "task_ids", th.from_numpy(buffer.task_ids).view(shape)
        yield "task_ranks", th.from_numpy(buffer._places._rank).view(shape)


def _list_places(buffer: MultiTaskReplayBuffer, tasks: list[int]) -> None:
    """List where each task's transitions are, in the order which decides what is drawn.

    :param tasks: in the order of their first transitions
    """
    ranks, places = buffer._places._rank, type(buffer._places)(len(buffer.task_ids))
    for task in tasks:
        # A task whose places were all overwritten keeps its turn.
        places._append(0, task)
        places._remove(0, task)
        own = np.flatnonzero(buffer.task_ids == task)
        for place in own[np.argsort(ranks[own])].tolist():
            places._append(place, task)
    buffer._places = places


# HerReplayBuffer, which is built around the environments that say what goals are worth.


def is_hindsight(model: Any) -> bool:
    """Say whether a model's replay buffer is to be a HerReplayBuffer."""
    kind = getattr(model, "replay_buffer_class", None)
    return isinstance(kind, type) and issubclass(kind, HerReplayBuffer)


def hindsight_buffer(model: Any, venv: VecEnv | None) -> HerReplayBuffer:
    """Build the buffer as SB3 does, which can't do it without environments.

    :param model: with arguments, not built yet
    :param venv: its environments; None: it serves for predictions until it has some
    """
    buffer: HerReplayBuffer = model.replay_buffer_class(
        model.buffer_size,
        model.observation_space,
        model.action_space,
        env=venv,
        device=model.device,
        n_envs=model.n_envs,
        optimize_memory_usage=model.optimize_memory_usage,
        **model.replay_buffer_kwargs,
    )
    return buffer
