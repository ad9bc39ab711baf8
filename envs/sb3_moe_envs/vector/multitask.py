"""Many tasks side by side: one vector environment per task, joined into one."""

import functools
from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_moe_envs.checks import (
    UNKNOWN,
    Info,
    Options,
    ResetResult,
    Seed,
    State,
    StepResult,
    optional_whole,
    succeeded,
)
from sb3_moe_envs.methods import masks_of
from sb3_moe_envs.multitask import MultiTaskEnv
from sb3_moe_envs.schedules import Episode, Slots
from sb3_moe_envs.schedules.by_episode import fixed_tasks
from sb3_moe_envs.spaces.observations import row_of
from sb3_moe_envs.suites import ScheduleLike, tasks_of
from sb3_moe_envs.task_set import TaskSet, as_schedule, framed
from sb3_moe_envs.vector.groups import InTurnVectorEnv
from sb3_moe_envs.vector.infos import stack, stack_final
from sb3_moe_envs.vector.parts import Part, Pool

# What is counted of each slot's running episode, as in `Episode`.
_PLAYED = [("steps", np.int64), ("reward", np.float64), ("success", np.float64)]
_NOTHING = (0, 0, UNKNOWN)


class MultiTaskVectorEnv(TaskSet, VectorEnv[Any, Any, np.ndarray]):
    """Several tasks that step together, each in one or more slots.

    Under `Interleave` each task has a fixed share of the slots. Under the other schedules all slots
    play the same task and switch together: the running episodes are truncated, with their last
    observations in `infos["final_obs"]`. Autoreset is SAME_STEP. If you choose a
    slot's task by hand (`set_task`), the schedule stops counting that slot's steps when the slot's
    next episode starts.

    :param tasks: a suite's name, or Gymnasium ids, (id, kwargs) pairs and callables
    :param num_envs: number of slots; None: one per task
    :param schedule: decides which task is played when (it is copied); None: the suite's, or
        `Interleave()`
    :param vectorization: how tasks without a vector environment of their own are stepped:
        `"sync"`, in this process, or `"async"`, in as many processes as there are cores, this one
        among them
    :param render_mode: as in `MultiTaskEnv`
    :param interface: `task_id` and `invalid_action`, as in `MultiTaskEnv`
    :raises TypeError: if `tasks` or `schedule` is of the wrong type, or an argument is unknown
    :raises ValueError: if an argument's value is unknown, the tasks' spaces don't fit, or there are
        fewer slots than tasks under `Interleave`
    """

    _kept = ("_seeds", "_tasks", "_pinned", "_by_hand", "_played")

    def __init__(
        self,
        tasks: Any,
        num_envs: int | None = None,
        *,
        schedule: ScheduleLike = None,
        vectorization: str = "sync",
        render_mode: str | None = None,
        **interface: str,
    ) -> None:
        if vectorization not in ("sync", "async"):
            raise ValueError(f"`vectorization` must be 'sync' or 'async', got {vectorization!r}")
        num_slots = optional_whole("num_envs", num_envs)
        self._take(tasks, schedule, interface)
        self.num_envs = num_slots or self.num_tasks
        self.render_mode = render_mode
        self.schedule.start(self.task_names)
        self._shares = fixed_tasks(self.schedule, self.num_tasks, self.num_envs)
        self._pool = Pool(self.tasks, vectorization, render_mode)
        self._build()
        self._pinned = np.full(self.num_envs, -1)
        self._by_hand = self._pinned >= 0
        self._tasks = self._wanted()
        self._played = np.array([_NOTHING] * self.num_envs, _PLAYED)
        self._parts = self._pool.arrange(self._tasks)

    def _build(self) -> None:
        """Build an environment of each task, and the spaces that they share."""
        about = attrgetter("single_observation_space", "single_action_space", "metadata")
        found = [self._ask(task, about) for task in range(self.num_tasks)]
        observation_spaces, action_spaces, metadata = zip(*found, strict=True)
        self._unify(observation_spaces, action_spaces)
        self.metadata: dict[str, Any] = {
            "render_modes": ["rgb_array"],
            "autoreset_mode": AutoresetMode.SAME_STEP,
            "render_fps": metadata[0].get("render_fps", 30),
        }
        self.single_observation_space = self._interface.observation_space
        self.single_action_space = self._interface.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def __repr__(self) -> str:
        names = (", " if self._shares is not None else " then ").join(self.task_names)
        return f"MultiTaskVectorEnv({self.num_envs} slots, {self.schedule!r}: {names})"

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every slot.

        :param seed: restarts the schedule and every task's random numbers; the numbers of a
            sequence form one seed together
        :param options: go to the tasks
        :raises ValueError: if they hold a `task_id`, as :class:`MultiTaskEnv` takes it
        """
        if "task_id" in (options or {}):
            raise ValueError("`options` can't choose the task of slots: use `set_task`")
        if self._rewind(seed):
            super().reset(seed=seed if isinstance(seed, int) else None)
        obs, infos = self._play(options)
        return obs, self._stacked(infos)

    def step(self, actions: Any) -> StepResult:
        """Step every slot with its action, of shape (num_envs, ...).

        :raises ValueError: if there are not as many actions as slots
        """
        self._restored = False
        array = np.asarray(actions)
        if array.shape[:1] != (self.num_envs,):
            raise ValueError(f"`actions` must hold num_envs={self.num_envs} actions, got {array}")
        step = self._pool.step(
            [(part, self._interface.decode(part.task, array[part.rows])) for part in self._parts]
        )
        obs = self._interface.encode_batch(step.observations, self._tasks)
        infos = step.infos
        done = step.terminated | step.truncated
        finals = {
            slot: (self._interface.encode(int(self._tasks[slot]), last), self._named(slot, info))
            for slot, (last, info) in step.finals.items()
        }
        truncated = step.truncated
        if self._shares is None:
            # The info of a slot whose episode ended describes the start of the next one.
            ended = {slot: info for slot, (_, info) in finals.items()}
            self._count(step.rewards, done, infos | ended)
        if (self._wanted() != self._tasks).any():
            # Truncate the running episodes and start the new tasks in all slots.
            for slot in np.flatnonzero(~done).tolist():
                finals[slot] = row_of(obs, slot), self._named(slot, infos.get(slot, {}))
            truncated = truncated | ~done
            obs, infos = self._play()
        all_infos = self._stacked(infos) | stack_final(finals, self.num_envs)
        return obs, step.rewards, step.terminated, truncated, all_infos

    def render(self) -> tuple[Any, ...] | None:
        """Return one image per slot, of the largest task's size; None where a task has none."""
        if self.render_mode is None:
            return None
        frames = np.full(self.num_envs, None, dtype=object)
        for part in self._parts:
            images = part.group.ask(methodcaller("render"))
            for slot, frame in zip(part.slots, images, strict=True):
                frames[slot] = framed(frame, self._size)
        return tuple(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Close every task's environments."""
        self._pool.close()

    def set_task(self, task: int | str | None, indices: Sequence[int] | None = None) -> None:
        """Play this task from the end of the next step, or the next reset, on; None: as scheduled.

        If a slot changes its task, all running episodes are truncated.

        :param indices: the slots to set; None: all
        :raises ValueError: if there is no such task
        """
        slots = slice(None) if indices is None else list(indices)
        self._pinned[slots] = -1 if task is None else self._index(task, "task")

    def get_task(self) -> np.ndarray:
        """Return the index of the task that each slot is playing, (num_envs,)."""
        return self._tasks.copy()

    def action_masks(self) -> np.ndarray:
        """Return the actions that each slot's task has and its own masks allow, for MaskablePPO.

        :return: (num_envs, num_actions)
        :raises TypeError: if the action space has no choices to mask
        """
        masks = self._interface.masks.of(self._tasks)
        spread = self._interface.masks.spread
        if not self._seeds.started:
            return masks
        for part in self._parts:
            own = self._pool.ask(part, masks_of)
            if own is not None:
                masks[part.rows] &= self._pool.call(part, spread, part.task, own)
        return masks

    def state_dict(self) -> State:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        parts = self._pool.state_dict()
        return self._head_of_state() | {
            "parts": parts,
            "exact": all(state is not None for state in parts.values()),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state; if the next call is a reset, before any step, its seed is ignored.

        Tasks that can't be restored start new episodes.

        :raises ValueError: if the state is of another number of slots or tasks
        """
        self._load_head(state)
        self._parts = self._pool.arrange(self._tasks)
        self._pool.load_state_dict(state["parts"])
        for key, saved in state["parts"].items():
            if saved is None:
                self._seeds.renew(*key)
        anew = [part for part in self._parts if state["parts"].get((part.task, part.size)) is None]
        self._reset(anew)
        for part in anew:
            self._forget(part.rows)

    def _ask(self, task: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with a task's vector environment as its first argument.

        If all slots play the same task, that is one of size 1: the others, which may be many
        simulators, as in Meta-World, are built only when the task is played.
        """
        size = 1 if self._shares is None else int((self._shares == task).sum())
        return self._pool.groups(task, size)[0].ask(function, *args)

    def _wanted(self) -> np.ndarray:
        """Return the task that each slot should play now."""
        tasks = self.schedule.task if self._shares is None else self._shares
        return np.where(self._pinned >= 0, self._pinned, tasks)

    def _play(self, options: Options = None) -> tuple[Any, dict[int, Info]]:
        """Start an episode of its wanted task in every slot; return observations and infos."""
        self._tasks = self._wanted()
        self._parts = self._pool.arrange(self._tasks)
        self._forget(slice(None))
        observations, infos = self._reset(self._parts, options)
        return self._interface.encode_batch(observations, self._tasks), infos

    def _reset(self, parts: Sequence[Part], options: Options = None) -> Any:
        keys = {(part.task, part.size) for part in parts}
        return self._pool.reset(parts, {key: self._seeds.take(*key) for key in keys}, options)

    def _named(self, slot: int, info: Info) -> Info:
        return {**info, "task_id": int(self._tasks[slot])}

    def _stacked(self, infos: dict[int, Info]) -> Info:
        """Stack infos, and add the task of each slot."""
        own = {"task_id": self._tasks.copy(), "_task_id": np.ones(self.num_envs, bool)}
        return stack(infos, self.num_envs) | own

    def _count(self, rewards: np.ndarray, done: np.ndarray, infos: dict[int, Info]) -> None:
        """Tell the schedule what happened in a step."""
        self._played["steps"] += 1
        self._played["reward"] += rewards
        successes = self._played["success"]
        for slot, info in infos.items():
            successes[slot] = succeeded(float(successes[slot]), info)
        counted = ~self._by_hand
        before = self._turn()
        if counted.any():
            self.schedule.count(int(counted.sum()))
        slots = np.flatnonzero(done & counted).tolist()
        # Once a turn is over, other episodes that ended in this step don't count for the next turn.
        while slots and self._turn() == before:
            slot = slots.pop(0)
            task = int(self._tasks[slot])
            self.schedule.end(Episode(task, *self._played[slot].item()))
        if done.any():
            self._forget(done)

    def _forget(self, slots: Any) -> None:
        """Start the episode statistics of these slots again, for their next episodes."""
        self._played[slots] = _NOTHING
        self._by_hand[slots] = self._pinned[slots] >= 0


class MultiTaskSyncVectorEnv(InTurnVectorEnv):
    """`MultiTaskEnv`s side by side, each with a schedule of its own, with SAME_STEP autoreset.

    :param env_fns: build the environments; each must be a `MultiTaskEnv`
    """

    def __init__(self, env_fns: Sequence[Callable[[], MultiTaskEnv]]) -> None:
        super().__init__(env_fns)
        self.task_names = self.envs[0].task_names
        self.num_tasks = len(self.task_names)

    def __repr__(self) -> str:
        return (
            f"MultiTaskSyncVectorEnv({self.num_envs} x MultiTaskEnv, {self.envs[0].schedule!r}: "
            f"{', '.join(self.task_names)})"
        )

    def set_task(self, task: int | str | None, indices: Sequence[int] | None = None) -> None:
        """Play this task from each slot's next reset on; None: as scheduled.

        :param indices: the slots to set; None: all
        """
        for index in range(self.num_envs) if indices is None else indices:
            self.envs[index].set_task(task)

    def get_task(self) -> np.ndarray:
        """Return the index of the task that each slot is playing, (num_envs,)."""
        return np.array(self.call("get_task"))

    def action_masks(self) -> np.ndarray:
        """Return which actions each slot's task has, (num_envs, num_actions)."""
        return np.stack(self.call("action_masks"))

    def state_dict(self) -> State:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        states = self.call("state_dict")
        return {"envs": states, "exact": all(state["exact"] for state in states)}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state of the same number of slots.

        :raises ValueError: if it is of another number of slots, or of other tasks
        """
        for env, saved in zip(self.envs, state["envs"], strict=True):
            env.load_state_dict(saved)


def make_multitask_vector(
    tasks: Any,
    num_envs: int | None = None,
    *,
    schedule: ScheduleLike = None,
    vectorization: str = "sync",
    **kwargs: Any,
) -> VectorEnv:
    """Build a vector environment over several tasks; its `repr` says which arrangement it is.

    If the schedule gives each task fixed slots, or lets all slots play the same task, one vector
    environment is built per task, and they are joined (`MultiTaskVectorEnv`). If it chooses a task
    for each slot and episode, one `MultiTaskEnv` is built per slot, and they are stepped one by
    one.

    >>> env = make_multitask_vector(["CartPole-v1", "Acrobot-v1"], num_envs=4)
    >>> obs, info = env.reset(seed=0)
    >>> obs["task_id"].tolist()
    [0, 0, 1, 1]

    :param tasks: a suite's name, or Gymnasium ids, (id, kwargs) pairs and callables
    :param num_envs: number of slots; None: one per task
    :param schedule: decides which task is played when, as in `MultiTaskEnv`; None: the suite's, or
        `Interleave()`
    :param vectorization: `"sync"` or `"async"`, as in `MultiTaskVectorEnv`
    :param kwargs: `task_id`, `invalid_action`, `render_mode`
    :raises ValueError: if an argument is out of range, or `"async"` doesn't fit the schedule
    """
    schedule = as_schedule(schedule, tasks)
    if schedule.slots is not Slots.OWN:
        return MultiTaskVectorEnv(
            tasks, num_envs, schedule=schedule, vectorization=vectorization, **kwargs
        )
    if vectorization != "sync":
        raise ValueError(
            f"`vectorization` must be 'sync' under {schedule!r}, got {vectorization!r}"
        )
    num_slots = optional_whole("num_envs", num_envs) or len(tasks_of(tasks))
    make = functools.partial(MultiTaskEnv, tasks, schedule=schedule, num_envs=num_slots, **kwargs)
    return MultiTaskSyncVectorEnv(
        [functools.partial(make, env_index=index) for index in range(num_slots)]
    )
