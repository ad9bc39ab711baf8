"""What is done to a replay buffer whose environments start anew."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3.her import HerReplayBuffer


def end_running_episodes(buffer: Any) -> None:
    """End the episodes that are running, so that nothing of the next ones counts for them.

    Goals of a HerReplayBuffer, rewards of n-step returns, and next observations that aren't kept
    would be taken from there.

    :param buffer: a replay buffer of any kind
    """
    if not buffer.size():
        return
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SB3's advice is for those who call it themselves
            buffer.truncate_last_trajectory()
        return
    last = buffer.pos - 1
    buffer.timeouts[last][buffer.dones[last] == 0] = 1
    if buffer.optimize_memory_usage:
        buffer.dones[last] = 1
