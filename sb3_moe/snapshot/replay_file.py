"""The replay buffer of a snapshot: rows that can't run code, or a pickle of one's own kind."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_moe.saving.hindsight import EPISODES
from sb3_moe.saving.loose import Loose
from sb3_moe.saving.replay import (
    ROWS,
    can_be_saved,
    encode_replay_buffer,
    load_replay_buffer,
)
from sb3_moe.saving.tensors import TensorFile, write_tensors
from sb3_moe.snapshot.manifest import Manifest

SAFE, PICKLED = "replay_buffer.safetensors", "replay_buffer.pkl"
# The model's own, or among the rows.
_KNOWN = frozenset(
    {
        *("observation_space", "action_space", "device", "pos", "full", *ROWS),
        *("task_ids", "_places"),
        *("env", "goal_selection_strategy", "infos", "_current_ep_start", *EPISODES),
    }
)


def is_safe(model: OffPolicyAlgorithm) -> bool:
    """Say whether a model's buffer is one that the model would make again, so that rows do."""
    buffer: Any = model.replay_buffer
    return (
        can_be_saved(buffer)
        # Infos may hold anything.
        and not getattr(buffer, "copy_info_dict", False)
        and type(buffer) is model.replay_buffer_class
        and buffer.n_envs == model.n_envs
        and buffer.buffer_size == max(model.buffer_size // model.n_envs, 1)
    )


def write_rows(model: OffPolicyAlgorithm, folder: Path) -> dict[str, Any]:
    """Write what the buffer holds, and return its position.

    :param model: whose buffer is safe
    :param folder: gets ``replay_buffer.safetensors``
    """
    state, rows = encode_replay_buffer(model.replay_buffer)
    with (folder / SAFE).open("wb") as file:
        write_tensors(file, rows)
    return state


def buffer_attributes(model: OffPolicyAlgorithm) -> dict[str, Any]:
    """Return a buffer's settings, which a callback may have changed."""
    found = vars(model.replay_buffer).items()
    return {name: value for name, value in found if name not in _KNOWN}


def read_rows(
    model: OffPolicyAlgorithm, manifest: Manifest, state: Any, attributes: dict[str, Any]
) -> None:
    """Fill the buffer of a model that was built.

    :raises UnsafeFileError: if the rows don't fit
    """
    path = manifest.check(SAFE)
    rows = TensorFile(Loose(path.parent), SAFE)
    load_replay_buffer(model.replay_buffer, state, rows, going_on=True)
    vars(model.replay_buffer).update(attributes)


def read_pickled(model: OffPolicyAlgorithm, data: bytes) -> None:
    """Give a model the buffer of a pickle, which can run code."""
    model.load_replay_buffer(io.BytesIO(data), truncate_last_traj=False)


class _WithoutArrays(pickle.Pickler):
    """Pickle all but the arrays, which are large and known to pickle."""

    def persistent_id(self, obj: Any) -> str | None:
        return "array" if isinstance(obj, np.ndarray | th.Tensor) else None


def try_pickling(buffer: Any) -> None:
    """Raise what pickling a buffer will raise."""
    with open(os.devnull, "wb") as nowhere:
        _WithoutArrays(nowhere).dump(buffer)
