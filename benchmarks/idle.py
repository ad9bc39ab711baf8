"""What it costs to keep idle experts as they are: an update with ``freeze_idle`` over one without.

``python -m benchmarks --only idle`` prints and writes the rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor

from benchmarks.timing import bounded, paired, ratio
from sb3_moe.policies.on_policy import MoeMultiInputPolicy


class Size(NamedTuple):
    """A policy with an expert per task, and the rows of a minibatch."""

    placement: str
    num_tasks: int
    width: int
    rows: int


SIZES = {"small": Size("middle", 3, 64, 64), "medium": Size("big", 8, 256, 1024)}


def run(rounds: int = 15) -> list[dict[str, Any]]:
    """Time the step of the fused Adam, and a whole update, on a minibatch of a single task.

    :param rounds: of timing
    """
    rows = []
    for name, size in SIZES.items():
        held, free = _functions(size, True), _functions(size, False)
        for what in held:
            seconds = paired({"held": held[what], "free": free[what]}, rounds=rounds)
            cost = ratio(seconds["held"], seconds["free"])
            row = bounded(f"{what}, {name} {tuple(size)}, held / free", cost)
            rows.append(row | {"free_us": 1e6 * float(np.median(seconds["free"]))})
    return rows


def _functions(size: Size, freeze_idle: bool) -> dict[str, Callable[[], object]]:
    seen = spaces.Box(-1, 1, (16,), np.float32)
    space = spaces.Dict({"obs": seen, "task_id": spaces.Discrete(size.num_tasks)})
    policy = MoeMultiInputPolicy(
        space,
        spaces.Discrete(6),
        lambda _: 1e-3,
        net_arch=[size.width, size.width],
        placement=size.placement,
        router="task",
        freeze_idle=freeze_idle,
    )
    obs = {
        "obs": np.random.default_rng(0).normal(size=(size.rows, 16)).astype(np.float32),
        "task_id": np.zeros((size.rows, 1), np.int64),
    }
    tensors, actions = obs_as_tensor(obs, th.device("cpu")), th.zeros(size.rows)

    def update() -> None:
        values, log_prob, entropy = policy.evaluate_actions(tensors, actions)
        loss = values.square().mean() - log_prob.mean()
        loss = loss if entropy is None else loss - entropy.mean()
        policy.optimizer.zero_grad()
        loss.backward()
        th.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        policy.optimizer.step()

    update()
    return {"step": policy.optimizer.step, "update": update}
