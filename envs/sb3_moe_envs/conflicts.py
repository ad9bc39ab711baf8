"""Conflicting tasks: one environment in several coordinates, so that no one policy suits them all.

Entries of observations are permuted and negated, and actions are exchanged. An agent that plays
several of these tasks must tell them apart: the right action in one is wrong in another. Each task
alone is exactly as hard as the environment itself.
"""

import functools
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorWrapper
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit

from sb3_moe_envs.checks import Env, EnvStep, ResetResult, StepResult, whole
from sb3_moe_envs.methods import ACTION_MASKS, MEANINGS, method_of
from sb3_moe_envs.physics import MAX_STEPS, CartPoleVectorEnv
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.batched import BatchedVectorEnv
from sb3_moe_envs.vector.gymnax import MinAtarEnv, MinAtarVectorEnv

__all__ = ["Conflicting", "conflicting_breakouts", "conflicting_cartpoles", "shuffled_breakouts"]

# MinAtar's actions, with left and right exchanged.
_MIRRORED = (0, 3, 2, 1, 4, 5)


def conflicting_cartpoles(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw CartPoles of which no two have the same best policy.

    The first task is the plain CartPole, and every second task exchanges the actions. With the same
    seed, a smaller number of tasks gives the first tasks of a larger number. CartPole is symmetric:
    negating all entries and exchanging the actions leaves the best policy as it is, so no two tasks
    differ in that alone.

    :param num_tasks: at most 384
    :param seed: at least 0
    :raises ValueError: if `num_tasks` or `seed` is out of range
    """
    return _tasks("CartPole", num_tasks, seed, signed=True, exchanged=(1, 0), most=384)


def conflicting_breakouts(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw Breakouts with permuted channels; every second one also exchanges left and right.

    The first is the plain game. With the same seed, a smaller number of tasks gives the first tasks
    of a larger number.

    :param num_tasks: at most 48
    :param seed: at least 0
    :raises ValueError: if `num_tasks` or `seed` is out of range
    """
    return _tasks("Breakout", num_tasks, seed, signed=False, exchanged=_MIRRORED, most=48)


def _tasks(
    name: str, num_tasks: int, seed: int, *, signed: bool, exchanged: tuple[int, ...], most: int
) -> list[Task]:
    if whole("num_tasks", num_tasks) > most:
        raise ValueError(f"`num_tasks` must be at most {most}, got {num_tasks}")
    random = Random(whole("seed", seed, 0))
    permutation = tuple(range(4))
    signs = tuple([1] * 4)
    found = dict[Any, dict[str, Any]]()
    while len(found) < num_tasks:
        own: dict[str, Any] = {"permutation": permutation}
        if signed:
            own["signs"] = signs
        # For CartPole, to exchange the actions is the same as to negate all entries. Without signs,
        # negative ones only tell exchanged actions from others.
        alike = signs
        if len(found) % 2 == 1:
            own["actions"] = exchanged
            alike = tuple(-sign for sign in signs)
        found.setdefault((permutation, alike), own)
        permutation = tuple(_shuffled(random, 4))
        signs = tuple(-1 if signed and random.random() < 0.5 else 1 for _ in range(4))
    env_id = f"sb3_moe_envs:SB3MoE/Conflicting{name}-v0"
    return [Task(f"{name}{k}", env_id, own) for k, own in enumerate(found.values())]


def _shuffled(random: Random, length: int) -> list[int]:
    # For a seed, Python promises only the numbers of `random()` to be the same in all versions.
    keys = [random.random() for _ in range(length)]
    return sorted(range(length), key=keys.__getitem__)


def shuffled_breakouts(num_tasks: int, first: int = 0) -> list[Task]:
    """Return Breakouts that each have their own order of the pixels, all equally hard for an MLP.

    :param num_tasks: how many tasks
    :param first: number of the first task's permutation; 0 is the plain game
    :raises ValueError: if a number is out of range
    """
    first = whole("first", first, 0)
    numbers = range(first, first + whole("num_tasks", num_tasks))
    env_id = "sb3_moe_envs:SB3MoE/ShuffledBreakout-v0"
    return [Task(f"Breakout{k}", env_id, {"shuffle": k}) for k in numbers]


class Coordinates:
    """Translate an environment's observations into other coordinates, and actions back from them.

    :param observation_space: of the environment, a Box; its last axis is permuted
    :param action_space: of the environment; if it is Discrete, it counts from 0
    :param permutation: at each place, the index of the environment's entry that is shown there;
        None: no permutation
    :param signs: 1 or -1, by which each shown entry is multiplied; None: 1 everywhere
    :param actions: for each action, the environment's action that it stands for, if these are
        Discrete; None: the same one
    :param shuffle: number of a permutation of the pixels of an image with channels last, which
        keeps the channels of a pixel together; 0 leaves the pixels as they are
    :raises ValueError: if `permutation` or `actions` is no permutation, a sign is neither 1 nor -1,
        or `shuffle` is negative
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        permutation: Sequence[int] | None = None,
        signs: Sequence[int] | None = None,
        actions: Sequence[int] | None = None,
        shuffle: int = 0,
    ) -> None:
        length = observation_space.shape[-1]
        entries = _permutation("permutation", permutation, length)
        places = np.arange(observation_space.low.size).reshape(-1, length)
        if number := whole("shuffle", shuffle, 0):
            places = places[_shuffled(Random(number), len(places))]
        self._places = places[:, entries].ravel()
        self._num_axes = len(observation_space.shape)
        self._signs = None
        if signs is not None:
            if len(signs) != length or any(sign not in (1, -1) for sign in signs):
                raise ValueError(f"`signs` must hold {length} values, each 1 or -1, got {signs!r}")
            self._signs = np.array(signs, observation_space.dtype)
        self._actions = None
        if actions is not None:
            self._actions = _permutation("actions", actions, int(action_space.n))
        ends = [self.observation(end) for end in (observation_space.low, observation_space.high)]
        low = np.minimum(*ends)
        high = np.maximum(*ends)
        self.observation_space = spaces.Box(low, high, dtype=observation_space.dtype)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Show one observation or a batch in these coordinates."""
        rows = observation.shape[: observation.ndim - self._num_axes]
        shown = observation.reshape(*rows, -1)[..., self._places].reshape(observation.shape)
        return shown if self._signs is None else shown * self._signs

    def action(self, action: Any) -> Any:
        """Return the environment's actions for one or an array of actions in these coordinates."""
        if self._actions is None:
            return action
        # Not `self._actions[action]`, for which numpy would take an array of bools as a mask.
        return self._actions.take(action)

    def by_action(self, method: Callable[[], Any]) -> np.ndarray:
        """Return the environment's masks or names of actions in the order of these coordinates.

        :param method: returns them, (..., actions)
        """
        values = np.asarray(method())
        return values if self._actions is None else values[..., self._actions]


def _permutation(name: str, given: Sequence[int] | None, length: int) -> np.ndarray:
    order = list(range(length)) if given is None else list(given)
    if sorted(order) != list(range(length)):
        raise ValueError(f"`{name}` must hold each of 0 to {length - 1} once, got {given!r}")
    return np.array(order, np.int64)


class _Translating:
    """Have the methods for action masks and action names only if the environment has them."""

    coordinates: Coordinates

    def __getattr__(self, name: str) -> Any:
        env = vars(self).get("env")
        method = method_of(env, name) if env and name in (ACTION_MASKS, MEANINGS) else None
        if method is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # A partial, not a lambda, since SB3's SubprocVecEnv pickles the attributes that it reads.
        return functools.partial(self.coordinates.by_action, method)


class Conflicting(_Translating, gym.ObservationWrapper, RecordConstructorArgs):
    """Show an environment in other :class:`Coordinates`.

    :param env: with Box observations
    :param coordinates: `permutation`, `signs`, `actions` and `shuffle`, see :class:`Coordinates`
    """

    def __init__(self, env: Env, **coordinates: Any) -> None:
        RecordConstructorArgs.__init__(self, **coordinates)
        super().__init__(env)
        self.coordinates = Coordinates(env.observation_space, env.action_space, **coordinates)
        self.observation_space = self.coordinates.observation_space

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Show an observation in these coordinates."""
        return self.coordinates.observation(observation)

    def step(self, action: Any) -> EnvStep:
        """Act."""
        return super().step(self.coordinates.action(action))


class ConflictingVectorEnv(_Translating, VectorWrapper):
    """Show all environments of a :class:`BatchedVectorEnv` in other :class:`Coordinates`.

    :param env: the environments in their own coordinates
    :param coordinates: as for :class:`Conflicting`
    """

    def __init__(self, env: BatchedVectorEnv, **coordinates: Any) -> None:
        super().__init__(env)
        self.coordinates = Coordinates(
            env.single_observation_space, env.single_action_space, **coordinates
        )
        self.single_observation_space = self.coordinates.observation_space
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._batched: Any = env

    def reset(self, **kwargs: Any) -> ResetResult:
        """Start an episode in every environment."""
        observations, infos = self._batched.reset(**kwargs)
        return self.coordinates.observation(observations), infos

    def step(  # type: ignore[override]  # Gymnasium's returns unbound type variables
        self, actions: Any
    ) -> StepResult:
        """Step every environment with its action."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        self._batched.step_async(self.coordinates.action(actions))

    def step_wait(self) -> StepResult:
        """Wait for the step that :meth:`step_async` began."""
        observations, rewards, terminated, truncated, infos = self._batched.step_wait()
        if "final_obs" in infos:
            for row in np.flatnonzero(infos["_final_obs"]).tolist():
                infos["final_obs"][row] = self.coordinates.observation(infos["final_obs"][row])
        return self.coordinates.observation(observations), rewards, terminated, truncated, infos


def conflicting(game: str, render_mode: str | None = None, **coordinates: Any) -> Env:
    """Build `CartPole-v1` or a game of MinAtar in other coordinates.

    :param game: `"CartPole"` or a game's name
    :param coordinates: as for :class:`Conflicting`
    """
    if game == "CartPole":
        pole = CartPoleEnv(render_mode=render_mode)
        return Conflicting(TimeLimit(pole, MAX_STEPS), **coordinates)
    return Conflicting(MinAtarEnv(game, render_mode), **coordinates)


def many_conflicting(
    game: str, num_envs: int = 1, *, render_mode: str | None = None, **coordinates: Any
) -> ConflictingVectorEnv:
    """Build a vector environment of the environments that :func:`conflicting` builds."""
    if game == "CartPole":
        poles = CartPoleVectorEnv(num_envs, render_mode=render_mode)
        return ConflictingVectorEnv(poles, **coordinates)
    games = MinAtarVectorEnv(game, num_envs, render_mode=render_mode)
    return ConflictingVectorEnv(games, **coordinates)
