"""Many tasks side by side: one vector environment per task, joined into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from sb3_moe_envs.closing import closed_on_error
from sb3_moe_envs.frames import Canvas
from sb3_moe_envs.goals import COMPUTE_REWARD, has_goals, reward_of_copies, rewards_of
from sb3_moe_envs.masks import OwnMasks
from sb3_moe_envs.meanings import meanings_of, named
from sb3_moe_envs.multitask import as_schedule
from sb3_moe_envs.numbers import optional_whole
from sb3_moe_envs.schedules import Episode, Interleave
from sb3_moe_envs.schedules.base import as_list, task_index
from sb3_moe_envs.schedules.turns import turn_of
from sb3_moe_envs.seeds import TaskSeeds, require_reset
from sb3_moe_envs.spaces import Interface
from sb3_moe_envs.spaces.interface import check_options
from sb3_moe_envs.spaces.observations import ARRAYS
from sb3_moe_envs.success import UNSAID, succeeded_rows
from sb3_moe_envs.suites import ScheduleLike, tasks_of
from sb3_moe_envs.tasks import built
from sb3_moe_envs.vector.infos import join_infos, row_of, take_rows, without_final
from sb3_moe_envs.vector.joined import Joined
from sb3_moe_envs.vector.parts import Part
from sb3_moe_envs.vector.pool import Pool
from sb3_moe_envs.vector.shares import fixed_tasks

VECTORIZATIONS = ("sync", "async")


class MultiTaskVectorEnv(VectorEnv[Any, Any, np.ndarray]):
    """Copies of several tasks that step together.

    Under `Interleave` each task has a fixed share of the slots. Under the other schedules all slots
    play the same task and switch together: the running episodes are truncated, with their last
    observations in `infos["final_obs"]`. Autoreset is SAME_STEP. A slot whose task was chosen by
    hand (`set_task`, `reset(options={"task_id": k})`) isn't counted by the schedule, from its next
    episode on.

    :param tasks: a suite's name, or Gymnasium ids, (id, kwargs) pairs and callables
    :param num_envs: number of slots; None: one per task
    :param schedule: which task when (it is copied); None: the suite's, or `Interleave()`
    :param task_id: as of `MultiTaskEnv`, like the next three
    :param vectorization: how tasks without a vector environment of their own are stepped:
        `"sync"`, in this process, or `"async"`, in as many processes as there are cores, this one
        among them
    :param render_mode: as of `MultiTaskEnv`
    :raises TypeError: if `tasks` or `schedule` is of the wrong type
    :raises ValueError: if an argument is unknown, the tasks' spaces don't fit, there are fewer
        slots than tasks under `Interleave`, or turns of the schedule would be skipped
    """

    def __init__(
        self,
        tasks: Any,
        num_envs: int | None = None,
        *,
        schedule: ScheduleLike = None,
        task_id: str = "dict",
        obs_space: str = "pad",
        action_space: str = "pad",
        invalid_action: str = "noop",
        vectorization: str = "sync",
        render_mode: str | None = None,
    ) -> None:
        # Before anything is built, which would have to be closed.
        check_options(task_id, obs_space, action_space, invalid_action)
        num_slots = optional_whole("num_envs", num_envs)
        if vectorization not in VECTORIZATIONS:
            raise ValueError(
                f"`vectorization` must be one of {list(VECTORIZATIONS)}, got {vectorization!r}"
            )
        self.schedule = as_schedule(schedule, tasks)
        self.tasks = tasks_of(tasks)
        self.task_names = [task.name for task in self.tasks]
        self.num_tasks = len(self.tasks)
        self.num_envs = num_slots or self.num_tasks
        self.task_id, self.render_mode = task_id, render_mode
        self.metadata: dict[str, Any] = {
            "render_modes": ["rgb_array"],
            "autoreset_mode": AutoresetMode.SAME_STEP,
            "task_names": tuple(self.task_names),
        }
        self.schedule.start(self.task_names)
        self.schedule.check_num_envs(self.num_envs)
        self._shares = fixed_tasks(self.schedule, self.num_tasks, self.num_envs)
        self._pool = Pool(self.tasks, vectorization, render_mode)
        self._canvas = Canvas()
        with closed_on_error(self._pool.abandon):
            self._unify(
                task_id=task_id,
                obs_space=obs_space,
                action_space=action_space,
                invalid_action=invalid_action,
            )
        self._start_slots()

    def _unify(self, *, invalid_action: str, **options: str) -> None:
        """Build each task's environments, and the spaces and masks that they share.

        :param invalid_action: as of the constructor, like the options
        """
        envs = [self._pool.env(task, size) for task, size in enumerate(self._sizes)]
        observations = [env.single_observation_space for env in envs]
        actions = [env.single_action_space for env in envs]
        self._interface = Interface(
            observations, actions, self.task_names, invalid_action=invalid_action, **options
        )
        self.metadata["render_fps"] = envs[0].metadata.get("render_fps", 30)
        if self.render_mode is not None:
            self._measure()
        self.single_observation_space = self._interface.observation_space
        self.single_action_space = self._interface.action_space
        self._own_masks = OwnMasks(self.single_action_space, actions, invalid_action)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _start_slots(self) -> None:
        """Set what each slot plays and has seen, before the first reset."""
        self._seeds = TaskSeeds()
        self._pinned = np.full(self.num_envs, -1)
        self._chosen = self._pinned.copy()
        self._by_hand = self._picked()
        self._tasks = self._wanted()
        self._parts: list[Part] = []
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._successes = np.full(self.num_envs, UNSAID)
        self._restored = False
        # Whether a task was chosen by hand since the slots were last looked at.
        self._stale = False

    def __repr__(self) -> str:
        parts = [
            f"{name} x {size} [{type(self._pool.env(task, size).unwrapped).__name__}]"
            for task, (name, size) in enumerate(zip(self.task_names, self._sizes, strict=True))
        ]
        between = " then " if self._shares is None else ", "
        return (
            f"MultiTaskVectorEnv({self.num_envs} slots, {self.schedule!r}: {between.join(parts)})"
        )

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every slot.

        :param seed: starts the schedule and every task's stream again; the numbers of a sequence
            are one seed together
        :param options: `{"task_id": k}` chooses the task, for all slots or (a sequence) for each,
            until the next reset or :meth:`set_task`; other entries go to the tasks
        :raises ValueError: if tasks aren't as many as slots, a seed lacks a number, or a
            `reset_mask` is given
        """
        restored, self._restored = self._restored, False
        # Loading a model seeds its environments once more; a restored state outlives that.
        if not self._seeds.started or (seed is not None and not restored):
            self._rewind(seed)
        options = dict(options or {})
        if "reset_mask" in options:  # Gymnasium's, of vector environments that can
            raise ValueError("`options` can't hold 'reset_mask': all slots are reset together")
        self._chosen = self._chosen_by(options.pop("task_id", None))
        return self._play(options or None)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every slot with its action, of shape (num_envs, ...).

        :raises ValueError: if there are not as many actions as slots
        :raises gymnasium.error.ResetNeeded: before the first reset
        """
        require_reset(self._seeds.started)
        self._restored = False
        results = self._step_parts(actions)
        obs = self._joined.observations([result[0] for result in results])
        rewards, terminated, truncated = (
            self._joined.arrays([result[i] for result in results], kind)
            for i, kind in ((1, np.float64), (2, np.bool_), (3, np.bool_))
        )
        infos = self._joined.infos([result[4] for result in results])
        done = terminated | truncated
        if done.any():
            infos |= self._joined.endings([result[4] for result in results], done)
        if self._follow(rewards, done, infos):
            truncated, obs, infos = self._switch(obs, truncated, done, infos)
        return obs, rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one picture per slot, of the largest task's size; None where a task has none."""
        if self.render_mode is None:
            return None
        frames = np.full(self.num_envs, None, dtype=object)
        for part in self._parts:
            pictures = part.env.render()
            if pictures is not None:  # a task's own vector environment may draw nothing
                rows = np.arange(self.num_envs)[part.rows]
                for row, frame in zip(rows, pictures, strict=True):
                    frames[row] = self._canvas.fit(frame)
        return tuple(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every task's environments."""
        self._pool.close()

    def set_task(self, task: int | str | None, indices: Sequence[int] | None = None) -> None:
        """Play this task from the next step's end on, or the next reset; None: as scheduled.

        If a slot changes its task, all running episodes are truncated.

        :param indices: the slots meant; None: all
        :raises TypeError: if they aren't a list
        :raises ValueError: if there is no such task
        """
        slots = slice(None) if indices is None else as_list("indices", indices, "slots")
        self._pinned[slots] = -1 if task is None else self._index(task, "task")
        self._chosen[slots] = -1  # what a reset's options chose before
        self._stale = True

    def get_task(self) -> np.ndarray:
        """Return the index of the task that each slot is playing, (num_envs,)."""
        return self._tasks.copy()

    @property
    def is_interleaved(self) -> bool:
        """Whether the schedule mixes the tasks, even if one is played at a time."""
        return isinstance(self.schedule, Interleave)

    def action_meanings(self) -> dict[int, list[str]]:
        """Return what tasks call their choices, as of `MultiTaskEnv`."""
        return named(
            meanings_of(self._pool.env(task, size)) for task, size in enumerate(self._sizes)
        )

    def action_masks(self) -> np.ndarray:
        """Return which actions each slot's task has and, by its own masks, allows, for MaskablePPO.

        :return: (num_envs, num_actions)
        :raises TypeError: if the action space has no choices to mask
        """
        masks = self._interface.masks(self._tasks)
        for part in self._parts if self._seeds.started else ():
            own = self._pool.own_masks(part, self._own_masks.lengths[part.task])
            if own is not None:
                masks[part.rows] &= self._own_masks.spread(part.task, own)
        return masks

    def __getattr__(self, name: str) -> Any:
        """Give `compute_reward` to worlds of goals alone."""
        if name == COMPUTE_REWARD and has_goals(self.single_observation_space):
            return self._compute_reward
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return what reaching a goal is worth, for HER; as of `MultiTaskEnv`."""
        return rewards_of(
            self._interface.task_spaces,
            self.single_observation_space,
            lambda task: reward_of_copies(
                self._pool.env(task, self._sizes[task]), self.task_names[task]
            ),
            (achieved_goal, desired_goal),
            info,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        parts = self._pool.state_dict()
        return {
            "schedule": self.schedule.state_dict(),
            "seeds": self._seeds.state_dict(),
            "slots": {name: getattr(self, name).copy() for name in _SLOTS},
            "parts": parts,
            "exact": all(state is not None for state in parts.values()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a seed in the first reset after it, before any step, is ignored.

        Tasks that can't be restored start new episodes.

        :raises ValueError: if the state is of another number of slots or tasks
        """
        num_tasks = len({task for task, _ in state["parts"]})
        if num_tasks != self.num_tasks:
            raise ValueError(f"`state` must be of {self.num_tasks} tasks, got one of {num_tasks}")
        if len(state["slots"]["_tasks"]) != self.num_envs:
            raise ValueError(
                f"`state` must be of num_envs={self.num_envs} slots, got one of "
                f"{len(state['slots']['_tasks'])}"
            )
        self.schedule.load_state_dict(state["schedule"])
        self._seeds.load_state_dict(state["seeds"])
        # States of version 0.1.0 don't say whether the running episodes have succeeded.
        slots = {"_successes": np.full(self.num_envs, UNSAID)} | state["slots"]
        for name, value in slots.items():
            setattr(self, name, value.copy())
        if "_by_hand" not in slots:  # nor whether they were chosen by hand
            self._by_hand = self._picked()
        self._stale = True
        self._arrange()
        self._pool.load_state_dict(state["parts"])
        for key, saved in state["parts"].items():
            if saved is None:
                self._seeds.renew(*key)
        for part in self._parts:
            key = part.task, part.env.num_envs
            if state["parts"].get(key) is None:
                self._pool.reset(part, self._seeds.take(*key))
                self._forget(part.rows)
        self._restored = True

    def _measure(self) -> None:
        for task, size in enumerate(self._sizes):
            env = self._pool.env(task, size)
            built(self.tasks[task], task, functools.partial(self._canvas.measure, env))

    @property
    def _sizes(self) -> list[int]:
        """How many slots each task has when it is played."""
        if self._shares is None:
            return [self.num_envs] * self.num_tasks
        return [int(count) for count in np.bincount(self._shares)]

    def _rewind(self, seed: int | Sequence[int] | None) -> None:
        if isinstance(seed, Sequence) and None in seed:
            raise ValueError(f"`seed` must be a whole number, or a sequence of them, got {seed}")
        super().reset(seed=seed if isinstance(seed, int) else None)
        self._seeds.rewind(seed)
        self.schedule.start(self.task_names, seed=self._seeds.schedule)
        self.action_space.seed(self._seeds.actions)

    def _chosen_by(self, task: Any) -> np.ndarray:
        if task is None:
            return np.full(self.num_envs, -1)
        tasks = [task] * self.num_envs if isinstance(task, str) or np.ndim(task) == 0 else task
        if len(tasks) != self.num_envs:
            raise ValueError(
                f"`task_id` must be one task or one per slot, {self.num_envs}, got {len(tasks)}"
            )
        return np.array([self._index(one) for one in tasks])

    def _wanted(self) -> np.ndarray:
        """Return the task that each slot should play now."""
        tasks = np.full(self.num_envs, self.schedule.task) if self._shares is None else self._shares
        tasks = np.where(self._pinned >= 0, self._pinned, tasks)
        return np.where(self._chosen >= 0, self._chosen, tasks)

    def _picked(self) -> np.ndarray:
        """Return which slots' next episodes are chosen by hand."""
        picked: np.ndarray = (self._pinned >= 0) | (self._chosen >= 0)
        return picked

    def _play(self, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode of the wanted task in every slot."""
        self._tasks = self._wanted()
        self._arrange()
        self._forget(slice(None))
        seeds = [self._seeds.take(part.task, part.env.num_envs) for part in self._parts]
        results = [
            self._pool.reset(part, seed, options)
            for part, seed in zip(self._parts, seeds, strict=True)
        ]
        obs = self._joined.observations([result[0] for result in results])
        return obs, self._joined.infos([result[1] for result in results])

    def _arrange(self) -> None:
        self._parts = self._pool.arrange(self._tasks)
        self._joined = Joined(self._parts, self._tasks, self._interface)

    def _step_parts(self, actions: Any) -> list[Any]:
        rows = self._rows_of(actions)
        own = [rows(part) for part in self._parts]
        return self._pool.step(self._parts, own)

    def _rows_of(self, actions: Any) -> Callable[[Part], Any]:
        """Return how a part gets its actions."""
        if isinstance(self.single_action_space, ARRAYS):
            array = np.asarray(actions)
            self._require_one_each(len(array) if array.ndim else None)
            return lambda part: self._interface.decode(part.task, array[part.rows])
        # Others (Dict, Tuple, Text, ...) are the same in all tasks.
        single = list(iterate(self.action_space, actions))
        self._require_one_each(len(single))
        every = np.arange(self.num_envs)
        return lambda part: _batch(part.env, [single[row] for row in every[part.rows]])

    def _require_one_each(self, found: int | None) -> None:
        if found != self.num_envs:
            raise ValueError(
                f"`actions` must hold num_envs={self.num_envs} actions, got "
                f"{'a single one' if found is None else found}"
            )

    def _follow(self, rewards: np.ndarray, done: np.ndarray, infos: dict[str, Any]) -> bool:
        """Tell the schedule what happened; return whether a slot should play another task."""
        if self._shares is None:
            self._count(rewards, done, infos)
        elif not self._stale:
            return False
        self._stale = False
        return bool((self._wanted() != self._tasks).any())

    def _count(self, rewards: np.ndarray, done: np.ndarray, infos: dict[str, Any]) -> None:
        self._returns += rewards
        self._lengths += 1
        # What a slot whose episode ended says beside its final info is of the next one's start.
        succeeded_rows(self._successes, infos, ~done)
        succeeded_rows(self._successes, infos.get("final_info", {}), done)
        counted = ~self._by_hand
        if counted.any():
            before = turn_of(self.schedule)
            self.schedule.count(int(counted.sum()))
            self._end_episodes(np.flatnonzero(done & counted), before)
        if done.any():
            self._forget(done)

    def _forget(self, slots: Any) -> None:
        """Forget the episodes of these slots, which are over; others begin."""
        self._returns[slots], self._lengths[slots], self._successes[slots] = 0, 0, UNSAID
        self._by_hand[slots] = self._picked()[slots]

    def _end_episodes(self, slots: np.ndarray, turn: tuple[int, int]) -> None:
        for slot in slots.tolist():
            if turn_of(self.schedule) != turn:
                # It is over; what else ended in this step doesn't count for the next.
                return
            self.schedule.end(
                Episode(
                    int(self._tasks[slot]),
                    int(self._lengths[slot]),
                    float(self._returns[slot]),
                    float(self._successes[slot]),
                )
            )

    def _switch(
        self, obs: Any, truncated: np.ndarray, done: np.ndarray, infos: dict[str, Any]
    ) -> tuple[np.ndarray, Any, dict[str, Any]]:
        """Truncate what is running and start the new task everywhere."""
        cut = np.flatnonzero(~done)
        final = infos.get("final_obs", np.full(self.num_envs, None, dtype=object))
        for slot in cut.tolist():
            final[slot] = row_of(obs, slot)
        ended = np.flatnonzero(done)
        last = [(cut, take_rows(without_final(infos), cut))]
        if ended.size:
            last.append((ended, take_rows(infos["final_info"], ended)))
        new_obs, new_infos = self._play()
        everywhere = np.ones(self.num_envs, dtype=bool)
        new_infos |= {"final_obs": final, "_final_obs": everywhere}
        new_infos |= {"final_info": join_infos(last, self.num_envs), "_final_info": everywhere}
        return truncated | ~done, new_obs, new_infos

    def _index(self, task: int | str | np.integer[Any], argument: str = "task_id") -> int:
        return task_index(task, self.task_names, argument)


def _batch(env: VectorEnv[Any, Any, Any], actions: Sequence[Any]) -> Any:
    space = env.single_action_space
    return concatenate(space, actions, create_empty_array(space, len(actions)))


# What a state keeps of the slots.
_SLOTS = ("_tasks", "_pinned", "_chosen", "_by_hand", "_returns", "_lengths", "_successes")
