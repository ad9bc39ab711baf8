"""VecNormalize with statistics per task."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_moe.vec_env.task_ids import PAST_KEYS, TASK_KEY, TaskIds, has_task_key
from sb3_moe.vec_env.tasks import names_on

NEED_TASKS = (
    "observations that don't show their task need `task_ids` to be normalized, which off-policy "
    "algorithms don't give: use norm_obs=False or another `task_id`"
)
NEED_BUFFER = (
    "rewards are normalized by the statistics of their task, which SB3's own replay buffers don't "
    "keep: use sb3_moe.vec_env.MultiTaskReplayBuffer as replay_buffer_class, or norm_reward=False"
)


class PerTaskMeanStd:
    """SB3's running mean and variance, separately for each task.

    :param num_tasks: how many tasks, at least 1
    :param shape: of one observation (or () for returns)
    """

    def __init__(self, num_tasks: int, shape: tuple[int, ...] = ()) -> None:
        self.mean = np.zeros((num_tasks, *shape))
        self.var = np.ones((num_tasks, *shape))
        self.count = np.full(num_tasks, RunningMeanStd().count)

    def update(self, batch: np.ndarray, task_ids: np.ndarray) -> None:
        """Add each row to its task's statistics.

        :param batch: (n, *shape)
        :param task_ids: (n,)
        """
        for task in np.unique(task_ids):
            one = self.of(task)
            one.update(batch[task_ids == task])
            self.mean[task] = one.mean
            self.var[task] = one.var
            self.count[task] = one.count

    def of(self, task_ids: Any) -> RunningMeanStd:
        """Return the statistics of each id's task.

        :param task_ids: of any shape
        :return: with a mean and a variance of shape (*task_ids.shape, *shape)
        """
        found = RunningMeanStd()
        found.mean = self.mean[task_ids]
        found.var = self.var[task_ids]
        found.count = self.count[task_ids]
        return found


class PerTaskVecNormalize(VecNormalize):
    """Normalize observations and rewards with the statistics of the task they come from.

    Statistics over all tasks shrink the rewards of a small-scale task next to a large-scale one to
    nothing, and turn a one-hot task id into a spike at each switch. SB3 finds, saves, loads and
    synchronizes this wrapper as its own VecNormalize. The task id itself is not normalized.

    Off-policy, use it with :class:`~sb3_moe.vec_env.MultiTaskReplayBuffer`: SB3's own buffers
    don't keep the task that a reward came from.

    :param venv: environments with ``num_tasks`` and ``get_task``, such as make_multitask_vec_env's.
        The task is read from a Dict's ``"task_id"``, or from the last ``num_tasks`` features or
        channels if the environments' attribute ``task_id`` is ``"onehot"`` or ``"channels"`` (first
        or last in the image); otherwise observations don't show it
    :param norm_obs_keys: the keys of a Dict observation to normalize, none if empty, as in
        VecNormalize; None: every Box key but the id and images
    :param kwargs: as in VecNormalize
    :raises ValueError: if the environments aren't multi-task, don't show the id in this way, or
        have observations of whole numbers that are to be normalized; at an off-policy algorithm's
        first gradient step, if its replay buffer doesn't keep the tasks that are needed
    """

    obs_rms: Any
    ret_rms: Any

    def __init__(
        self,
        venv: VecEnv,
        *,
        norm_obs: bool = True,
        norm_obs_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        shown = {*getattr(venv.observation_space, "spaces", ())} & PAST_KEYS
        if shown:
            raise ValueError(
                f"PerTaskVecNormalize must know which task is played, and {shown} are for tasks "
                "that nobody names: use VecNormalize"
            )
        self.num_tasks = _num_tasks(venv)
        self.task_id_mode = _task_id_mode(venv)
        space = venv.observation_space
        if norm_obs and isinstance(space, spaces.Dict) and norm_obs_keys is None:
            norm_obs_keys = box_keys(space)
        boxes = _normalized_parts(space, norm_obs_keys) if norm_obs else {}
        is_hidden = self.task_id_mode == "hidden"
        what = "normalizing by task"
        self._shown = None if is_hidden else TaskIds(space, self.num_tasks, what)
        # Splits a Box into observation and id; None if the id is a Dict's key, or is hidden.
        self._tail = None if self._shown is None else self._shown.tail
        super().__init__(venv, norm_obs=norm_obs, norm_obs_keys=norm_obs_keys, **kwargs)
        if norm_obs and isinstance(space, spaces.Dict):
            self.obs_rms = {
                key: PerTaskMeanStd(self.num_tasks, box.shape) for key, box in boxes.items()
            }
        elif norm_obs:
            lowest = boxes["observations"].low
            own = lowest if self._tail is None else self._tail.split(lowest)[0]
            self.obs_rms = PerTaskMeanStd(self.num_tasks, own.shape)
        self.ret_rms = PerTaskMeanStd(self.num_tasks)
        self._task_ids = np.zeros(self.num_envs, np.int64)

    def set_venv(self, venv: VecEnv) -> None:
        """Wrap these environments after unpickling.

        :raises ValueError: if they have another number of tasks, or the same tasks in another order
        """
        num_tasks = _num_tasks(venv)
        if num_tasks != self.num_tasks:
            raise ValueError(f"`venv` must have num_tasks={self.num_tasks}, got {num_tasks}")
        seen, found = (names_on(each.observation_space) for each in (self, venv))
        if seen and found and seen != found and sorted(seen) == sorted(found):
            raise ValueError(f"`venv` must have the tasks in the order {seen}, got {found}")
        super().set_venv(venv)
        self._task_ids = np.zeros(self.num_envs, np.int64)

    def reset(self) -> Any:
        """Reset all environments and return their normalized first observations."""
        obs: Any = self.venv.reset()
        self.old_obs = obs
        self.returns = np.zeros(self.num_envs)
        self._task_ids = self._current_tasks(obs)
        self._count_obs(obs)
        return self.normalize_obs(obs, self._task_ids)

    def step_wait(self) -> VecEnvStepReturn:
        """Normalize the results of a step; rewards and last observations are of the old task."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards  # type: ignore[assignment]  # SB3 asserts it
        played = self._task_ids
        self._task_ids = self._current_tasks(obs)
        self._count_obs(obs)
        if self.training:
            self.returns = self.returns * self.gamma + rewards
            self.ret_rms.update(self.returns, played)
        for i in np.flatnonzero(dones).tolist():
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = self.normalize_obs(last, played[i])
        self.returns[dones] = 0
        normalized: Any = self.normalize_obs(obs, self._task_ids)
        return normalized, self.normalize_reward(rewards, played), dones, infos

    def normalize_obs(self, obs: Any, task_ids: Any = None) -> Any:
        """Normalize a batch of observations, or a single one.

        :param obs: array or dict of arrays
        :param task_ids: the task of each; None: read it from the observations
        :raises ValueError: if ``task_ids`` is None and the observations don't show the task
        """
        return self._each_key(self._in_float32, obs, task_ids)

    def unnormalize_obs(self, obs: Any, task_ids: Any = None) -> Any:
        """Undo :meth:`normalize_obs`."""
        return self._each_key(self._unnormalize_obs, obs, task_ids)

    def normalize_reward(self, reward: np.ndarray, task_ids: Any = None) -> np.ndarray:
        """Normalize rewards.

        :param reward: (n,) or (n, 1)
        :param task_ids: (n,) the task of each
        :raises ValueError: if rewards are normalized and their tasks aren't given
        """
        if not self.norm_reward:
            return reward.astype(np.float32)
        scaled = reward / self._reward_scale(reward, task_ids)
        return np.clip(scaled, -self.clip_reward, self.clip_reward).astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray, task_ids: Any = None) -> np.ndarray:
        """Undo :meth:`normalize_reward`."""
        return reward * self._reward_scale(reward, task_ids) if self.norm_reward else reward

    def _reward_scale(self, reward: np.ndarray, task_ids: Any) -> np.ndarray:
        if task_ids is None:
            raise ValueError(NEED_BUFFER)
        variance = self.ret_rms.var[np.asarray(task_ids)]
        return np.sqrt(variance + self.epsilon).reshape(reward.shape)

    def _count_obs(self, obs: Any) -> None:
        if self.training and self.norm_obs:
            for part, statistics in self._parts(obs):
                statistics.update(part, self._task_ids)

    def _parts(self, obs: Any) -> Iterator[tuple[Any, PerTaskMeanStd]]:
        """Yield each part of the observations that is normalized, with its statistics."""
        if isinstance(obs, dict):
            yield from ((obs[key], statistics) for key, statistics in self.obs_rms.items())
        else:
            yield obs if self._tail is None else self._tail.split(obs)[0], self.obs_rms

    def _current_tasks(self, obs: Any) -> np.ndarray:
        if self._shown is None:
            return np.array(self.venv.env_method("get_task"), np.int64)
        return np.asarray(self._shown(obs))

    def _each_key(self, function: Any, obs: Any, task_ids: Any) -> Any:
        if not self.norm_obs:
            return obs
        if task_ids is None:
            if self._shown is None:
                raise ValueError(NEED_TASKS)
            task_ids = self._shown(obs)
        task_ids = np.asarray(task_ids)
        # A replay buffer keeps a Discrete id as (n, 1).
        task_ids = task_ids[:, 0] if task_ids.ndim == 2 else task_ids
        changed = [function(part, rms.of(task_ids)) for part, rms in self._parts(obs)]
        if isinstance(obs, dict):
            return deepcopy(obs) | dict(zip(self.obs_rms, changed, strict=True))
        if self._tail is None:
            return changed[0]
        shown = self._tail.split(obs)[1].astype(changed[0].dtype)
        return np.concatenate([*changed, shown], axis=self._tail.axis)

    def _in_float32(self, obs: Any, statistics: RunningMeanStd) -> Any:
        return self._normalize_obs(obs, statistics).astype(np.float32)


def _normalized_parts(space: spaces.Space, keys: list[str] | None) -> dict[str, Any]:
    """Return the spaces of the parts of observations that are to be normalized, by key.

    :param keys: those of a Dict's parts; None if observations are no Dict, but one part
    :raises KeyError: if there is no such key
    :raises ValueError: if a part holds whole numbers
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observations": space}
    chosen = [*parts] if keys is None else keys
    for key in chosen:
        if not np.issubdtype(parts[key].dtype, np.floating):
            raise ValueError(
                "`norm_obs` must be False for images and other whole numbers, since buffers would "
                f"round them, got {key!r}: {parts[key]}; or leave it out of `norm_obs_keys`"
            )
    return {key: parts[key] for key in chosen}


def box_keys(space: spaces.Dict) -> list[str]:
    """List the keys to normalize by default: every Box but images and the past."""
    return [
        key
        for key, entry in space.spaces.items()
        if isinstance(entry, spaces.Box)
        and not (entry.dtype == np.uint8 and len(entry.shape) == 3)
        and key not in (TASK_KEY, *PAST_KEYS)
    ]


def _num_tasks(venv: VecEnv) -> int:
    if not venv.has_attr("num_tasks"):
        raise ValueError(f"`venv` must hold multi-task environments, with `num_tasks`, got {venv}")
    return int(venv.get_attr("num_tasks")[0])


def _task_id_mode(venv: VecEnv) -> str:
    if has_task_key(venv.observation_space):
        return "dict"
    shown = venv.get_attr("task_id")[0] if venv.has_attr("task_id") else "hidden"
    return shown if shown in ("onehot", "channels") else "hidden"
