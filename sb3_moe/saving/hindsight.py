"""SB3's HerReplayBuffer, which is built around the environments that say what goals are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.saving.archive import REPLAY_BUFFER
from sb3_moe.saving.errors import UnsafeFileError

# Where the episode of each row begins and how long it is, and where the running ones began.
EPISODES = ("ep_start", "ep_length")
STARTS = "current_ep_start"


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


def check_episodes(buffer: HerReplayBuffer) -> None:
    """Refuse episodes that lead to rows which were not written, or not of theirs.

    :param buffer: with a file's rows
    :raises UnsafeFileError: if there are any
    """
    size, starts, lengths = buffer.buffer_size, buffer.ep_start, buffer.ep_length
    offsets = (np.arange(size)[:, None] - starts) % size
    inside = (starts >= 0) & (starts < size) & (offsets < lengths) & (lengths <= size)
    if not buffer.full:
        inside &= starts + lengths <= buffer.pos
    running = buffer._current_ep_start
    last = size - 1 if buffer.full else buffer.pos
    begun = running.min() >= 0 and running.max() <= last
    if not begun or not (inside | (lengths == 0)).all():
        raise UnsafeFileError(f"{REPLAY_BUFFER} has episodes of rows that aren't there")
