"""Statistics of each task's returns, for critics whose values are normalized by them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.callbacks.periodic import CheckedCallback
from sb3_moe.layers.predict import positive


class PopArtCallback(CheckedCallback):
    """Let a policy with ``popart=True`` learn values that are normalized for each task.

    After each rollout the statistics of every task's returns move, the critic's heads are rescaled
    so that all values stay, and the buffer's returns and old values are normalized for the update.
    Values, and so advantages and truncated episodes, are in rewards all the same. Logs
    ``popart/mean/<task number>`` and ``popart/deviation/<task number>``.

    :param rate: of the statistics, for a single return (beta in arXiv 1809.04474)
    :param verbose: 0 or 1
    :raises ValueError: if the rate is not in (0, 1], or the policy was built without ``popart``
    """

    def __init__(self, rate: float = 3e-4, verbose: int = 0) -> None:
        super().__init__(verbose)
        positive("rate", rate, at_most=1.0)
        self.rate = rate

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the policy's values can be normalized."""
        if getattr(model.policy, "popart", None) is None:
            raise ValueError(
                "the policy must have been built with policy_kwargs=dict(popart=True), got "
                f"{type(model.policy).__name__} without"
            )

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        buffer, popart = model.rollout_buffer, model.policy.popart
        tasks_B = popart.tasks(_in_rows(buffer.observations, model.device))
        popart.follow(_in_rows(buffer.returns, model.device), tasks_B, self.rate)
        for name in ("returns", "values"):
            rows: np.ndarray[Any, Any] = getattr(buffer, name)
            normalized_B = popart.normalized(_in_rows(rows, model.device), tasks_B)
            rows[:] = normalized_B.cpu().numpy().reshape(rows.shape)
        for task, pair in enumerate(zip(popart.mean_K, popart.deviation_K, strict=True)):
            for name, number in zip(("mean", "deviation"), pair, strict=True):
                self.logger.record(f"popart/{name}/{task}", float(number), exclude="stdout")


def _in_rows(steps: Any, device: th.device) -> Any:
    """Return what a buffer holds by step and environment as a batch."""
    if isinstance(steps, dict):
        return {key: _in_rows(each, device) for key, each in steps.items()}
    return th.as_tensor(steps, device=device).flatten(0, 1)
