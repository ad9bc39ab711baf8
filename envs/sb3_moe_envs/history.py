"""Show agents the last steps of the episode, so that they can infer a task that nothing names.

Shapes: K rows of the history, D numbers of an observation, A of an action, n environments. A row
holds [observation D | the action that led to it A | the reward that came with it 1 | 1]. Rows from
before the start of the episode hold zeros.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim
from gymnasium.utils import RecordConstructorArgs

from sb3_moe_envs.checks import Env, EnvStep, ResetResult, whole

_KEYS = {"obs", "task_id"}


class History:
    """The last steps of one environment, or of many that step together.

    The wrappers are built on it. Use it directly where an agent acts without an environment:

    >>> history = History(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), length=2)
    >>> obs = history.start(np.array([0.5]))  # then `model.predict(obs)`
    >>> history.step(1, np.array([0.25]), reward=2.0)["history"].tolist()
    [[0.5, 0.0, 0.0, 0.0, 1.0], [0.25, 0.0, 1.0, 2.0, 1.0]]

    :param observation_space: of one environment: a flat Box, alone or under `"obs"` in a Dict that
        has nothing else but a `"task_id"`
    :param action_space: of one environment: Discrete and MultiDiscrete actions become one-hots
        side by side, those of a Box are flattened
    :param length: K, how many rows, at least 1
    :param num_envs: n, the first axis of all arrays; None: one environment, without that axis
    :raises ValueError: if a space is of another kind, or `length` is out of range
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        length: int,
        num_envs: int | None = None,
    ) -> None:
        is_dict = isinstance(observation_space, spaces.Dict)
        parts = observation_space.spaces if is_dict else {"obs": observation_space}
        box = parts.get("obs")
        if not isinstance(box, spaces.Box) or len(box.shape) != 1 or parts.keys() - _KEYS:
            raise ValueError(
                "a history needs observations that are a flat Box, alone or as 'obs' beside "
                f"'task_id' (HER's goals can have none), got {observation_space}; wrap the "
                "environment (gymnasium.wrappers.FlattenObservation)"
            )
        self._lead = () if num_envs is None else (num_envs,)
        self._dim = box.shape[0]
        self._starts, self._one_hots = _choices_of(action_space)
        shape = whole("length", length), self._dim + flatdim(action_space) + 2
        #: (n, K, D + A + 2), oldest row first
        self.rows = np.zeros((*self._lead, *shape), np.float32)
        history = spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.observation_space = spaces.Dict({**parts, "history": history})

    def start(self, obs: Any) -> dict[str, Any]:
        """Start an episode in every environment, and return the observations with the history."""
        self.rows = self._first(obs)
        return _shown(obs, self.rows)

    def step(self, action: Any, obs: Any, reward: Any) -> dict[str, Any]:
        """Add a step of every environment, and return the observations with the history.

        :param action: the action that was taken
        :param obs: the observation that followed
        :param reward: the reward of the step
        """
        ones = np.ones((*self._lead, 1))
        rewards = np.reshape(reward, (*self._lead, 1))
        row = np.concatenate([_flat(obs), self._numbers_of(action), rewards, ones], axis=-1)
        # A new array each time, so that observations returned earlier stay as they are.
        latest = row.astype(np.float32)[..., None, :]
        earlier = self.rows[..., 1:, :]
        self.rows = np.concatenate([earlier, latest], axis=-2)
        return _shown(obs, self.rows)

    def step_and_restart(
        self, actions: Any, obs: Any, rewards: Any, finals: Mapping[int, Any]
    ) -> tuple[dict[str, Any], dict[int, Any]]:
        """Add a step of many environments, of which some have started their next episode.

        :param obs: the observations; where an episode has ended, the first of the next
        :param finals: the last observation of each episode that has ended, by environment
        :return: the observations and `finals`, with the history
        """
        last = _flat(obs).copy()
        for row, final in finals.items():
            last[row] = _flat(final)
        self.step(actions, last, rewards)
        ended = list(finals)
        shown = {row: _shown(finals[row], self.rows[row].copy()) for row in ended}
        if ended:
            self.rows[ended] = self._first(obs)[ended]
        return _shown(obs, self.rows), shown

    def _first(self, obs: Any) -> np.ndarray:
        rows = np.zeros_like(self.rows)
        rows[..., -1, : self._dim] = _flat(obs)
        rows[..., -1, -1] = 1
        return rows

    def _numbers_of(self, action: Any) -> np.ndarray:
        numbers = np.reshape(action, (*self._lead, -1))
        if self._one_hots is None:
            return numbers
        return self._one_hots[numbers + self._starts].sum(axis=-2)


def _choices_of(space: Any) -> tuple[Any, Any]:
    """Return the offset from a choice to its row in a table of one-hots, and the table.

    There is no table for a Box.
    """
    if isinstance(space, spaces.Box):
        return 0, None
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        raise ValueError(
            f"a history needs actions that are Box, Discrete or MultiDiscrete, got {space}"
        )
    sizes = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec)
    return np.cumsum(sizes) - sizes - np.ravel(space.start), np.eye(sizes.sum())


def _flat(obs: Any) -> np.ndarray:
    return np.asarray(obs["obs"] if isinstance(obs, Mapping) else obs)


def _shown(obs: Any, rows: np.ndarray) -> dict[str, Any]:
    return {**(obs if isinstance(obs, Mapping) else {"obs": obs}), "history": rows}


class AddHistory(gym.Wrapper, RecordConstructorArgs):
    """Add the last steps of the episode to each observation, as `"history"` beside `"obs"`.

    Gymnasium's vector environments accept environments with this wrapper.

    :param env: an environment with spaces that :class:`History` accepts
    :param length: K, how many steps, including the current one
    """

    def __init__(self, env: Env, length: int) -> None:
        RecordConstructorArgs.__init__(self, length=length)
        gym.Wrapper.__init__(self, env)
        self._history = History(env.observation_space, env.action_space, length)
        self.observation_space = self._history.observation_space

    def reset(self, **kwargs: Any) -> ResetResult:
        """Start an episode."""
        obs, info = self.env.reset(**kwargs)
        return self._history.start(obs), info

    def step(self, action: Any) -> EnvStep:
        """Act."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._history.step(action, obs, reward), reward, terminated, truncated, info
