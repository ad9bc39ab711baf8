"""What a replay buffer holds, as tensors by name; only the rows that were written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.saving.archive import REPLAY_BUFFER
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.hindsight import EPISODES, STARTS, check_episodes
from sb3_moe.saving.tensors import Form, TensorFile, form_of
from sb3_moe.saving.values import checked_type
from sb3_moe.vec_env import DeviceReplayBuffer, MultiTaskReplayBuffer
from sb3_moe.vec_env.replay_buffers import end_running_episodes

_KINDS = (
    ReplayBuffer,
    DictReplayBuffer,
    NStepReplayBuffer,
    HerReplayBuffer,
    DeviceReplayBuffer,
    MultiTaskReplayBuffer,
)
#: what a buffer keeps of each transition
ROWS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def replay_buffer_of(model: Any) -> ReplayBuffer:
    """Return a model's replay buffer.

    :raises ValueError: if it has none, or one that can't be saved
    """
    buffer = getattr(model, "replay_buffer", None)
    if buffer is None:
        raise ValueError(f"`replay_buffer` must be False for {type(model).__name__}, got True")
    if not can_be_saved(buffer):
        raise ValueError(
            f"`replay_buffer` must be False for a {type(buffer).__name__}; the contents of "
            f"{[kind.__name__ for kind in _KINDS]} can be saved"
        )
    if getattr(buffer, "copy_info_dict", False):
        raise ValueError(
            "`replay_buffer` must be False for a HerReplayBuffer with `copy_info_dict`=True, whose "
            "infos may hold anything, got True"
        )
    return buffer


def can_be_saved(buffer: Any) -> bool:
    """Say whether a buffer's contents are its rows and nothing else."""
    return type(buffer) in _KINDS


def encode_replay_buffer(buffer: Any) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """Return the JSON of a buffer's state, and its rows.

    :param buffer: of :func:`replay_buffer_of`
    """
    rows = _rows(buffer, buffer.pos, buffer.full)
    tensors = {name: whole[:rows] for name, whole in _wholes(buffer)}
    if isinstance(buffer, HerReplayBuffer):
        tensors[STARTS] = th.from_numpy(buffer._current_ep_start.copy())
    state: dict[str, Any] = {"pos": int(buffer.pos), "full": bool(buffer.full)}
    if isinstance(buffer, MultiTaskReplayBuffer):
        # The order in which places are listed decides which are drawn.
        places = buffer._places
        state["tasks"] = list(places._counts)
        for task, count in places._counts.items():
            tensors[f"places/{task}"] = th.from_numpy(places._places[task][:count].copy())
    return state, tensors


def load_replay_buffer(
    buffer: Any, state: Any, file: TensorFile, *, going_on: bool = False
) -> None:
    """Put a file's transitions into a new buffer.

    :param buffer: of the model that was built
    :param state: the JSON
    :param file: the rows
    :param going_on: leave episodes running, which the environments go on with
    :raises UnsafeFileError: if they don't fit
    """
    multi_task = isinstance(buffer, MultiTaskReplayBuffer)
    keys = {"pos", "full", "tasks"} if multi_task else {"pos", "full"}
    if not can_be_saved(buffer) or set(checked_type(dict, state, REPLAY_BUFFER)) != keys:
        raise UnsafeFileError(f"its replay buffer is no {type(buffer).__name__}")
    pos, full = checked_type(int, state["pos"], "pos"), checked_type(bool, state["full"], "full")
    if not 0 <= pos < buffer.buffer_size:
        raise UnsafeFileError(f"its replay buffer is at {pos} of {buffer.buffer_size}")
    rows = _rows(buffer, pos, full)
    wholes = dict(_wholes(buffer))
    expected = {name: form_of(whole[:rows]) for name, whole in wholes.items()}
    if multi_task:
        expected |= _forms_of_places(buffer, state["tasks"], file)
    hindsight = isinstance(buffer, HerReplayBuffer)
    if hindsight:
        expected[STARTS] = Form(th.int64, (buffer.n_envs,))
    others = {}
    for name, tensor in file.read_as(expected):
        if name in wholes:
            wholes[name][:rows].copy_(tensor)
        else:
            others[name] = tensor.numpy()
    buffer.pos, buffer.full = pos, full
    if multi_task:
        _load_places(buffer, {task: others[f"places/{task}"] for task in state["tasks"]})
    if hindsight:
        buffer._current_ep_start = others[STARTS]
        check_episodes(buffer)
    if not going_on:
        end_running_episodes(buffer)


def check_num_envs(file: TensorFile, num_envs: int) -> None:
    """Raise unless a file's transitions are of as many environments as a model is to have.

    :param file: the rows
    :param num_envs: those that are given
    :raises ValueError: saying what to do
    """
    form = file.forms.get("rewards")
    if form is not None and len(form.shape) == 2 and form.shape[1] != num_envs:
        raise ValueError(
            f"`env` must have as many environments as the file's replay buffer, {form.shape[1]}, "
            f"got {num_envs}: give as many, or replay_buffer=False to begin with an empty one"
        )


def _rows(buffer: Any, pos: int, full: bool) -> int:
    # The row after the last holds its next observation, with `optimize_memory_usage`.
    return int(buffer.buffer_size if full else min(pos + 1, buffer.buffer_size))


def _wholes(buffer: Any) -> Iterator[tuple[str, th.Tensor]]:
    """Yield the buffer's arrays as tensors on the same memory, environments in the second axis."""
    for name in (*ROWS, *EPISODES):
        if name in vars(buffer):
            part = vars(buffer)[name]
            if isinstance(part, dict):
                yield from ((f"{name}/{key}", th.as_tensor(each)) for key, each in part.items())
            else:
                yield name, th.as_tensor(part)
    if isinstance(buffer, MultiTaskReplayBuffer):
        yield "task_ids", th.from_numpy(buffer.task_ids).view(buffer.buffer_size, buffer.n_envs)


def _forms_of_places(buffer: Any, tasks: Any, file: TensorFile) -> dict[str, Form]:
    forms = {}
    for task in checked_type(list, tasks, "tasks"):
        name = f"places/{checked_type(int, task, 'tasks')}"
        shape = file.forms[name].shape if name in file.forms else (0,)
        if len(shape) != 1 or shape[0] > len(buffer.task_ids):
            raise UnsafeFileError(f"{REPLAY_BUFFER} has too many {name[:60]!r}")
        forms[name] = Form(th.int64, shape)
    return forms


def _load_places(buffer: MultiTaskReplayBuffer, places: dict[int, np.ndarray]) -> None:
    owners = np.full_like(buffer.task_ids, -1)
    for task, listed in places.items():
        if ((listed < 0) | (listed >= len(owners))).any() or task < 0:
            raise UnsafeFileError(f"{REPLAY_BUFFER} lists a place that isn't there")
        owners[listed] = task
    total = sum(map(len, places.values()))
    if not np.array_equal(owners, buffer.task_ids) or total != (owners >= 0).sum():
        raise UnsafeFileError(f"{REPLAY_BUFFER} lists other places than its tasks have")
    own = buffer._places = type(buffer._places)(len(owners))
    for task, listed in places.items():
        # A task whose places were all overwritten keeps its turn.
        own._append(0, task)
        own._remove(0, task)
        for place in listed.tolist():
            own._append(place, task)
