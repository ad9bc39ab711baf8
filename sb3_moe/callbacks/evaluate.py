"""Evaluate every task while training goes on."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.periodic import CurrentTask, RecordingCallback, remembered
from sb3_moe.layers.checks import whole
from sb3_moe.saving.files import atomic
from sb3_moe.saving.snapshot import preserved_generators
from sb3_moe.vec_env.evaluating import TaskEpisodes, evaluate_tasks, success_rate
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env
from sb3_moe.vec_env.tasks import task_names

ALL_TASKS = -1
# Attribute of the model: the name of its last rollout's task, or ALL_TASKS.
TRAINED = "task_trained"


class MultiTaskEvalCallback(RecordingCallback):
    """Evaluate every task in separate environments, and log and keep the scores.

    It logs ``eval/<task>/mean_reward``, ``.../mean_ep_length``, ``.../success_rate`` (the share of
    episodes in which any step reported success, for tasks that report it), ``eval/mean_reward``,
    and ``continual/<task>/forgotten``: how far the task's score has fallen since the end of its
    last block of training.

    It evaluates before training, then at the first start of a rollout after every ``every`` global
    steps, and at the end of training. It also evaluates at the first start of a rollout that plays
    another task than the rollout before, so that each block of training ends at an evaluation.

    Training is the same, bit for bit, as without this callback: the evaluation environments are
    separate and learn no statistics, and the random generators are left as they were. The seeds of
    an evaluation's episodes depend only on the model's seed, the step and the number of
    environments. An environment without tasks counts as one task, named ``task``.

    ``scores.npz`` holds, for K evaluations of N tasks: ``score`` (K, N), the mean returns;
    ``steps`` (K,); ``returns``, ``lengths`` and ``successes`` (K, N, episodes); ``trained`` (K,),
    the number of the task that was trained just before the evaluation, -1 for all tasks (before
    training: the task that will be trained first); ``task_names`` (N,).

    :param every: global steps between evaluations, besides those at task switches
    :param n_eval_episodes: episodes of each task
    :param eval_env: a multi-task VecEnv with the training tasks, in which each environment plays
        one task for good. An id, or an environment that is no VecEnv, is wrapped as SB3's models
        wrap theirs. None: one like the training environment is built, wrappers of the VecEnv
        included. A VecNormalize around it takes over the training environment's statistics, and
        stops learning its own
    :param deterministic: whether actions are the most likely ones
    :param log_path: folder for ``scores.npz``
    :param best_model_save_path: folder for ``best_model.zip``, the model with the highest mean
        reward over all tasks
    :param callback_on_new_best: called when the mean reward over all tasks is the highest so far
    :param callback_after_eval: called after each evaluation
    :param verbose: 1 prints each evaluation
    :raises TypeError: if a number isn't a whole one
    :raises ValueError: if a number is below 1, or ``eval_env`` has other tasks than the training
        environment; while training, if an episode is too long
    """

    file = "scores.npz"

    def __init__(
        self,
        every: int,
        n_eval_episodes: int = 10,
        *,
        eval_env: GymEnv | str | None = None,
        deterministic: bool = True,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, log_path=log_path, verbose=verbose)
        whole("n_eval_episodes", n_eval_episodes)
        self.n_eval_episodes = n_eval_episodes
        self.eval_env: Any = eval_env
        self.deterministic = deterministic
        self.best_model_save_path = best_model_save_path
        self.callback = callback_after_eval
        self.callback_on_new_best = callback_on_new_best
        for each in (callback_after_eval, callback_on_new_best):
            if each is not None:
                each.parent = self
        # SB3's StopTrainingOnRewardThreshold and StopTrainingOnNoModelImprovement read these.
        self.best_mean_reward = -np.inf
        self.last_mean_reward = -np.inf
        # This callback closes only what it builds itself, now or at the first evaluation.
        self._built_from = eval_env
        self._owns_env = eval_env is None or isinstance(eval_env, str)

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check or build the evaluation environment."""
        super().init_callback(model)
        # A training that broke off left its evaluation environment open, maybe with other tasks.
        self._close_own()
        if self.eval_env is not None:
            if not isinstance(self.eval_env, VecEnv):
                # An environment may draw random numbers while it is built.
                with preserved_generators(model.action_space.np_random):
                    self.eval_env = model._wrap_env(maybe_make_env(self.eval_env, 0), verbose=0)
            if (names := task_names(self.eval_env)) != self.task_names:
                self._close_own()
                raise ValueError(f"`eval_env` must have the tasks {self.task_names}, got {names}")
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(model)
        self._task = CurrentTask(self.training_env, required=False)

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The arrays of ``scores.npz``."""
        return self.diagnostics

    def act(self, step: int) -> bool:
        """Evaluate, log and keep the scores."""
        episodes = self._evaluate(step)
        trained = ALL_TASKS if self._trained is None else self._trained
        scores = {"score": episodes.returns.mean(1), "trained": trained}
        self.record.add(step, scores | episodes._asdict())
        self._log(episodes, step)
        return self._keep_best()

    def _resume(self, step: int) -> int | None:
        last = super()._resume(step)
        # The model knows what it trained last, unless the run is new or its tasks were others. Then
        # take the task that is played now.
        known = vars(self.model).get(TRAINED) if step > 0 else None
        self._trained: int | None = self._task.number()
        if known in self.task_names:
            self._trained = self.task_names.index(known)
        elif known == ALL_TASKS:
            self._trained = None
        # Only the end of the folder's path, because the folders above may be moved.
        folder = "/".join(Path(self.best_model_save_path or "").parts[-2:])
        how = "deterministic" if self.deterministic else "stochastic"
        key = f"{folder}, {how}, of {', '.join(self.task_names)}"
        self._best = remembered(self.model, "best_models", key)
        self.best_mean_reward = self._best.get("mean_reward", -np.inf)
        return last

    def _evaluate(self, step: int) -> TaskEpisodes:
        if self.eval_env is None:
            # Environments may draw random numbers while they are built, and a resumed run builds
            # them again.
            with preserved_generators(self.model.action_space.np_random):
                copies = evaluation_copies(self.training_env, self.n_eval_episodes)
                self.eval_env = make_pinned_env(self.training_env, copies)
        # Epsilon-greedy policies draw from the action space's generator.
        with preserved_generators(self.model.action_space.np_random):
            entropy = [self.model.seed or 0, step]
            self.eval_env.seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]) // 2)
            return evaluate_tasks(
                self.model, self.eval_env, self.n_eval_episodes, self.deterministic
            )

    def _log(self, episodes: TaskEpisodes, step: int) -> None:
        means = episodes.returns.mean(1)
        kinds = {
            "eval/{}/mean_reward": means,
            "eval/{}/success_rate": [success_rate(each) for each in episodes.successes],
            "eval/{}/mean_ep_length": episodes.lengths.mean(1),
            "continual/{}/forgotten": self._forgotten(),
        }
        self.log_by_task(kinds)
        self.last_mean_reward = float(episodes.returns.mean())
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        self.logger.record("time/total_timesteps", step, exclude="tensorboard")
        self.logger.dump(step)
        pairs = zip(self.task_names, means, strict=True)
        scores = ", ".join(f"{name} {mean:.2f}" for name, mean in pairs)
        self.say(f"Evaluation at {step} steps: {scores}")

    def _forgotten(self) -> list[float]:
        """Return how far each task's score fell since its last block ended; NaN before that."""
        score = self.record.rows["score"]
        trained = self.record.rows["trained"]
        blocks = [np.flatnonzero(trained == k) for k in range(len(self.task_names))]
        return [
            float(score[ends[-1], k] - score[-1, k])
            if len(ends) and ends[-1] < len(score) - 1
            else math.nan
            for k, ends in enumerate(blocks)
        ]

    def _keep_best(self) -> bool:
        if not self.last_mean_reward > self.best_mean_reward:  # true for NaN too
            return True
        self._best["mean_reward"] = self.best_mean_reward = self.last_mean_reward
        if self.best_model_save_path is not None:
            path = Path(self.best_model_save_path) / "best_model.zip"
            with atomic(path) as temporary, temporary.open("wb") as file:
                self.model.save(file)
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()

    def _on_rollout_start(self) -> None:
        self._played = self._task.number()
        super()._on_rollout_start()
        # SB3 saves the model's attributes, so that a resumed run finds this again.
        self._trained = played = self._played
        vars(self.model)[TRAINED] = ALL_TASKS if played is None else self.task_names[played]

    def _is_due(self, step: int) -> bool:
        # Parallel environments may switch tasks one by one. The block ends when the first one
        # switches; until all have, the tasks count as mixed.
        switched = self._trained not in (None, self._played)
        return super()._is_due(step) or (switched and step != self._last)

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self._close_own()

    def _close_own(self) -> None:
        if self._owns_env:
            if isinstance(self.eval_env, VecEnv):
                self.eval_env.close()
            self.eval_env = self._built_from
