"""Evaluate every task while training goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.layers.checks import whole, whole_or_none
from sb3_moe.saving.files import atomic
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.saving.record import Record
from sb3_moe.vec_env.evaluating import LONGEST, TaskEpisodes, evaluate_tasks, success_rate
from sb3_moe.vec_env.make import (
    are_interleaved,
    evaluation_copies,
    make_pinned_env,
    synchronise,
)
from sb3_moe.vec_env.tasks import name_of, only_task, short_names, task_names

ALL_TASKS = -1
# What this, SB3's own callback and TaskSwitchCallback log of all tasks at once.
OVER_ALL = ("mean_reward", "mean_ep_length", "success_rate", "switches", "task")
# Attribute of the model: the name of its last rollout's task, or ALL_TASKS.
TRAINED = "task_trained"


class MultiTaskEvalCallback(PeriodicCallback):
    """Evaluate every task in environments of its own, and log and keep the scores.

    It logs ``eval/<task>/mean_reward``, ``.../mean_ep_length``, ``.../success_rate`` (where a task
    reports it: the share of episodes in which any step did), ``eval/mean_reward``, and
    ``continual/<task>/forgotten``, what a task has lost since its last block. It evaluates before
    training, then at the first start of a rollout after every ``every`` global steps, at the first
    that plays another task than the one before, so that the blocks of training end at evaluations,
    and at the end. Training is the same, bit for bit, as without it: it has its own environments,
    which learn no statistics, and leaves the random generators as they were. Its episodes depend on
    the model's seed, the step and the number of copies only. An environment without tasks is one
    task, named ``task``.

    ``scores.npz`` holds, for K evaluations of N tasks: ``score`` (K, N), the mean returns;
    ``steps`` (K,); ``returns``, ``lengths`` and ``successes`` (K, N, episodes); ``trained`` (K,),
    the task that was trained just before, -1 for all (before training, the first to be trained);
    ``task_names`` (N,).

    :param every: global steps between evaluations; those at task switches come on top
    :param n_eval_episodes: episodes of each task
    :param eval_env: a multi-task environment with the training tasks, each in a copy of its own;
        an id's, or one that is in no VecEnv, gets the wrappers that SB3's models give theirs; None
        builds one like the training environment, wrappers of the VecEnv included. If it is in a
        VecNormalize, that takes over the training one's statistics and stops learning its own
    :param n_eval_envs: how many copies of each task to build, each of which plays its share of the
        episodes: another number plays other episodes. None: as many as episodes, up to ten; where a
        task's copies are stepped one by one no more than in training, and with
        ``vectorization="async"`` no more in all than there are cores, but one of each task
    :param deterministic: whether actions are the most likely ones
    :param max_episode_steps: an evaluation's episode that takes more steps is an error, or one
        without an end would be played for ever; None: wait for its end
    :param log_path: folder for ``scores.npz``
    :param best_model_save_path: folder for ``best_model.zip``, by the mean reward over tasks
    :param callback_on_new_best: called when that mean reward is the highest so far
    :param callback_after_eval: called after each evaluation
    :param verbose: 1 prints each evaluation
    :raises TypeError: if a number isn't a whole one
    :raises ValueError: if a number is below 1, or ``eval_env`` lacks tasks of the training one;
        while training, if an episode is too long
    """

    def __init__(
        self,
        every: int,
        n_eval_episodes: int = 10,
        *,
        eval_env: gym.Env[Any, Any] | VecEnv | str | None = None,
        n_eval_envs: int | None = None,
        deterministic: bool = True,
        max_episode_steps: int | None = LONGEST,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, callback=callback_after_eval, verbose=verbose)
        whole("n_eval_episodes", n_eval_episodes)
        whole_or_none("max_episode_steps", max_episode_steps)
        whole_or_none("n_eval_envs", n_eval_envs)
        if n_eval_envs is not None and eval_env is not None:
            raise ValueError(
                f"`n_eval_envs` must be None with an `eval_env`, which has its copies, got "
                f"{n_eval_envs}"
            )
        self.n_eval_episodes = n_eval_episodes
        self.n_eval_envs = n_eval_envs
        self.eval_env: Any = eval_env
        self.deterministic = deterministic
        self.max_episode_steps = max_episode_steps
        self.log_path = None if log_path is None else Path(log_path) / "scores.npz"
        self.best_model_save_path = best_model_save_path
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        # SB3's StopTrainingOnRewardThreshold and StopTrainingOnNoModelImprovement read these.
        self.best_mean_reward = -np.inf
        self.last_mean_reward = -np.inf
        #: How long each evaluation of this training took.
        self.seconds: list[float] = []
        # What is built here, now or at the first evaluation, is closed here too.
        self._built_from = eval_env
        self._owns_env = eval_env is None or isinstance(eval_env, str)

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check or build the evaluation environment."""
        super().init_callback(model)
        self.seconds = []
        self.task_names = task_names(self.training_env)
        if self._owns_env:  # a training that broke off left it, of what was played then
            self._close_own()
        if self.eval_env is not None:
            if not isinstance(self.eval_env, VecEnv):
                # An environment may draw numbers while it is built.
                with preserved_generators(model.action_space.np_random):
                    self.eval_env = model._wrap_env(maybe_make_env(self.eval_env, 0), verbose=0)
            try:
                _check_tasks(task_names(self.eval_env), self.task_names)
            except ValueError:
                if self._owns_env:
                    self._close_own()
                raise
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(model)
        constants = {"task_names": np.array(self.task_names)}
        self.record = Record.of(model, vars(self).get("record"), self.log_path, constants)
        self._mixed = are_interleaved(self.training_env)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """What ``scores.npz`` holds."""
        return {**self.record.constants, **self.record.rows}

    def act(self, step: int) -> bool:
        """Evaluate, log and keep the scores."""
        begun = time.monotonic()
        episodes = self._evaluate(step)
        self.seconds.append(time.monotonic() - begun)
        scores = {"score": episodes.returns.mean(1), "trained": self._trained}
        self.record.add(step, scores | episodes._asdict())
        self._log(episodes, step)
        return self._keep_best()

    def _resume(self, step: int) -> int | None:
        self.record.resume(step)
        self._trained: int = self._remembered(vars(self.model).get(TRAINED) if step > 0 else None)
        # Of another model's run nothing counts, wherever this one stands.
        self.best_mean_reward = -np.inf
        if step > 0 and self.record.last_step is not None:
            self.best_mean_reward = float(self.record.rows["score"].mean(1).max())
        return self.record.last_step

    def _remembered(self, trained: int | str | None) -> int:
        if trained == ALL_TASKS:
            return ALL_TASKS
        name = name_of(trained, self.task_names)
        # Of no run before, or of other tasks.
        if name not in self.task_names:
            return self._played_task()
        return self.task_names.index(name)

    def _evaluate(self, step: int) -> TaskEpisodes:
        # Epsilon-greedy policies draw from the action space.
        with preserved_generators(self.model.action_space.np_random):
            if self.eval_env is None:
                copies = self.n_eval_envs or evaluation_copies(
                    self.training_env, self.n_eval_episodes
                )
                self.eval_env = make_pinned_env(self.training_env, copies)
            synchronise(self.training_env, self.eval_env)
            entropy = [self.model.seed or 0, step]
            self.eval_env.seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]) // 2)
            return evaluate_tasks(
                self.model,
                self.eval_env,
                self.n_eval_episodes,
                self.deterministic,
                max_episode_steps=self.max_episode_steps,
            )

    def _log(self, episodes: TaskEpisodes, step: int) -> None:
        for k, name in enumerate(self._keys()):
            self.logger.record(f"eval/{name}/mean_reward", float(episodes.returns[k].mean()))
            self.logger.record(f"eval/{name}/mean_ep_length", float(episodes.lengths[k].mean()))
            rate = success_rate(episodes.successes[k])
            if not np.isnan(rate):
                self.logger.record(f"eval/{name}/success_rate", rate)
        for name, lost in self._forgotten().items():
            self.logger.record(f"continual/{name}/forgotten", lost)
        self.last_mean_reward = float(episodes.returns.mean())
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        self.logger.record("time/total_timesteps", step, exclude="tensorboard")
        self.logger.dump(step)
        if self.verbose:
            scores = ", ".join(
                f"{name} {mean:.2f}"
                for name, mean in zip(self.task_names, episodes.returns.mean(1), strict=True)
            )
            print(f"Evaluation at {step} steps: {scores}")

    def _keys(self) -> list[str]:
        # The only task of a plain environment is called "task".
        taken = OVER_ALL if len(self.task_names) > 1 else ()
        return short_names(self.task_names, taken=taken)

    def _forgotten(self) -> dict[str, float]:
        """Return what each task has lost since its last block, if that is over, by its key."""
        score, trained = self.record.rows["score"], self.record.rows["trained"]
        lost = {}
        for k, name in enumerate(self._keys()):
            ends = np.flatnonzero(trained == k)
            if len(ends) and ends[-1] < len(score) - 1:
                lost[name] = float(score[ends[-1], k] - score[-1, k])
        return lost

    def _keep_best(self) -> bool:
        if self.last_mean_reward <= self.best_mean_reward:
            return True
        self.best_mean_reward = self.last_mean_reward
        if self.best_model_save_path is not None:
            path = Path(self.best_model_save_path) / "best_model.zip"
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary, temporary.open("wb") as file:
                self.model.save(file)
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()

    def _on_rollout_start(self) -> None:
        self._played = self._played_task()
        super()._on_rollout_start()
        # SB3 saves the model's attributes, so that a resumed run finds this again.
        self._trained = self._played
        is_one = self._trained != ALL_TASKS
        vars(self.model)[TRAINED] = self.task_names[self._trained] if is_one else ALL_TASKS

    def _is_due(self, step: int) -> bool:
        # Copies may leave a task one by one: it ends with the first, and what follows is mixed.
        switched = self._trained not in (ALL_TASKS, self._played)
        return super()._is_due(step) or (switched and step != self._last)

    def _played_task(self) -> int:
        """Return the task that all environments play now, -1 if they mix tasks."""
        task = None if self._mixed else only_task(self.training_env)
        return ALL_TASKS if task is None else task

    def _on_training_end(self) -> None:
        super()._on_training_end()
        if self._owns_env:
            self._close_own()

    def _close_own(self) -> None:
        if isinstance(self.eval_env, VecEnv):
            self.eval_env.close()
        self.eval_env = self._built_from


def _check_tasks(names: list[str], expected: list[str]) -> None:
    if names != expected:
        missing = [name for name in expected if name not in names]
        raise ValueError(
            f"`eval_env` must have the training environment's tasks {expected}, got {names}"
            + (f", which lacks {missing}" if missing else "")
        )
