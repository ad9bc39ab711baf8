"""A fixed batch of observations of every task, on which networks are looked at over time.

Shapes: N tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_moe.callbacks.generators import preserved_generators
from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.callbacks.pinned_env import make_pinned_env, synchronise
from sb3_moe.callbacks.record import Record
from sb3_moe.callbacks.tasks import task_names, tasks_played
from sb3_moe.plasticity.probe import Obs, concatenate, select

# Random play goes on for so many steps between the observations that are kept, and so many times.
STRIDE, ROUNDS = 4, 10


def collect_probe(env: VecEnv, size: int, seed: int = 0) -> list[Obs]:
    """Play every task with random actions and keep observations, equally many of each.

    :param env: a multi-task environment in which each copy plays one task for good
    :param size: observations altogether; the whole part of ``size`` / N of each task
    :param seed: of the environments and the actions
    :return: one batch for each task
    """
    env.seed(seed)
    env.action_space.seed(seed)
    obs: Any = env.reset()
    tasks = tasks_played(env)
    copies = [np.flatnonzero(tasks == k) for k in range(len(task_names(env)))]
    wanted = size // len(copies)
    rounds = max(ROUNDS, -(-wanted // min(map(len, copies))))
    kept: list[list[Obs]] = [[] for _ in copies]
    for _ in range(rounds):
        for _ in range(STRIDE):
            obs, _, _, _ = env.step(np.array([env.action_space.sample() for _ in tasks]))
        for mine, batches in zip(copies, kept, strict=True):
            batches.append(select(obs, mine))
    return [_spread(concatenate(batches), wanted) for batches in kept]


def _spread(batch: Obs, count: int) -> Obs:
    """Take so many samples of a batch, evenly spread."""
    length = len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
    return select(batch, np.arange(count) * length // count)


class ProbeCallback(PeriodicCallback):
    """Look at the policy every so often on one fixed batch, balanced over the tasks.

    The observations come from environments of its own, played with random actions before training,
    so that every measurement sees the same batch. A VecNormalize normalises them at each
    measurement as it does in training (if other wrappers don't change what it returns).

    :param every: global steps between measurements
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, not normalised, one entry for each task, in place of
        collecting one
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises ValueError: if a number is too small, or ``probe`` is not one batch for each task
    """

    def __init__(
        self,
        every: int,
        *,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        if probe_size < 1:
            raise ValueError(f"`probe_size` must be at least 1, got {probe_size}")
        self.probe_size = probe_size
        self.probe = probe
        self.log_path = None if log_path is None else Path(log_path) / "diagnostics.npz"

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Collect the batch."""
        super().init_callback(model)
        self.task_names = task_names(self.training_env)
        if self.probe_size < len(self.task_names):
            raise ValueError(
                f"`probe_size` must be at least num_tasks={len(self.task_names)}, "
                f"got {self.probe_size}"
            )
        if self.probe is None:
            self.probe = self._collect()
        if len(self.probe) != len(self.task_names):
            raise ValueError(
                f"`probe` must hold one batch for each of {self.task_names}, got {len(self.probe)}"
            )
        self.record = Record(self.log_path, {"task_names": np.array(self.task_names)})

    @property
    def diagnostics(self) -> dict[str, np.ndarray]:
        """What ``diagnostics.npz`` holds."""
        return {**self.record.constants, **self.record.rows}

    def batches(self) -> list[Obs]:
        """Return the observations of each task as the policy sees them in training."""
        assert self.probe is not None
        normaliser = self._normaliser()
        if normaliser is None:
            return self.probe
        return [_normalised(normaliser, batch, k) for k, batch in enumerate(self.probe)]

    def _normaliser(self) -> VecNormalize | None:
        """Return the training normaliser, if what it returns is what the policy sees."""
        normaliser = self.model.get_vec_normalize_env()
        if normaliser is None or normaliser.observation_space != self.model.observation_space:
            return None
        return normaliser

    def _collect(self) -> list[Obs]:
        with preserved_generators():
            env = make_pinned_env(self.training_env)
            synchronise(self.training_env, env)
            own = unwrap_vec_normalize(env)
            if own is not None and self._normaliser() is not None:
                own.norm_obs = False
            probe = collect_probe(env, self.probe_size, seed=self.model.seed or 0)
            env.close()
        return probe

    def _resume(self, step: int) -> int | None:
        self.record.resume(step)
        return self.record.last_step

    def _on_training_end(self) -> None:
        step = self.model.num_timesteps
        measured_before = self._last == step
        super()._on_training_end()
        if not measured_before:
            # SB3 writes what was logged during a rollout, and none follows.
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)


def _normalised(normaliser: VecNormalize, batch: Obs, task: int) -> Obs:
    length = len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
    if hasattr(normaliser, "for_tasks"):
        normaliser = normaliser.for_tasks(np.full(length, task))
    return normaliser.normalize_obs(batch)
