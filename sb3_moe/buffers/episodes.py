"""What is done to a replay buffer whose environments start anew."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3.her import HerReplayBuffer


def end_running_episodes(buffer: Any) -> None:
    """End the episodes that are running, so that nothing of the next ones counts for them.

    Goals of a HerReplayBuffer, rewards of n-step returns, and next observations that aren't kept
    would be taken from there.

    :param buffer: a replay buffer of any kind; one of the user's own that has none of SB3's arrays
        stays as it is
    """
    if getattr(buffer, "timeouts", None) is None or not buffer.size():
        return
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SB3's advice is for those who call it themselves
            buffer.truncate_last_trajectory()
        return
    last = buffer.pos - 1
    if buffer.optimize_memory_usage:
        buffer.dones[last] = 1  # a timeout would go on from an observation that isn't there
    else:
        buffer.timeouts[last][buffer.dones[last] == 0] = 1
