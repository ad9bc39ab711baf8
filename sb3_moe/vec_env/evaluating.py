"""Play a fixed number of episodes of every task, and report how each one went.

Shapes: N tasks, n episodes of each, B environments.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import Space
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.layers.checks import whole
from sb3_moe.vec_env.make import synchronize
from sb3_moe.vec_env.tasks import check_tasks, task_names, tasks_known, tasks_played

Array = npt.NDArray[np.float64]


class TaskEpisodes(NamedTuple):
    """The episodes of an evaluation.

    :param returns: (N, n)
    :param lengths: (N, n) in steps
    :param successes: (N, n), 1 where any step's info had ``is_success`` or ``success`` true, else
        0; NaN where no step's info had either
    """

    returns: Array
    lengths: Array
    successes: Array


def evaluate_tasks(
    model: BaseAlgorithm,
    env: VecEnv,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
) -> TaskEpisodes:
    """Play episodes of every task, in parallel environments that each keep to one task.

    Each parallel environment plays a fixed share of its task's episodes: counting those that end
    first would favor short ones. This package's Atari games are played to their end, over all
    lives, and their return is the game's score.

    >>> import sb3_moe
    >>> from sb3_moe.callbacks import make_pinned_env
    >>> from stable_baselines3 import PPO
    >>> env = sb3_moe.make_multitask_vec_env(["CartPole-v1"], seed=0)
    >>> model = PPO("MoeMultiInputPolicy", env, seed=0)
    >>> evaluate_tasks(model, make_pinned_env(env), n_eval_episodes=2).returns.shape
    (1, 2)

    :param model: only its ``predict`` is used, with ``action_masks`` if it takes them and the
        environment has them
    :param env: a monitored environment, multi-task or of a single task; if the model has an
        environment of its own, a ``VecNormalize`` around ``env`` gets the statistics of the model's
        environment and stops updating them
    :param n_eval_episodes: number of episodes of each task, at least 1
    :param deterministic: as in ``predict``
    :raises TypeError: if a number isn't a whole one, or ``env`` isn't a VecEnv
    :raises ValueError: if a task is not played or isn't the model's, observations aren't normalized
        as in the model's own environment, or a number is below 1
    """
    whole("n_eval_episodes", n_eval_episodes)
    if not isinstance(env, VecEnv):
        raise TypeError(f"`env` must be a VecEnv, got {type(env).__name__}: use make_vec_env")
    if isinstance(model, BaseAlgorithm):  # other models need only have a `predict`
        check_tasks(tasks_known(model), env)
        if (own := model.get_env()) is not None:
            synchronize(own, env)
    obs = env.reset()
    episodes = _Episodes(env, n_eval_episodes)
    for _, dones, infos in played(model, env, obs, deterministic=deterministic):
        episodes.step(dones, infos)
        if not episodes.left.any():
            break
    return episodes.by_task()


def played(
    model: Any, env: VecEnv, obs: Any, *, deterministic: bool
) -> Iterator[tuple[Any, npt.NDArray[np.bool_], Sequence[Mapping[str, Any]]]]:
    """Let a model play forever, and yield the observations, dones and infos of each step.

    :param model: only its ``predict`` is used, with ``action_masks`` if it takes them and the
        environment has them
    :param obs: the observations that the environment's reset returned
    """
    states = None
    dones = np.ones(env.num_envs, bool)
    masked = takes_masks(model, env)
    while True:
        told = {"state": states, "episode_start": dones, "deterministic": deterministic}
        if masked:
            told["action_masks"] = np.stack(env.env_method("action_masks"))
        actions, states = model.predict(obs, **told)
        obs, _, dones, infos = env.step(actions)
        yield obs, dones, infos


_EACH_ITS_OWN = "each of the environments must keep to one task, and every task have one"
_BUILD = "build it with sb3_moe.make_multitask_vec_env(tasks, schedule=Interleave())"


class _Episodes:
    """The episodes that each parallel environment has played of its share.

    :param env: the environment that is played
    :param episodes: number of episodes of each task
    :raises ValueError: if a task is not played
    """

    def __init__(self, env: VecEnv, episodes: int) -> None:
        self._tasks = tasks_played(env)
        self._names = task_names(env)
        if missing := [name for k, name in enumerate(self._names) if k not in self._tasks]:
            raise ValueError(f"{_EACH_ITS_OWN}, but {missing} has none; {_BUILD}")
        same_EE = self._tasks[:, None] == self._tasks
        number = same_EE.sum(1)
        rank = np.tril(same_EE, -1).sum(1)
        #: how many episodes each environment must still play
        self.left = (episodes + number - 1 - rank) // number
        self._episodes: list[list[Any]] = [[] for _ in self.left]
        self._lengths = np.zeros(env.num_envs)  # of the lives lost so far in the running game
        self._successes = Successes(env.num_envs)
        # SB3 puts its Monitor inside EpisodicLifeEnv: it reports no episode at a lost life.
        self._hides_lost_lives = np.logical_and(
            env.env_is_wrapped(EpisodicLifeEnv), env.env_is_wrapped(Monitor)
        )

    def step(self, dones: npt.NDArray[np.bool_], infos: Sequence[Mapping[str, Any]]) -> None:
        """Take note of a step of every environment."""
        self._successes.step(infos)
        for i in np.flatnonzero(dones).tolist():
            if "episode" in infos[i] or not self._hides_lost_lives[i]:
                self._end(i, infos[i])

    def _end(self, index: int, info: Mapping[str, Any]) -> None:
        self._lengths[index] += monitored(info)["l"]
        if is_lost_life(info):
            return
        episode = game_return(info), float(self._lengths[index]), self._successes.end(index)
        self._lengths[index] = 0
        if self.left[index]:
            task = self._tasks[index]
            if len(self._names) > 1 and info.get("task_id", task) != task:
                raise ValueError(f"{_EACH_ITS_OWN}, but environment {index} did not; {_BUILD}")
            self._episodes[index].append(episode)
            self.left[index] -= 1

    def by_task(self) -> TaskEpisodes:
        """Return the episodes of each task, in the order of the environments."""
        table: list[list[Any]] = [[] for _ in self._names]
        for task, own in zip(self._tasks.tolist(), self._episodes, strict=True):
            table[task] += own
        return TaskEpisodes(*np.moveaxis(np.array(table), -1, 0))


def takes_masks(model: BaseAlgorithm | type[BaseAlgorithm], env: VecEnv) -> bool:
    """Say whether a model, or an algorithm, takes action masks and an environment has them."""
    return predict_takes_masks(model) and env.has_attr("action_masks")


def predict_takes_masks(model: BaseAlgorithm | type[BaseAlgorithm]) -> bool:
    """Say whether ``predict`` of a model, or of an algorithm, takes ``action_masks``."""
    return "action_masks" in inspect.signature(model.predict).parameters


# The key that marks infos of this package's Atari games, whose episodes may be single lives. In
# infos without it, `score` may mean anything.
OF_ATARI = "of_atari"


class Successes:
    """Track which running episodes have succeeded: those in which any step reported success.

    :param n_envs: number of environments
    """

    def __init__(self, n_envs: int) -> None:
        from sb3_moe_envs.checks import succeeded

        self._now = succeeded
        self._succeeded = np.full(n_envs, np.nan)

    def step(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Read the infos of a step of every environment; to be called before :meth:`end`."""
        for i, info in enumerate(infos):
            self._succeeded[i] = self._now(float(self._succeeded[i]), info)

    def end(self, index: int) -> float:
        """Return 1 if the episode that ends succeeded, 0 if not, NaN if no step reported either."""
        succeeded = float(self._succeeded[index])
        self._succeeded[index] = np.nan
        return succeeded


def success_rate(successes: npt.ArrayLike) -> float:
    """Return the share of episodes that succeeded.

    Some tasks report only successes. So if any episode reported success or failure, the episodes
    that reported nothing (NaN) count as failed.

    :param successes: as :meth:`Successes.end` returns them, of any shape
    :return: NaN if no episode reported anything, or there is none
    """
    told = np.asarray(successes, np.float64)
    if not np.isfinite(told).any():
        return float("nan")
    return float(np.nan_to_num(told).mean())


def is_lost_life(info: Mapping[str, Any]) -> bool:
    """Say whether an episode ended only because a life was lost, so that the game goes on.

    :param info: of an episode's last step; the answer is False unless it is from one of this
        package's Atari games
    """
    goes_on = bool(info.get(OF_ATARI)) and not info.get("game_over", True)
    return goes_on and not info.get("TimeLimit.truncated", False)


def game_return(info: Mapping[str, Any]) -> float:
    """Return the result of a game: an Atari game's own score, else the monitored return.

    :param info: of the game's last step
    """
    # The monitored rewards of an Atari game may be clipped, and of the last life only.
    return float(info["score"] if info.get(OF_ATARI) else monitored(info)["r"])


def monitored(info: Mapping[str, Any]) -> Mapping[str, float]:
    """Return a monitor's record of an episode: its return ``"r"``, its length ``"l"``.

    :param info: of the episode's last step
    :raises ValueError: if the environment isn't monitored
    """
    if "episode" not in info:
        raise ValueError("the environment must be monitored: wrap it in SB3's VecMonitor")
    return info["episode"]


def random_player(env: VecEnv, *, masked: bool = False) -> Any:
    """Return an object whose ``predict`` draws uniformly random actions, in place of a model.

    :param env: the environment that it plays; its action space's generator draws the actions
    :param masked: leave out actions that the environment's ``action_masks`` forbid, as a policy
        that takes masks does
    """
    space = env.action_space

    def predict(*_: Any, **__: Any) -> tuple[np.ndarray, None]:
        if not masked:
            return np.array([space.sample() for _ in range(env.num_envs)]), None
        return np.array([_allowed(space, row) for row in env.env_method("action_masks")]), None

    return SimpleNamespace(predict=predict)


def _allowed(space: Space, mask: npt.ArrayLike) -> np.ndarray:
    """Draw one of the actions that a mask allows; if it allows none, one of all, as policies do.

    :param space: Discrete, MultiDiscrete or MultiBinary, as sb3-contrib's masks need it
    :param mask: the masks of all entries of an action, one behind the other
    """
    from sb3_moe_envs.spaces.actions import choices

    sizes = choices(space)
    starts = np.cumsum(sizes)[:-1]
    entries = np.split(np.asarray(mask, bool).ravel(), starts)
    drawn = [
        space.np_random.choice(np.flatnonzero(entry if entry.any() else ~entry))
        for entry in entries
    ]
    return np.array(drawn, dtype=space.dtype).reshape(space.shape or ())
