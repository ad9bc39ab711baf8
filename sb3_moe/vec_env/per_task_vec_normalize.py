"""VecNormalize with statistics per task."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_moe.vec_env.task_ids import TASK_KEY, Tail, has_task_key
from sb3_moe.vec_env.tasks import names_on


class PerTaskVecNormalize(VecNormalize):
    """Normalise observations and rewards with the statistics of the task they come from.

    One statistic over all tasks shrinks the rewards of a small-scale task next to a large-scale one
    to nothing, and turns a one-hot task id into a spike at each switch. SB3 finds, saves, loads and
    synchronises this as its own VecNormalize. The id itself is never touched.

    Off-policy, use it with :class:`~sb3_moe.vec_env.MultiTaskReplayBuffer`: SB3's own buffers
    don't keep the task that a reward came from.

    :param venv: environments with ``num_tasks`` and ``get_task``, such as make_multitask_vec_env's
    :param norm_obs_keys: of a Dict observation, those to normalise, none if it is empty, as in
        VecNormalize; None: every Box key but the id
    :param task_id: how observations show the task: ``"dict"`` (in a Dict observation, under
        ``"task_id"``), ``"onehot"`` (the last ``num_tasks`` features), ``"channels"`` (the last
        ``num_tasks`` channels, wherever pictures have them) or ``"hidden"``; None: ``"dict"``
        where there is such a key, else what the environments' attribute ``task_id`` says
    :param kwargs: as of VecNormalize
    :raises ValueError: if the environments aren't multi-task, don't show the id so, or their
        observations are whole numbers and are to be normalised
    """

    obs_rms: Any
    ret_rms: Any

    def __init__(
        self,
        venv: VecEnv,
        *,
        norm_obs: bool = True,
        norm_obs_keys: list[str] | None = None,
        task_id: Literal["dict", "onehot", "channels", "hidden"] | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_tasks = _num_tasks(venv)
        self.task_id_mode = _task_id_mode(venv, task_id)
        space = venv.observation_space
        if norm_obs and self.task_id_mode == "channels" and space.dtype == np.uint8:
            raise ValueError(
                f"`norm_obs` must be False for pictures, whose policies scale them, got {space}"
            )
        if norm_obs and norm_obs_keys is None and isinstance(space, spaces.Dict):
            norm_obs_keys = box_keys(space)
        super().__init__(venv, norm_obs=norm_obs, norm_obs_keys=norm_obs_keys, **kwargs)
        refuse_whole_numbers(self)
        if norm_obs:
            self.obs_rms = self._new_statistics()
        self.ret_rms = PerTaskMeanStd(self.num_tasks)
        self._task_ids = np.zeros(self.num_envs, dtype=np.int64)

    def set_venv(self, venv: VecEnv) -> None:
        """Wrap these environments after unpickling.

        :raises ValueError: if they have another number of tasks, or the same in another order
        """
        num_tasks = _num_tasks(venv)
        if num_tasks != self.num_tasks:
            raise ValueError(f"`venv` must have num_tasks={self.num_tasks}, got {num_tasks}")
        seen, found = (names_on(each.observation_space) for each in (self, venv))
        if seen and found and seen != found and sorted(seen) == sorted(found):
            raise ValueError(f"`venv` must have the tasks in the order {seen}, got {found}")
        super().set_venv(venv)
        self._task_ids = np.zeros(self.num_envs, dtype=np.int64)

    def reset(self) -> Any:
        """Reset all environments and return their normalised first observations."""
        obs: Any = self.venv.reset()
        self.old_obs = obs
        self.returns = np.zeros(self.num_envs)
        self._task_ids = self._current_tasks(obs)
        self._count_obs(obs)
        return self.normalize_obs(obs, self._task_ids)

    def step_wait(self) -> VecEnvStepReturn:
        """Normalise what a step gives; rewards and last observations belong to the old task."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards  # type: ignore[assignment]  # SB3 checks by assert
        played, self._task_ids = self._task_ids, self._current_tasks(obs)
        self._count_obs(obs)
        if self.training:
            self.returns = self.returns * self.gamma + rewards
            self.ret_rms.update(self.returns, played)
        for i in np.flatnonzero(dones).tolist():
            if "terminal_observation" in infos[i]:
                last = infos[i]["terminal_observation"]
                infos[i]["terminal_observation"] = self.normalize_obs(last, played[i])
        self.returns[dones] = 0
        normalized: Any = self.normalize_obs(obs, self._task_ids)
        return normalized, self.normalize_reward(rewards, played), dones, infos

    def normalize_obs(self, obs: Any, task_ids: Any = None) -> Any:
        """Normalise a batch of observations, or a single one.

        :param obs: array or dict of arrays
        :param task_ids: the task of each; None: as the observations show it
        :raises ValueError: if they don't show it
        """
        if not self.norm_obs:
            return obs
        return self._each_key(self._normalized, obs, self._ids_of(obs, task_ids))

    def unnormalize_obs(self, obs: Any, task_ids: Any = None) -> Any:
        """Undo :meth:`normalize_obs`."""
        if not self.norm_obs:
            return obs
        return self._each_key(self._unnormalized, obs, self._ids_of(obs, task_ids))

    def normalize_reward(self, reward: np.ndarray, task_ids: Any = None) -> np.ndarray:
        """Normalise rewards.

        :param reward: (n,) or (n, 1)
        :param task_ids: (n,) the task of each
        :raises ValueError: if rewards are normalised and their tasks aren't given
        """
        if not self.norm_reward:
            return reward.astype(np.float32)
        scale = self._reward_scale(reward, task_ids)
        return np.clip(reward / scale, -self.clip_reward, self.clip_reward).astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray, task_ids: Any = None) -> np.ndarray:
        """Undo :meth:`normalize_reward`."""
        return reward * self._reward_scale(reward, task_ids) if self.norm_reward else reward

    def for_tasks(self, task_ids: np.ndarray) -> Any:
        """Return a normaliser of batches whose tasks are these.

        :param task_ids: (n,)
        """
        return _ForTasks(self, task_ids)

    def _reward_scale(self, reward: np.ndarray, task_ids: Any) -> np.ndarray:
        if task_ids is None:
            raise ValueError(
                "rewards are normalised by the statistics of their task, which SB3's own replay "
                "buffers don't keep: use sb3_moe.vec_env.MultiTaskReplayBuffer as "
                "replay_buffer_class, or norm_reward=False"
            )
        variance = self.ret_rms.of(np.asarray(task_ids))[1]
        scale: np.ndarray = np.sqrt(variance + self.epsilon).reshape(reward.shape)
        return scale

    def _new_statistics(self) -> Any:
        if isinstance(self.observation_space, spaces.Dict):
            assert self.norm_obs_keys is not None
            return {key: self._statistics_of(self.obs_spaces[key]) for key in self.norm_obs_keys}
        return self._statistics_of(self.observation_space)

    def _statistics_of(self, space: spaces.Space[Any]) -> PerTaskMeanStd:
        assert space.shape is not None
        shape = space.shape if self._tail is None else self._tail.shape_without(space.shape)
        return PerTaskMeanStd(self.num_tasks, shape)

    # Cached here rather than in the constructor: a statistics file of 0.1.0 has no such attribute.
    @cached_property
    def _tail(self) -> Tail | None:
        """Where a Box shows the id; None where it stands beside the observation, or is hidden."""
        if self.task_id_mode not in ("onehot", "channels"):
            return None
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        return Tail.of_space(space, self.num_tasks, planes=self.task_id_mode == "channels")

    def _count_obs(self, obs: Any) -> None:
        if not (self.training and self.norm_obs):
            return
        if isinstance(obs, dict):
            for key, statistics in self.obs_rms.items():
                statistics.update(obs[key], self._task_ids)
        else:
            x = obs if self._tail is None else self._tail.split(obs)[0]
            self.obs_rms.update(x, self._task_ids)

    def _current_tasks(self, obs: Any) -> np.ndarray:
        if self.task_id_mode == "hidden":
            return np.array(self.venv.env_method("get_task"), dtype=np.int64)
        return self._shown_ids(obs)

    def _ids_of(self, obs: Any, task_ids: Any) -> np.ndarray:
        if task_ids is not None:
            return np.asarray(task_ids)
        if self.task_id_mode == "hidden":
            raise ValueError(
                "observations that don't show their task need `task_ids` to be normalised; "
                "off-policy, use sb3_moe.vec_env.MultiTaskReplayBuffer and norm_obs=False"
            )
        return self._shown_ids(obs)

    def _shown_ids(self, obs: Any) -> np.ndarray:
        if isinstance(obs, dict):
            ids = np.asarray(obs[TASK_KEY])
            # A replay buffer keeps a Discrete id as (n, 1).
            return ids[:, 0] if ids.ndim == 2 else ids
        assert self._tail is not None
        return np.asarray(self._tail.ids(obs))

    def _each_key(self, function: Any, obs: Any, task_ids: np.ndarray) -> Any:
        if isinstance(obs, dict):
            changed = {k: function(obs[k], s, task_ids) for k, s in self.obs_rms.items()}
            return {key: changed.get(key, np.copy(value)) for key, value in obs.items()}
        if self._tail is None:
            return function(obs, self.obs_rms, task_ids)
        x, shown = self._tail.split(obs)
        changed = function(x, self.obs_rms, task_ids)
        return np.concatenate([changed, shown.astype(changed.dtype)], axis=self._tail.axis)

    def _normalized(self, obs: Any, statistics: PerTaskMeanStd, task_ids: np.ndarray) -> Any:
        mean, variance = statistics.of(task_ids)
        scaled = (obs - mean) / np.sqrt(variance + self.epsilon)
        return np.clip(scaled, -self.clip_obs, self.clip_obs).astype(np.float32)

    def _unnormalized(self, obs: Any, statistics: PerTaskMeanStd, task_ids: np.ndarray) -> Any:
        mean, variance = statistics.of(task_ids)
        return obs * np.sqrt(variance + self.epsilon) + mean


class _ForTasks:
    """A PerTaskVecNormalize that knows the tasks of the batch it is given."""

    def __init__(self, env: PerTaskVecNormalize, task_ids: np.ndarray) -> None:
        self._env, self._task_ids = env, task_ids

    def normalize_obs(self, obs: Any) -> Any:
        return self._env.normalize_obs(obs, self._task_ids)

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        return self._env.normalize_reward(reward, self._task_ids)


def _num_tasks(venv: VecEnv) -> int:
    if not venv.has_attr("num_tasks"):
        raise ValueError(
            "`venv` must hold multi-task environments, with `num_tasks`, got " + str(venv)
        )
    return int(venv.get_attr("num_tasks")[0])


def _task_id_mode(venv: VecEnv, task_id: str | None) -> str:
    space = venv.observation_space
    has_key = has_task_key(space)
    if task_id is None:
        if has_key:
            return "dict"
        shown = venv.get_attr("task_id")[0] if venv.has_attr("task_id") else "hidden"
        return shown if shown in ("onehot", "channels") else "hidden"
    if task_id not in ("dict", "onehot", "channels", "hidden"):
        raise ValueError(
            f"`task_id` must be 'dict', 'onehot', 'channels', 'hidden' or None, got {task_id!r}"
        )
    if (task_id == "dict") != has_key:
        raise ValueError(
            f"`task_id` must be 'dict' exactly if observations have the key {TASK_KEY!r}, "
            f"got {task_id!r} with {space}"
        )
    return task_id


def refuse_whole_numbers(normalizer: VecNormalize) -> None:
    """Raise if a normaliser's observations are stored as whole numbers, which cuts them off.

    :raises ValueError: naming the space
    """
    if not normalizer.norm_obs:
        return
    space = normalizer.observation_space
    named = (
        {f"{key!r} of them": space[key] for key in normalizer.norm_obs_keys or ()}
        if isinstance(space, spaces.Dict)
        else {"their space": space}
    )
    # SB3 has made pictures of 0 to 255 a space of floats already.
    for what, box in named.items():
        if not np.issubdtype(box.dtype, np.floating):
            raise ValueError(
                "`norm_obs` must be False for observations of whole numbers, as which buffers "
                f"would store them: {what} is {box}; or leave it out of `norm_obs_keys`"
            )


def box_keys(space: spaces.Dict) -> list[str]:
    """List the keys that can be normalised: numbers, and not the id."""
    return [
        key
        for key, entry in space.spaces.items()
        if key != TASK_KEY and isinstance(entry, spaces.Box)
    ]


class PerTaskMeanStd:
    """As many of SB3's running statistics as there are tasks.

    :param num_tasks: how many tasks, at least 1
    :param shape: of one observation (or () for returns)
    """

    def __init__(self, num_tasks: int, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape
        self.tasks = [RunningMeanStd(shape=shape) for _ in range(num_tasks)]
        self._stack()

    def update(self, batch: np.ndarray, task_ids: np.ndarray) -> None:
        """Count each row in its task's statistics.

        :param batch: (n, *shape)
        :param task_ids: (n,)
        """
        for task in np.unique(task_ids):
            self.tasks[task].update(batch[task_ids == task])
        self._stack()

    def of(self, task_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and variance of each id's task.

        :param task_ids: of any shape
        :return: both of shape (*task_ids.shape, *shape)
        """
        return self._means[task_ids], self._variances[task_ids]

    def total(self) -> RunningMeanStd:
        """Return the statistics of all tasks together."""
        total = RunningMeanStd(epsilon=0.0, shape=self.shape)
        for task in self.tasks:
            total.combine(task)
        return total

    def _stack(self) -> None:
        self._means = np.stack([task.mean for task in self.tasks])
        self._variances = np.stack([task.var for task in self.tasks])
