"""Buffers for SB3's ``rollout_buffer_class`` and ``replay_buffer_class``."""

from sb3_moe.buffers.advantages import MultiTaskRolloutBuffer
from sb3_moe.buffers.multitask import MultiTaskReplayBuffer
from sb3_moe.buffers.replay import DeviceReplayBuffer
from sb3_moe.buffers.rollout import DeviceRolloutBuffer

__all__ = [
    "DeviceReplayBuffer",
    "DeviceRolloutBuffer",
    "MultiTaskReplayBuffer",
    "MultiTaskRolloutBuffer",
]
