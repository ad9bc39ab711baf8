"""How hard each task pulls on a policy that several tasks share.

Shapes: S steps of a rollout, B environments, N tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F

from sb3_moe.callbacks.periodic import check_every
from sb3_moe.layers.checks import whole
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import online_parameters
from sb3_moe.saving.record import Record
from sb3_moe.vec_env.observations import stored_obs
from sb3_moe.vec_env.tasks import LAYER, PRINTED, short_names, task_names, tasks_stepped


class TaskGradientCallback(BaseCallback):
    """Measure each task's advantages and its gradient's norm before clipping (PPO, A2C).

    The gradient is of the algorithm's own loss on the task's part of the rollout, at the policy
    that collected it, with advantages normalised over all tasks as training does (where a buffer or
    callback has normalised them by task already, the variance of each is 1). Logged as
    ``plasticity/advantage_variance/<task>`` and ``plasticity/gradient_norm/<task>``; kept in
    ``diagnostics.npz`` as ``advantage_variance`` and ``gradient_norm_per_task`` (K, N), NaN for a
    task that the rollout lacks.

    :param every: global steps between measurements
    :param batch_size: transitions of each task at most
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if a number is none, or not a whole one
    :raises ValueError: if a number is below 1, or the algorithm has another loss
    """

    def __init__(
        self,
        every: int = 50_000,
        *,
        batch_size: int = 512,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        check_every(every)
        whole("batch_size", batch_size)
        self.every = every
        self.batch_size = batch_size
        self.log_path = None if log_path is None else Path(log_path) / "diagnostics.npz"

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check the algorithm."""
        super().init_callback(model)
        self.check_model(model)
        self.task_names = task_names(self.training_env)
        constants = {"task_names": np.array(self.task_names)}
        self.record = Record.of(model, vars(self).get("record"), self.log_path, constants)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm's loss is known."""
        # sb3-contrib's on-policy algorithms have the same attributes and other losses.
        if not isinstance(model, PPO | A2C):
            raise ValueError(
                "the algorithm must have PPO's or A2C's loss and no memory, got "
                f"{type(model).__name__}"
            )

    def _on_training_start(self) -> None:
        self.record.resume(self.model.num_timesteps)
        rows: Any = self.record.rows
        measured = rows.get("gradient_norm_per_task", np.empty((0, 1)))
        ends = rows["steps"][: len(measured)][np.isfinite(measured).any(axis=1)]
        # A row is of a rollout's end, and it was due at that rollout's start.
        model: Any = self.model
        length = model.n_steps * self.training_env.num_envs
        self._last = int(ends[-1]) - length if len(ends) else None

    def _on_rollout_start(self) -> None:
        self._tasks: list[list[int]] = []
        step = self.model.num_timesteps
        self._due = self._last is None or step // self.every > self._last // self.every
        if self._due:
            self._last = step

    def _on_step(self) -> bool:
        if self._due:
            self._tasks.append(tasks_stepped(self.locals["infos"], self.task_names))
        return True

    def _on_rollout_end(self) -> None:
        if not self._due:
            return
        tasks_SB = np.array(self._tasks)
        measured = [self._measure(tasks_SB == k) for k in range(len(self.task_names))]
        variances, norms = (np.array(column) for column in zip(*measured, strict=True))
        for name, variance, norm in zip(self._keys(), variances, norms, strict=True):
            if not np.isnan(norm):
                self.logger.record(f"plasticity/advantage_variance/{name}", float(variance))
                self.logger.record(f"plasticity/gradient_norm/{name}", float(norm))
        row = {"advantage_variance": variances, "gradient_norm_per_task": norms}
        self.record.add(self.model.num_timesteps, row)

    def _keys(self) -> list[str]:
        # gradient_norm/<tower> is what PlasticityCallback logs.
        towers = short_names(list(online_parameters(self.model.policy)), LAYER)
        return short_names(self.task_names, PRINTED - len("advantage_variance/"), taken=towers)

    def _measure(self, mask_SB: np.ndarray) -> tuple[float, float]:
        steps, envs = np.nonzero(mask_SB)
        if len(steps) < 2:
            return np.nan, np.nan
        model: Any = self.model
        variance = float(self._column(model.rollout_buffer.advantages, (steps, envs)).var())
        chosen = np.linspace(0, len(steps) - 1, min(len(steps), self.batch_size)).astype(int)
        with evaluating(model.policy), th.enable_grad():
            loss = self._loss((steps[chosen], envs[chosen]))
            parameters = [p for p in model.policy.parameters() if p.requires_grad]
            gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        norms = [th.linalg.vector_norm(each) for each in gradients if each is not None]
        return variance, float(th.linalg.vector_norm(th.stack(norms)))

    def _loss(self, rows: tuple[np.ndarray, np.ndarray]) -> th.Tensor:
        """Return the loss as PPO and A2C compute it at the policy that collected the rollout."""
        model: Any = self.model
        buffer = model.rollout_buffer
        obs = stored_obs(buffer.observations, model.observation_space, rows)
        # The buffer keeps them in their space's type, and gives them to PPO in this one.
        actions = self._column(buffer.actions, rows).float()
        if actions.shape[-1] == 1 and not model.action_space.shape:
            actions = actions.long().flatten()
        values, log_prob, entropy = model.policy.evaluate_actions(
            model.policy.obs_to_tensor(obs)[0], actions
        )
        advantages = self._column(buffer.advantages, rows)
        if model.normalize_advantage:
            every = self._column(buffer.advantages, ...)
            advantages = (advantages - every.mean()) / (every.std() + 1e-8)
        # The ratio of new to old policy is 1 here; its gradient is that of the log-probability.
        policy_loss = -(advantages * th.exp(log_prob - log_prob.detach())).mean()
        value_loss = F.mse_loss(self._column(buffer.returns, rows), values.flatten())
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss: th.Tensor = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
        return loss

    def _column(self, stored: Any, index: Any) -> th.Tensor:
        return th.as_tensor(stored[index], device=self.model.device)
