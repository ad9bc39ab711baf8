"""Advantages normalised by task, for an algorithm that builds its own rollout buffer."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_moe.vec_env.rollout_buffers import PerTaskAdvantages, per_task


class TaskAdvantageCallback(BaseCallback):
    """Let any on-policy algorithm's rollout buffer normalise advantages by task.

    RecurrentPPO has no ``rollout_buffer_class``, and MaskablePPO's must know of masks: their buffer
    becomes one of the same kind that does what
    :class:`~sb3_moe.vec_env.MultiTaskRolloutBuffer` does. Warns unless
    ``normalize_advantage=False``. The model keeps that buffer, also where it trains on without the
    callback; files have none, so that one loaded needs the callback again.

    :param num_tasks: for a Box observation that ends in a one-hot of so many tasks; None: a Dict
        has the id under ``task_id``
    :raises ValueError: if the algorithm has no rollout buffer, or the observation no task id
    """

    def __init__(self, num_tasks: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.num_tasks = num_tasks

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Swap the buffer."""
        super().init_callback(model)
        self.check_model(model)
        assert isinstance(model, OnPolicyAlgorithm)
        self._swap(model)
        if getattr(model, "normalize_advantage", False):
            warnings.warn(
                "advantages are normalised by task, and then by minibatch over all tasks: give "
                f"{type(model).__name__} normalize_advantage=False",
                stacklevel=2,
            )

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm has advantages."""
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(
                "advantages by task need an on-policy algorithm, such as PPO, got "
                f"{type(model).__name__}"
            )

    def _swap(self, model: OnPolicyAlgorithm) -> None:
        buffer = model.rollout_buffer
        if isinstance(buffer, PerTaskAdvantages):
            return
        # With all that the old one was built with; both are empty until the next rollout.
        swapped: Any = object.__new__(per_task(type(buffer)))
        vars(swapped).update(vars(buffer))
        swapped.find_tasks(self.num_tasks)
        model.rollout_buffer = swapped

    def _on_step(self) -> bool:
        return True
