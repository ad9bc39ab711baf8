"""What is done to SB3's HerReplayBuffer where its episodes don't go on."""

from __future__ import annotations

import warnings

from stable_baselines3.her import HerReplayBuffer


def end_running_episodes(buffer: HerReplayBuffer) -> None:
    """End the episodes that are running, so that no goal is taken from the next ones.

    :param buffer: whose environments start anew
    """
    if buffer.size():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SB3's advice is for those who call it themselves
            buffer.truncate_last_trajectory()
