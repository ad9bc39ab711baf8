"""A fixed batch of observations of every task, on which networks are looked at over time.

Shapes: N tasks.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_moe.callbacks.periodic import RecordingCallback
from sb3_moe.layers.checks import whole
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env.evaluating import random_actions, takes_masks
from sb3_moe.vec_env.kept_rows import Watched
from sb3_moe.vec_env.make import make_pinned_env, not_built_again_since, synchronize
from sb3_moe.vec_env.observations import Obs, concatenate, select, spread
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.vec_env.tasks import task_names, tasks_played

# Random play goes on for so many steps between the observations that are kept, and so many times.
STRIDE, ROUNDS = 4, 10


def collect_probe(env: VecEnv, size: int, seed: int = 0, *, masked: bool = False) -> list[Obs]:
    """Play every task with random actions and keep observations, equally many of each.

    :param env: a multi-task environment in which each environment plays one task for good
    :param size: observations altogether; the whole part of ``size`` / N of each task
    :param seed: of the environments and the actions
    :param masked: leave out what the environment's ``action_masks`` forbid
    :return: one batch for each task
    :raises TypeError: if ``size`` is no int
    :raises ValueError: if ``size`` is below N, a task is not played, or an
        environment changes its task
    """
    whole("size", size)
    names = task_names(env)
    if size < len(names):
        raise ValueError(f"`size` must be at least num_tasks={len(names)}, got {size}")
    env.seed(seed)
    env.action_space.seed(seed)
    obs: Any = env.reset()
    tasks = tasks_played(env)
    envs = [np.flatnonzero(tasks == k) for k in range(len(names))]
    _check_apart([name for name, mine in zip(names, envs, strict=True) if not len(mine)])
    wanted = size // len(envs)
    rounds = max(ROUNDS, -(-wanted // min(map(len, envs))))
    kept: list[list[Obs]] = [[] for _ in envs]
    for _ in range(rounds):
        for _ in range(STRIDE):
            obs, _, _, _ = env.step(random_actions(env, masked=masked))
        for mine, batches in zip(envs, kept, strict=True):
            batches.append(select(obs, mine))
        _check_apart([names[k] for k in set(tasks[tasks_played(env) != tasks].tolist())])
    return [spread(concatenate(batches), wanted) for batches in kept]


def _check_apart(lacking: list[str]) -> None:
    if lacking:
        raise ValueError(
            "`env` must play every task in an environment of its own, but lacks one of "
            f"{', '.join(lacking)}: build it with make_pinned_env"
        )


class ProbeCallback(RecordingCallback):
    """Look at the policy every so often on one fixed batch, balanced over the tasks.

    The observations come from environments of its own, played with random actions before training,
    so that every measurement sees the same batch. A VecNormalize normalizes them at each
    measurement as it does in training (if other wrappers don't change what it returns). Where an
    environment of a single task can't be built again, which only those of
    :func:`~sb3_moe.make_multitask_vec_env` can, the batch is of training's own first observations,
    every fourth step, and the first measurement is at the rollout that begins when it is full, or
    at the end of training.

    :param every: global steps between measurements
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, not normalized, one entry for each task, in place of
        collecting one
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if ``probe_size`` is no int
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
        super().__init__(every, log_path=log_path, verbose=verbose)
        whole("probe_size", probe_size)
        self.probe_size = probe_size
        self.given = self.probe = probe
        self._seen_by: object = None

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Collect the batch, unless it is there already, or has to be watched in training."""
        super().init_callback(model)
        if self._seen_by not in (None, (model, self.task_names)):
            self.forget()
        self._seen_by = (model, self.task_names)
        num_tasks = len(self.task_names)
        if self.probe_size < num_tasks:
            raise ValueError(
                f"`probe_size` must be at least num_tasks={num_tasks}, got {self.probe_size}"
            )
        if self.probe is None:
            self.probe = self._collect()
        elif not isinstance(self.probe, list) or len(self.probe) != num_tasks:
            held = len(self.probe) if isinstance(self.probe, list) else type(self.probe).__name__
            raise ValueError(
                f"`probe` must be a list of one batch for each of {self.task_names}, got {held}"
            )

    def forget(self) -> None:
        """Drop what was another model's, or other tasks'."""
        self.probe = self.given

    def batches(self) -> list[Obs]:
        """Return the observations of each task as the policy sees them in training."""
        assert self.probe is not None
        normalizer = self._normalizer()
        if normalizer is None:
            return self.probe
        if isinstance(normalizer, PerTaskVecNormalize):
            return [
                normalizer.normalize_obs(batch, np.full(number_of(batch), k))
                for k, batch in enumerate(self.probe)
            ]
        return [normalizer.normalize_obs(batch) for batch in self.probe]

    def _normalizer(self) -> VecNormalize | None:
        """Return the training normalizer, if what it returns is what the policy sees."""
        normalizer = self.model.get_vec_normalize_env()
        if normalizer is None or normalizer.observation_space != self.model.observation_space:
            return None
        return normalizer

    def _collect(self) -> list[Obs] | None:
        """Play in environments of its own, or prepare to watch training if there can't be any."""
        if obstacle := not_built_again_since(self.training_env):
            if len(self.task_names) > 1:
                raise ValueError(
                    "`probe` must hold one batch of observations for each of "
                    f"{self.task_names}, got None, and the environment can't be built again to "
                    f"collect them, since {obstacle}"
                )
            self._watched = Watched(self.probe_size, STRIDE)
            return None
        with preserved_generators(), closing(make_pinned_env(self.training_env)) as env:
            synchronize(self.training_env, env)
            own = unwrap_vec_normalize(env)
            if own is not None and self._normalizer() is not None:
                own.norm_obs = False
            masked = takes_masks(self.model, env)
            return collect_probe(env, self.probe_size, self.model.seed or 0, masked=masked)

    def _is_due(self, step: int) -> bool:
        return self.probe is not None and super()._is_due(step)

    def _on_step(self) -> bool:
        if self.probe is None:
            normalizer = self._normalizer()
            raw = self.locals["new_obs"] if normalizer is None else normalizer.get_original_obs()
            self._watched.add(raw)
            if len(self._watched) >= self.probe_size:
                self.probe = [self._watched.batch()]
        return super()._on_step()

    def _on_training_end(self) -> None:
        if self.probe is None and len(self._watched):
            self.probe = [self._watched.batch()]
        step = self.model.num_timesteps
        if self.probe is not None and self._last != step:
            super()._on_training_end()
            # SB3 writes what was logged during a rollout, and none follows.
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)


def number_of(batch: Obs) -> int:
    """Return how many observations a batch holds."""
    return len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
