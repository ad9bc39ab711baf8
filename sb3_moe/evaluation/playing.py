"""Play a fixed number of episodes of every task.

Shapes: N tasks, n episodes of each.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.evaluation.outcomes import Successes, game_return, is_lost_life, monitored
from sb3_moe.layers.checks import whole_or_none
from sb3_moe.tasks.known import check_tasks, tasks_known
from sb3_moe.tasks.of_env import task_names, tasks_played

Array = npt.NDArray[np.float64]


class TaskEpisodes(NamedTuple):
    """The episodes of an evaluation.

    :param returns: (N, n)
    :param lengths: (N, n) in steps
    :param successes: (N, n), 1 where any step's info had ``is_success`` or ``success`` true, else
        0; NaN where the task does not say
    """

    returns: Array
    lengths: Array
    successes: Array


def evaluate_tasks(
    model: BaseAlgorithm,
    env: VecEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    *,
    max_episode_steps: int | None = None,
) -> TaskEpisodes:
    """Play every task of an environment in which each copy plays one task for good.

    Each copy has its own share of the episodes: taking those that end first would favour short
    ones. An Atari game is played to its end, over all lives, and its return is the game's score.

    >>> import sb3_moe
    >>> from sb3_moe.callbacks import make_pinned_env
    >>> from stable_baselines3 import PPO
    >>> env = sb3_moe.make_multitask_vec_env(["CartPole-v1"], seed=0)
    >>> model = PPO("MoeMultiInputPolicy", env, seed=0)
    >>> evaluate_tasks(model, make_pinned_env(env), n_eval_episodes=2).returns.shape
    (1, 2)

    :param model: only its ``predict`` is used, with ``action_masks`` where it takes them and the
        environment has them
    :param env: a monitored environment, multi-task or of a single task
    :param n_eval_episodes: of each task, at least 1
    :param deterministic: as in ``predict``
    :param max_episode_steps: an episode that takes more steps is an error; None: wait for its end
    :raises TypeError: if ``max_episode_steps`` is neither an int nor None
    :raises ValueError: if a task is not played or isn't the model's, an episode is too long, or a
        number is below 1
    """
    whole_or_none("max_episode_steps", max_episode_steps)
    if n_eval_episodes < 1:
        raise ValueError(f"`n_eval_episodes` must be at least 1, got {n_eval_episodes}")
    if isinstance(model, BaseAlgorithm):  # else there is nothing but a `predict`
        check_tasks(tasks_known(model), env)
    obs = env.reset()
    tasks = tasks_played(env)
    names = task_names(env)
    quota = _quotas(tasks, names, n_eval_episodes)
    running = np.zeros(env.num_envs, dtype=np.int64)  # steps without an end
    episodes: list[list[tuple[float, float, float]]] = [[] for _ in range(env.num_envs)]
    successes, lengths = Successes(env.num_envs), np.zeros(env.num_envs)
    states, starts = None, np.ones(env.num_envs, dtype=bool)
    lives = [env.env_is_wrapped(wrapper) for wrapper in (EpisodicLifeEnv, Monitor)]
    masked = _takes_masks(model) and env.has_attr("action_masks")
    wanted = [number > 0 for number in quota]
    while any(wanted):
        masks = {"action_masks": np.stack(env.env_method("action_masks"))} if masked else {}
        actions, states = model.predict(
            obs,  # type: ignore[arg-type]  # a tuple of observations is not supported by SB3
            state=states,
            episode_start=starts,
            deterministic=deterministic,
            **masks,
        )
        obs, _, starts, infos = env.step(actions)
        successes.step(infos)
        running = np.where(starts, 0, running + 1)
        for i in np.flatnonzero(starts).tolist():
            if all(has[i] for has in lives) and "episode" not in infos[i]:
                # SB3 puts its Monitor within, where a lost life ends nothing.
                continue
            lengths[i] += monitored(infos[i])["l"]
            if is_lost_life(infos[i]):
                continue
            episode = game_return(infos[i]), float(lengths[i]), successes.end(i)
            lengths[i] = 0
            if len(episodes[i]) < quota[i]:
                episodes[i].append(episode)
        wanted = [len(mine) < number for mine, number in zip(episodes, quota, strict=True)]
        if max_episode_steps is not None and (running * wanted).max() >= max_episode_steps:
            _refuse_endless(names[tasks[(running * wanted).argmax()]], max_episode_steps)
    return _by_task(episodes, tasks, n_eval_episodes)


def _refuse_endless(task: str, max_episode_steps: int) -> None:
    raise ValueError(
        f"`env` must end each episode within `max_episode_steps`={max_episode_steps:,}, got one of "
        f"{task} that goes on: put gymnasium.wrappers.TimeLimit around it"
    )


def _takes_masks(model: BaseAlgorithm) -> bool:
    return "action_masks" in inspect.signature(model.predict).parameters


def _quotas(tasks: npt.NDArray[np.int64], names: list[str], episodes: int) -> list[int]:
    """Share the episodes of each task among the copies that play it."""
    missing = [name for k, name in enumerate(names) if k not in tasks]
    if missing:
        raise ValueError(
            f"`eval_env` must play every task in a copy of its own, but lacks {missing}; build it "
            "with sb3_moe.make_multitask_vec_env(tasks, schedule=Interleave())"
        )
    rank = [int((tasks[:i] == task).sum()) for i, task in enumerate(tasks)]
    copies = [int((tasks == task).sum()) for task in tasks]
    return [(episodes + n - 1 - r) // n for r, n in zip(rank, copies, strict=True)]


def _by_task(
    episodes: list[list[tuple[float, float, float]]], tasks: npt.NDArray[np.int64], count: int
) -> TaskEpisodes:
    table = np.empty((int(tasks.max()) + 1, count, 3))
    for task in range(len(table)):
        table[task] = [e for i in np.flatnonzero(tasks == task) for e in episodes[i]]
    return TaskEpisodes(*np.moveaxis(table, -1, 0))
