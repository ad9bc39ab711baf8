"""MoE policy for CrossQ, with its BatchRenorm around the experts."""

from typing import Any, ClassVar

import gymnasium as gym
import torch as th
from gymnasium import spaces
from sb3_contrib.crossq.policies import Actor, CrossQCritic, CrossQPolicy

from sb3_moe.policies.parts import GaussianActor, MoEActorWithCritics, MoECritic


class MoEActor(GaussianActor, Actor):
    """CrossQ's actor, with experts."""


class MoECrossQCritic(MoECritic, CrossQCritic):
    """CrossQ's critic, with experts."""


class MoeMlpPolicy(MoEActorWithCritics, CrossQPolicy):
    """MoE policy for flat observations (CrossQ).

    :raises ValueError: for Dict observations, which CrossQ can't learn from
    """

    # As sb3-contrib's policy sets them.
    optimizer_defaults: ClassVar[dict[Any, Any]] = {
        each: {"betas": (0.5, 0.999)} for each in (th.optim.Adam, th.optim.AdamW)
    }
    actor_class = MoEActor
    critic_class = MoECrossQCritic

    def __init__(self, observation_space: gym.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(
                f"CrossQ takes no Dict observations, got {observation_space}: an environment of "
                "several tasks can show the task as part of a Box, with `task_id`='onehot'"
            )
        super().__init__(observation_space, *args, **kwargs)


__all__ = ["MoeMlpPolicy"]
