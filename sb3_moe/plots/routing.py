"""Which expert serves which task, seen by playing.

Shapes: N tasks, E experts.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.plots.inside import draw_gates
from sb3_moe.watching import watch


def draw_routing(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | None = None,
    mixture: str | None = None,
    **kwargs: Any,
) -> Figure:
    """Play every task and draw the mean weight of each expert for each.

    :param model: of any algorithm, with mixtures of experts
    :param env: as of :func:`sb3_moe.watch`; None: one like the model's own
    :param mixture: as ``"pi.middle"``; None: the first
    :param kwargs: other arguments of :func:`sb3_moe.watch`
    :raises ValueError: if there is no such mixture
    """
    replay = watch(model, env, frames=False, **kwargs)
    names = [each.name for each in replay.mixtures]
    if not names:
        raise ValueError("the policy has no mixture of experts whose routing could be drawn")
    if mixture is not None and mixture not in names:
        raise ValueError(f"`mixture` must be one of {names}, got {mixture!r}")
    name, tracks = mixture or names[0], replay.runs[0].tracks
    gates_NE = np.stack([track.gates[name].mean(axis=0) for track in tracks])
    return draw_gates(gates_NE, [track.task for track in tracks], f"Experts of {name}")
