"""Callbacks that log or normalize by task: episodes, gradients, temperatures, advantages, values.

Shapes: S steps of a rollout, B environments (in PopArt: samples), N tasks (in PopArt and
temperatures: K).
"""

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor
from torch.nn import functional as F

from sb3_moe.callbacks.periodic import CheckedCallback, RecordingCallback
from sb3_moe.layers.checks import positive, whole, whole_or_none
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.temperatures import TaskTemperatures
from sb3_moe.vec_env.evaluating import Successes, success_rate
from sb3_moe.vec_env.observations import map_observation, stored_obs
from sb3_moe.vec_env.rollout_buffers import normalized_by_task, tasks_of
from sb3_moe.vec_env.task_ids import TaskIds
from sb3_moe.vec_env.tasks import PRINTED, task_names, tasks_stepped


class TaskRolloutCallback(CheckedCallback):
    """Log ``rollout/<task>/ep_rew_mean`` and ``ep_len_mean`` over each task's last episodes.

    It also logs ``success_rate`` if the task reports success: an episode succeeds if any of its
    steps reports it.

    :param window: episodes of each task to average over, as SB3's ``stats_window_size``; where a
        run goes on, episodes of the previous ``learn`` count too
    :param verbose: unused, since nothing is printed
    """

    def __init__(self, window: int = 100, verbose: int = 0) -> None:
        super().__init__(verbose)
        whole("window", window)
        self.window = window
        self._played: Any = None

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Keep the episodes so far where the same run goes on."""
        super().init_callback(model)
        self._ended = False
        if not self.goes_on:
            self._episodes = [deque[Any](maxlen=self.window) for _ in self.task_names]
        if not self.goes_on or self._played is not self.training_env:
            self._played = self.training_env  # all episodes start anew
            self._successes = Successes(self._played.num_envs)

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        self._successes.step(infos)
        for i in np.flatnonzero(self.locals["dones"]).tolist():
            (task,) = tasks_stepped([infos[i]], self.task_names)
            success = self._successes.end(i)
            if "episode" in infos[i]:
                episode = infos[i]["episode"]
                self._episodes[task].append((episode["r"], episode["l"], success))
                self._ended = True
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OffPolicyAlgorithm) and not self._ended:
            # An off-policy rollout may be a single step. Without a new episode nothing changes: the
            # logger keeps the values recorded before until SB3 writes them.
            return
        self._ended = False
        # (3, episodes) by task; a task without any has one of NaN, which is not logged.
        tables = [np.array(each or [[np.nan] * 3]).T for each in self._episodes]
        kinds = {
            "rollout/{}/ep_rew_mean": [table[0].mean() for table in tables],
            "rollout/{}/success_rate": [success_rate(table[2]) for table in tables],
            "rollout/{}/ep_len_mean": [table[1].mean() for table in tables],
        }
        self.log_by_task(kinds)


class TaskGradientCallback(RecordingCallback):
    """Measure the variance of each task's advantages and its unclipped gradient's norm (PPO, A2C).

    The gradient is that of the algorithm's own loss, without auxiliary losses of routers, on the
    task's part of the rollout, for the policy that collected it. Advantages are normalized over all
    tasks, as in training. (Where a buffer or callback has already normalized them by task, each
    task's variance is 1.) Logged as ``plasticity/gradient_norm/<task>`` and
    ``plasticity/advantage_variance/<task>``; kept in ``diagnostics.npz`` as ``advantage_variance``
    and ``gradient_norm_per_task``, each (K, N) for K measurements. They are NaN for a task with
    fewer than two transitions in the rollout.

    :param every: global steps between measurements
    :param batch_size: how many transitions of each task the gradient is measured on, at most
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if ``every`` is no number, or ``batch_size`` no int
    :raises ValueError: if a number is below 1, or the algorithm is neither PPO nor A2C
    """

    own = "gradient_norm_per_task"

    def __init__(
        self,
        every: int = 50_000,
        *,
        batch_size: int = 512,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, log_path=log_path, verbose=verbose)
        whole("batch_size", batch_size)
        self.batch_size = batch_size

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm's loss is known."""
        # sb3-contrib's on-policy algorithms have the same attributes, but other losses.
        if not isinstance(model, PPO | A2C):
            raise ValueError(f"`model` must be of PPO or A2C, got {type(model).__name__}")

    def _on_rollout_start(self) -> None:
        self._began = self.model.num_timesteps
        self._tasks = list[list[int]]()

    def _on_step(self) -> bool:
        self._tasks.append(tasks_stepped(self.locals["infos"], self.task_names))
        return True

    def _on_rollout_end(self) -> None:
        # Use the step of the rollout's start: other callbacks write their rows at that step.
        if self._is_due(self._began):
            self._do(self._began)

    def act(self, step: int) -> None:
        """Measure on the rollout that has just ended."""
        tasks_SB = np.array(self._tasks)
        measured = [self._measure(tasks_SB == k) for k in range(len(self.task_names))]
        variances, norms = np.transpose(measured)
        kinds = {
            "plasticity/gradient_norm/{}": norms,
            "plasticity/advantage_variance/{}": variances,
        }
        self.log_by_task(kinds, length=PRINTED - len("advantage_variance/"))
        self.record.add(step, {"advantage_variance": variances, "gradient_norm_per_task": norms})

    def _on_training_end(self) -> None:
        """Measure nothing: no rollout ends here."""

    def _measure(self, mask_SB: np.ndarray) -> tuple[float, float]:
        steps, envs = np.nonzero(mask_SB)
        if len(steps) < 2:
            return np.nan, np.nan
        model: Any = self.model
        variance = float(self._column(model.rollout_buffer.advantages, (steps, envs)).var())
        count = min(len(steps), self.batch_size)
        chosen = np.linspace(0, len(steps) - 1, count).astype(int)
        with evaluating(model.policy), th.enable_grad():
            loss = self._loss((steps[chosen], envs[chosen]))
            parameters = [p for p in model.policy.parameters() if p.requires_grad]
            gradients = th.autograd.grad(loss, parameters, allow_unused=True)
        norms = [th.linalg.vector_norm(each) for each in gradients if each is not None]
        return variance, float(th.linalg.vector_norm(th.stack(norms)))

    def _loss(self, rows: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Return the loss of PPO and A2C for the policy that collected the rollout."""
        model: Any = self.model
        buffer = model.rollout_buffer
        obs = stored_obs(buffer.observations, model.observation_space, rows)
        # The buffer stores actions in their space's dtype, and gives them to PPO as float32.
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
        return policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss

    def _column(self, stored: Any, index: Any) -> Tensor:
        return th.as_tensor(stored[index], device=self.model.device)


class TaskTemperatureCallback(CheckedCallback):
    """Log every task's temperature under ``temperature/<task>``, at the end of each rollout.

    It also checks that the algorithm's own temperature, ``ent_coef``, is 1: otherwise the entropy
    of a task would be weighted by the product of two temperatures.

    :param verbose: 0 or 1
    :raises ValueError: if the policy has no temperature for each task, or ``ent_coef`` is not 1
    """

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the policy has temperatures by task, and ``ent_coef`` is 1."""
        actor = getattr(model, "actor", None)
        if not isinstance(getattr(actor, "temperatures", None), TaskTemperatures):
            raise ValueError("`model` must have a policy with `ent_coef_per_task`=True")
        if (own := getattr(model, "ent_coef", None)) != 1.0:
            raise ValueError(f"`ent_coef` must be 1.0 with `ent_coef_per_task`=True, got {own!r}")

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        values = model.actor.temperatures.log_K.detach().exp().tolist()
        names = task_names(self.training_env)
        if len(names) != len(values):  # a plain environment's own one-hot
            names = [str(k) for k in range(len(values))]
        self.log_scalars({"temperature/{}": dict(zip(names, values, strict=True))})


class TaskAdvantageCallback(CheckedCallback):
    """Normalize any on-policy algorithm's advantages by task, when a rollout is full.

    A task whose rewards are a thousand times another task's then moves the policy no more than the
    other does. Each task's advantages get mean 0 and standard deviation 1, as SB3 does it for each
    minibatch; if a task has only one, that becomes 0. Returns, which the critic learns, stay as
    they are. It warns unless ``normalize_advantage=False``: with True, PPO normalizes each
    minibatch over all tasks once more, which changes little. Put it before callbacks that read
    advantages.

    :param num_tasks: the number of tasks, where a Box observation ends in the one-hot task id;
        None: observations are a Dict with the id under ``task_id``
    :raises ValueError: if the algorithm has no rollout buffer, or the observation no task id
    """

    def __init__(self, num_tasks: int | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        whole_or_none("num_tasks", num_tasks)
        self.num_tasks = num_tasks

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm is on-policy and observations hold a task id."""
        if not isinstance(model, OnPolicyAlgorithm):
            raise ValueError(f"`model` must be on-policy, as PPO, got {type(model).__name__}")
        space = model.observation_space
        self._task_ids = TaskIds(space, self.num_tasks, "normalizing by task")
        if getattr(model, "normalize_advantage", False):
            warnings.warn(
                "advantages are normalized by task, and then by minibatch over all tasks: give "
                f"{type(model).__name__} normalize_advantage=False",
                stacklevel=2,
            )

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]  # it is on-policy
        tasks_SB = tasks_of(buffer, self._task_ids)
        buffer.advantages = normalized_by_task(buffer.advantages, tasks_SB)


class PopArtCallback(CheckedCallback):
    """Let a policy with ``popart=True`` learn values that are normalized for each task.

    After each rollout the statistics of every task's returns are updated, the critic's heads are
    rescaled so that all predicted values stay the same, and the buffer's returns and old values are
    normalized for the update. The values that advantages and the ends of truncated episodes are
    computed from are still on the scale of rewards. Put it before callbacks that read returns. It
    logs ``popart/mean/<task number>`` and ``popart/deviation/<task number>``.

    :param rate: step size of the statistics for a single return (beta in arXiv 1809.04474)
    :param verbose: 0 or 1
    :raises ValueError: if the rate is not in (0, 1], or the policy was built without ``popart``
    """

    def __init__(self, rate: float = 3e-4, verbose: int = 0) -> None:
        super().__init__(verbose)
        positive("rate", rate, at_most=1.0)
        self.rate = rate

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the policy was built with ``popart=True``."""
        if getattr(model.policy, "popart", None) is None:
            raise ValueError("`model` must have been built with policy_kwargs=dict(popart=True)")

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        buffer = model.rollout_buffer
        popart = model.policy.popart
        tasks_B = popart.tasks(_in_rows(buffer.observations, model.device))
        popart.follow(_in_rows(buffer.returns, model.device), tasks_B, self.rate)
        for name in ("returns", "values"):
            rows = getattr(buffer, name)
            normalized_B = popart.normalized(_in_rows(rows, model.device), tasks_B)
            rows[:] = normalized_B.cpu().numpy().reshape(rows.shape)
        for name, values_K in (("mean", popart.mean_K), ("deviation", popart.deviation_K)):
            for task, value in enumerate(values_K.tolist()):
                self.logger.record(f"popart/{name}/{task}", value, exclude="stdout")


def _in_rows(steps: Any, device: th.device) -> Any:
    """Return a buffer's arrays, (steps, environments, ...), as one batch of tensors."""
    return map_observation(lambda each: th.as_tensor(each, device=device).flatten(0, 1), steps)
