"""Follow the entropy temperature of each task."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.layers.temperatures import TaskTemperatures
from sb3_moe.vec_env.tasks import TASK, short_names, task_names


class TaskTemperatureCallback(BaseCallback):
    """Log every task's temperature under ``temperature/<task>``, at the end of each rollout.

    It also makes sure that the algorithm's own is 1, without which there would be a product of two,
    and that no target entropy was given, which would do nothing.

    :param verbose: 0 or 1
    :raises ValueError: if the policy has no temperatures, the algorithm's own is another, or a
        target entropy was given
    """

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check the model."""
        self.check_model(model)
        self._temperatures: TaskTemperatures = model.actor.temperatures  # type: ignore[attr-defined]  # checked
        super().init_callback(model)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the model has the temperatures, and no other of its own."""
        found: Any = getattr(getattr(model, "actor", None), "temperatures", None)
        if not isinstance(found, TaskTemperatures):
            raise ValueError(
                "`model` must have a temperature for each task, policy_kwargs=dict("
                f"ent_coef_per_task=True) of SAC, TQC or CrossQ, got {type(model.policy).__name__} "
                "without"
            )
        own: Any = getattr(model, "ent_coef", None)
        if own != 1.0:
            raise ValueError(
                "`ent_coef` must be 1.0 with a temperature for each task, since the algorithm "
                f"multiplies by it too, got {own!r}"
            )
        target: Any = getattr(model, "target_entropy", None)
        usual = -float(np.prod(model.action_space.shape or ()))
        if target not in ("auto", usual):
            raise ValueError(
                "`target_entropy` must be 'auto' with a temperature for each task, whose target is "
                f"minus the number of its own actions (`action_dims`), got {target!r}"
            )

    def _on_training_start(self) -> None:
        number = len(self._temperatures.log_K)
        names = task_names(self.training_env)
        if len(names) != number:  # a one-hot that the environment itself makes
            names = [str(k) for k in range(number)]
        self._names = short_names(names, TASK)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        values = self._temperatures.log_K.detach().exp().tolist()
        for name, value in zip(self._names, values, strict=True):
            self.logger.record(f"temperature/{name}", value)
