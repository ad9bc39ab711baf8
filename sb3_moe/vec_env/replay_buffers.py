"""Replay buffers: on the training device, balanced over tasks, and with returns of one scale."""

import warnings
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor

from sb3_moe.vec_env.observations import allocate, map_observation, torch_dtype, write, write_row
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

# The tensors of a buffer: each has (buffer_size, n_envs) in front.
_TENSORS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class DeviceReplayBuffer(ReplayBuffer):
    """SB3's replay buffer as tensors on the device, for DQN, SAC, TD3 and their relatives.

    SB3's own gathers each batch in numpy and copies it from the host. Here each step is copied once
    and batches are gathered on the device: the same content, in the same order for the same seed.
    With VecNormalize a batch goes through numpy, where the statistics are. Takes Dict observations
    too. A pickled buffer can be loaded on a machine with another device.

    :param buffer_size: transitions to keep, over all environments
    :param optimize_memory_usage: must be False: each observation is stored twice
    :param handle_timeout_termination: samples have no ``done`` where a time limit ended an episode
    :raises ValueError: if ``optimize_memory_usage`` is True
    """

    observations: Any  # (buffer_size, n_envs, ...) tensor, or a dict of them
    next_observations: Any
    actions: Any
    rewards: Any
    dones: Any
    timeouts: Any

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if optimize_memory_usage:
            raise ValueError("`optimize_memory_usage` must be False here, got True")
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        leading = (self.buffer_size, self.n_envs)
        self.observations = allocate(observation_space, leading, self.device)
        self.next_observations = allocate(observation_space, leading, self.device)
        dtype = torch_dtype(self._maybe_cast_dtype(action_space.dtype))
        self.actions = th.zeros((*leading, self.action_dim), dtype=dtype, device=self.device)
        zeros = th.zeros((3, *leading), device=self.device)
        self.rewards, self.dones, self.timeouts = zeros

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Keep one transition of every environment.

        :param obs: (n_envs, ...) array, or a dict of them
        :param next_obs: as ``obs``; at the end of an episode its last observation
        :param action: (n_envs, ...)
        :param reward: (n_envs,)
        :param done: (n_envs,)
        :param infos: one for each environment
        """
        self._follow_device()
        write_row(self.observations, self.pos, obs)
        write_row(self.next_observations, self.pos, next_obs)
        write(self.actions[self.pos], action)
        write(self.rewards[self.pos], reward)
        write(self.dones[self.pos], done)
        if self.handle_timeout_termination:
            cut = [info.get("TimeLimit.truncated", False) for info in infos]
            write(self.timeouts[self.pos], np.array(cut, np.float32))
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        # The same two draws as SB3's, in the same order.
        env_indices = np.random.randint(0, high=self.n_envs, size=len(batch_inds))
        return self._gather(batch_inds * self.n_envs + env_indices, env)

    def _gather(self, flat_indices: np.ndarray, env: VecNormalize | None) -> Any:
        """Return the transitions at ``row * n_envs + environment``."""
        self._follow_device()
        indices = th.from_numpy(flat_indices).to(self.device)
        next_observations = _take(self.next_observations, indices)
        observations = _take(self.observations, indices)
        rewards = _take(self.rewards, indices).unsqueeze(1)
        dones = _take(self.dones, indices) * (1 - _take(self.timeouts, indices))
        if env is not None:
            tasks = self._tasks_for(env, flat_indices)
            observations = self._to_device(env.normalize_obs(_to_numpy(observations), *tasks))
            next_observations = self._to_device(
                env.normalize_obs(_to_numpy(next_observations), *tasks)
            )
            rewards = self._to_device(env.normalize_reward(_to_numpy(rewards), *tasks))
        is_dict = isinstance(self.observation_space, spaces.Dict)
        samples = DictReplayBufferSamples if is_dict else ReplayBufferSamples
        actions = _take(self.actions, indices)
        return samples(observations, actions, next_observations, dones.unsqueeze(1), rewards)

    def _tasks_for(self, env: VecNormalize, flat_indices: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return what a normalizer needs besides the transitions: their tasks, or nothing."""
        return ()

    def _to_device(self, arrays: Any) -> Any:
        return map_observation(lambda array: th.as_tensor(array, device=self.device), arrays)

    def _follow_device(self) -> None:
        # SB3 sets `device` to the model's, after unpickling too; the tensors are moved here.
        now = self.rewards.device
        wanted = self.device
        if now.type != wanted.type or wanted.index not in (None, now.index):
            for name, value in self._tensors().items():
                setattr(self, name, map_observation(lambda tensor: tensor.to(wanted), value))

    def _tensors(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in _TENSORS}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {name: _to_numpy(value) for name, value in self._tensors().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name, value in self._tensors().items():
            setattr(self, name, map_observation(th.from_numpy, value))


def _take(tensors: Any, indices: Tensor) -> Any:
    return map_observation(lambda tensor: tensor.flatten(0, 1).index_select(0, indices), tensors)


def _to_numpy(tensors: Any) -> Any:
    return map_observation(lambda tensor: tensor.cpu().numpy(), tensors)


class MultiTaskReplayBuffer(DeviceReplayBuffer):
    """A replay buffer that stores each transition's task and draws all stored tasks equally often.

    The task comes from ``info["task_id"]``. With PerTaskVecNormalize, the rewards and observations
    of a batch are normalized by the statistics that their tasks have when the batch is drawn: the
    stored values are raw, so they never go stale.

    :param args: as in :class:`~sb3_moe.vec_env.DeviceReplayBuffer`
    :param balance: draw tasks equally often; False: transitions equally often, as SB3 does
    :param kwargs: as in :class:`~sb3_moe.vec_env.DeviceReplayBuffer`
    """

    def __init__(self, *args: Any, balance: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.balance = balance
        self.task_ids = np.full(self.buffer_size * self.n_envs, -1, np.int64)
        self._places = _PlacesByTask()

    def add(self, *transition: Any) -> None:
        """Keep one transition of every environment, and its task.

        :raises ValueError: if an info has no ``task_id``
        """
        first = self.pos * self.n_envs
        for index, info in enumerate(transition[-1], start=first):
            if "task_id" not in info:
                raise ValueError(f"MultiTaskReplayBuffer needs info['task_id'], got {sorted(info)}")
            self._places.move(index, int(self.task_ids[index]), int(info["task_id"]))
            self.task_ids[index] = info["task_id"]
        super().add(*transition)

    def reset(self) -> None:
        """Forget every transition and its task."""
        super().reset()
        self.task_ids.fill(-1)
        self._places = _PlacesByTask()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """Draw a batch.

        :param batch_size: number of transitions
        :param env: the VecNormalize that SB3 found, or None
        """
        if not self.balance:
            return super().sample(batch_size, env)
        return self._gather(self._places.draw(batch_size), env)

    def _tasks_for(self, env: VecNormalize, flat_indices: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.task_ids[flat_indices],) if isinstance(env, PerTaskVecNormalize) else ()


class _PlacesByTask:
    """The places of each task's transitions in the buffer, so that drawing one takes no search.

    The buffer overwrites its oldest transitions first. Within a task, these are at the front of the
    task's list.
    """

    def __init__(self) -> None:
        self._lists = defaultdict[int, list[int]](list)
        self._overwritten = Counter[int]()  # number at the front of each list

    def move(self, place: int, old_task: int, new_task: int) -> None:
        """Take a place from one task (-1: from none) and give it to another."""
        if old_task >= 0:
            self._overwritten[old_task] += 1
            if 2 * self._overwritten[old_task] > len(self._lists[old_task]):
                del self._lists[old_task][: self._overwritten[old_task]]
                self._overwritten[old_task] = 0
        self._lists[new_task].append(place)

    def draw(self, size: int) -> np.ndarray:
        """Draw ``size`` places: for each, first a task and then one of its places, uniformly."""
        stored = [task for task, places in self._lists.items() if places]
        chosen = np.random.randint(len(stored), size=size)
        drawn = np.empty(size, np.int64)
        for i, task in enumerate(stored):
            rows = np.flatnonzero(chosen == i)
            places = self._lists[task]
            ranks = np.random.randint(self._overwritten[task], len(places), size=len(rows))
            drawn[rows] = [places[rank] for rank in ranks]
        return drawn


class ReturnScaledReplayBuffer(MultiTaskReplayBuffer):
    """Bring the returns of all tasks to one scale (BRC, arXiv 2505.23150).

    Rewards are divided, when they are drawn, by max abs(G) / ``scale``, over the discounted returns
    G of all finished episodes of their task. If a time limit cut an episode, G counts it as going
    on forever with its mean reward. Until a task's first episode ends, its rewards stay as they
    are. BRC also adds a term for the entropy bonus, which is left out here.

    :param args: as in :class:`~sb3_moe.vec_env.MultiTaskReplayBuffer`
    :param gamma: discount factor of the returns; give the algorithm's
    :param scale: the largest absolute return after scaling (v_max)
    :param kwargs: as in MultiTaskReplayBuffer
    :raises ValueError: if ``gamma`` is out of range
    """

    def __init__(self, *args: Any, gamma: float = 0.99, scale: float = 10.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0.0 < gamma < 1.0:
            raise ValueError(f"`gamma` must be in (0, 1), got {gamma}")
        self.gamma = gamma
        self.scale = scale
        #: Largest abs(G) by task.
        self.largest: dict[int, float] = {}
        self.forget_running()

    def forget_running(self) -> None:
        """Forget the rewards of running episodes."""
        self._return_n, self._sum_n, self._steps_n = np.zeros((3, self.n_envs))

    def add(self, *transition: Any) -> None:
        """Keep one transition of every environment; episodes that end update :attr:`largest`."""
        super().add(*transition)
        *_, reward, done, infos = transition
        self._return_n += self.gamma**self._steps_n * reward
        self._sum_n += reward
        self._steps_n += 1
        for i in np.flatnonzero(done):
            length = infos[i].get("episode", {}).get("l", np.inf)
            if length < self._steps_n[i]:
                continue  # `learn` began anew in the middle of the episode before
            total = self._return_n[i]
            if infos[i].get("TimeLimit.truncated", False):
                mean = self._sum_n[i] / self._steps_n[i]
                total += self.gamma ** self._steps_n[i] * mean / (1.0 - self.gamma)
            task = int(infos[i]["task_id"])
            self.largest[task] = max(self.largest.get(task, 0.0), abs(float(total)))
        for each in (self._return_n, self._sum_n, self._steps_n):
            each[np.asarray(done, bool)] = 0.0

    def _gather(self, flat_indices: np.ndarray, env: Any) -> Any:
        samples = super()._gather(flat_indices, env)
        tasks = self.task_ids[flat_indices].tolist()
        factors = [self.scale / (self.largest.get(task) or self.scale) for task in tasks]
        # Rewards as they were, since the largest returns are of these: not normalized.
        rewards = _take(self.rewards, th.from_numpy(flat_indices).to(self.device))
        return samples._replace(rewards=(rewards * rewards.new_tensor(factors)).unsqueeze(1))


def end_running_episodes(buffer: Any) -> None:
    """Mark the running episodes as ended, so that nothing of the next ones counts for them.

    Otherwise the goals of a HerReplayBuffer, the rewards of n-step returns, and next observations
    that aren't stored would be taken from the next episodes.

    :param buffer: a replay buffer of any kind; one of the user's own that has none of SB3's arrays
        stays as it is
    """
    if getattr(buffer, "timeouts", None) is None:
        return
    if isinstance(buffer, ReturnScaledReplayBuffer):
        buffer.forget_running()
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SB3 warns of the truncation, which is intended here
            buffer.truncate_last_trajectory()
        return
    last = buffer.pos - 1
    if buffer.handle_timeout_termination:
        buffer.timeouts[last][buffer.dones[last] == 0] = 1
    else:
        buffer.dones[last] = 1  # such a buffer stores a time limit as any other end
