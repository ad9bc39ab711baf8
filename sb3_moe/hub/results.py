"""What an agent reaches, as its card and the Hub's leaderboards say it.

Shapes: N tasks, n episodes of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env.evaluating import TaskEpisodes, evaluate_tasks, success_rate
from sb3_moe.vec_env.tasks import has_tasks, suite_of
from sb3_moe.watching.stage import Stage, seed_generators, stage_for


@dataclass(frozen=True)
class Results:
    """Returns of every task.

    :param task_names: N
    :param played: the episodes
    :param deterministic: as in ``predict``
    :param suite: which the tasks are; None if they are none
    """

    task_names: list[str]
    played: TaskEpisodes
    deterministic: bool
    suite: str | None = None

    def of_task(self, task: int) -> dict[str, float]:
        """Return the means of a task, as :mod:`huggingface_sb3` calls them."""
        returns_n, successes_n = self.played.returns[task], self.played.successes[task]
        found = {
            "mean_reward": float(returns_n.mean()),
            "std_reward": float(returns_n.std()),
            "mean_ep_length": float(self.played.lengths[task].mean()),
            "success_rate": success_rate(successes_n),
        }
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """Return all of it for ``results.json``."""
        returns_Nn = self.played.returns
        return {
            "mean_reward": float(returns_Nn.mean()),
            "std_reward": float(returns_Nn.std()),
            "is_deterministic": self.deterministic,
            "n_eval_episodes": returns_Nn.shape[1],
            "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": self.suite,
            "tasks": {name: self.of_task(k) for k, name in enumerate(self.task_names)},
        }


def play(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None,
    episodes: int,
    seed: int,
    deterministic: bool,
) -> Results:
    """Play every task; the model, its environment and the generators stay as they were.

    :param model: of any algorithm
    :param env: as of :func:`sb3_moe.watch`
    :param episodes: of each task, at least 1
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :raises ValueError: if there is no environment, it doesn't play every task, or an episode
        takes more steps than any suite's
    """
    with _own_words(), preserved_generators(model.action_space.np_random):
        stage = stage_for(model, env, False, episodes)
        try:
            seed_generators(model, seed)
            stage.env.seed(seed)
            played = evaluate_tasks(model, stage.env, episodes, deterministic)
            suite = suite_of(stage.env)
        finally:
            stage.leave()
    return Results(_names(stage), played, deterministic, suite)


@contextmanager
def _own_words() -> Iterator[None]:
    """Name environments as the caller does: evaluation names them as a callback's argument."""
    try:
        yield
    except ValueError as error:
        if "`eval_env`" not in str(error):
            raise
        raise ValueError(str(error).replace("`eval_env`", "`env`")) from error


def _names(stage: Stage) -> list[str]:
    """Name the tasks; an environment without any goes by its id."""
    env = stage.env
    if has_tasks(env) or not env.has_attr("spec"):
        return stage.names
    spec = env.get_attr("spec")[0]
    return stage.names if spec is None else [spec.id]
