"""What `MultiTaskEnv` and `MultiTaskVectorEnv` have in common."""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space

from sb3_moe_envs.checks import State
from sb3_moe_envs.methods import COMPUTE_REWARD, has_goals, meanings_of, reward_of
from sb3_moe_envs.schedules import Chosen, Interleave, Schedule, Slots
from sb3_moe_envs.schedules.by_episode import task_index
from sb3_moe_envs.spaces import Interface
from sb3_moe_envs.spaces.interface import check_options
from sb3_moe_envs.suites import ScheduleLike, suite_schedule, tasks_of
from sb3_moe_envs.tasks import built

# Render modes that return no images: they show a window, or return text.
_NO_IMAGES = (None, "human", "ansi")


def drawn_size(env: Any) -> Any:
    """Return the height and width of the images of an environment or vector environment.

    This resets it, which draws random numbers: reset it with its seed afterwards.
    """
    if env.render_mode in _NO_IMAGES:
        return 0, 0
    env.reset()
    drawn = env.render()
    while isinstance(drawn, list | tuple):  # of images of one size
        drawn = drawn[0]
    return drawn.shape[:2] if _is_image(drawn) else (0, 0)


def _is_image(rendered: Any) -> bool:
    return isinstance(rendered, np.ndarray) and rendered.ndim >= 2


def framed(rendered: Any, size: Any) -> Any:
    """Center what a task rendered, an image or a list of them, on black of at least this size.

    Images are neither scaled nor cut. Anything but images is returned as it is.
    """
    if isinstance(rendered, list):
        return [framed(image, size) for image in rendered]
    if not _is_image(rendered):
        return rendered
    missing = np.zeros(rendered.ndim, np.int64)
    missing[:2] = np.maximum(size - np.array(rendered.shape[:2]), 0)
    return np.pad(rendered, np.stack([missing // 2, missing - missing // 2], axis=1))


class TaskSeeds:
    """Derive all seeds from one; a task gets its seed once per rewind, when it is first played."""

    def __init__(self) -> None:
        self._entropy: Any = None
        self._taken: set[tuple[int, ...]] = set()
        self._renewals = Counter[tuple[int, ...]]()

    @property
    def started(self) -> bool:
        """Whether :meth:`rewind` has been called."""
        return self._entropy is not None

    def rewind(self, seed: Any) -> tuple[np.random.SeedSequence, int]:
        """Start all streams again; return the seeds of the schedule and of the action space.

        :param seed: one or several numbers; None draws a seed from the operating system
        """
        self._entropy = np.random.SeedSequence(seed).entropy
        self._taken = set()
        self._renewals = Counter()
        return self._stream(0), _integer(self._stream(1))

    def take(self, *key: int) -> int | None:
        """Return a task's seed the first time; later None, with which its random stream goes on.

        :param key: the task's index, and whatever else distinguishes its environments
        """
        if key in self._taken:
            return None
        self._taken.add(key)
        renewals = self._renewals[key]
        return _integer(self._stream(3, renewals, *key) if renewals else self._stream(2, *key))

    def renew(self, *key: int) -> None:
        """Give a key a new seed at the next :meth:`take`, as its environments can't be restored."""
        if key in self._taken:
            self._taken.remove(key)
            self._renewals[key] += 1

    def _stream(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._entropy, spawn_key=key)


def _integer(stream: np.random.SeedSequence) -> int:
    # ALE takes seeds below 2**31, and vector environments add the slot's index.
    return int(stream.generate_state(1)[0]) % (2**31 - 2**16)


class TaskSet:
    """The base class of `MultiTaskEnv` and `MultiTaskVectorEnv`.

    :cvar _kept: the names of the attributes that a state holds as they are
    """

    _kept: tuple[str, ...]
    num_envs: int
    env_index = 0
    render_mode: str | None
    action_space: Space

    def _take(self, tasks: Any, schedule: ScheduleLike, interface: dict[str, str]) -> None:
        """Read the arguments, before anything is built.

        :param interface: options of an :class:`Interface`
        """
        check_options(interface)
        self._options = interface
        self.task_id = interface.get("task_id", "dict")
        self.schedule = as_schedule(schedule, tasks)
        self.tasks = tasks_of(tasks)
        self.task_names = [task.name for task in self.tasks]
        self.num_tasks = len(self.tasks)
        self._seeds = TaskSeeds()
        self._restored = False

    def _unify(self, observations: Sequence[Space], actions: Sequence[Space]) -> None:
        """Set up the translation between the tasks' and the common spaces, and the images' size."""
        self._interface = Interface(observations, actions, self.task_names, **self._options)
        self._size: Any = 0
        if self.render_mode is not None:
            sizes = [
                built(task, index, self._ask, index, drawn_size)
                for index, task in enumerate(self.tasks)
            ]
            self._size = np.max(sizes, axis=0)

    def _rewind(self, seed: Any) -> bool:
        """Start the schedule and all seeds again if a reset has a seed, or is the first."""
        restored = self._restored
        self._restored = False
        # Loading a model seeds its environments once more, which must not undo a restored state.
        if self._seeds.started and (seed is None or restored):
            return False
        of_schedule, of_actions = self._seeds.rewind(seed)
        self.schedule.start(self.task_names, seed=of_schedule, env_index=self.env_index)
        self.action_space.seed(of_actions)
        return True

    def _ask(self, task: int, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with a task's environment or vector environment as first argument."""
        raise NotImplementedError

    def _head_of_state(self) -> State:
        """Return the part of a state that both kinds of environments have."""
        return {
            "num_tasks": self.num_tasks,
            "num_envs": self.num_envs,
            "schedule": self.schedule.state_dict(),
            "kept": {name: copy.deepcopy(getattr(self, name)) for name in self._kept},
        }

    def _load_head(self, state: State) -> None:
        for name in ("num_tasks", "num_envs"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"`state` must have {name}={getattr(self, name)}, got {state[name]}"
                )
        self.schedule.load_state_dict(state["schedule"])
        vars(self).update(copy.deepcopy(state["kept"]))
        self._restored = True

    def _turn(self) -> tuple[int, int]:
        """Return the task whose turn it is, and the turn's number."""
        return self.schedule.task, self.schedule.turn

    @property
    def is_interleaved(self) -> bool:
        """Whether the schedule mixes the tasks, from one episode to the next or side by side."""
        return self.schedule.slots is not Slots.TOGETHER

    def action_meanings(self) -> dict[int, list[str]]:
        """Return, by task index, the action names of tasks that have `get_action_meanings`."""
        names = {task: self._ask(task, meanings_of) for task in range(self.num_tasks)}
        return {task: own for task, own in names.items() if own}

    def __getattr__(self, name: str) -> Any:
        """Have `compute_reward` only if observations hold goals."""
        interface = vars(self).get("_interface")
        if name == COMPUTE_REWARD and interface and has_goals(interface.observation_space):
            return self._compute_reward
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """Return the reward of reaching a goal in the task of `info["task_id"]`, for HER.

        :param achieved_goal: of one step or of a batch
        :param desired_goal: likewise
        :param info: the step's info, or one for each step
        :raises TypeError: if the task has no such method
        :raises ValueError: if there are several tasks and an info lacks the `task_id`
        """
        if isinstance(info, Mapping):
            return self._reward_in(self._task_of(info), (achieved_goal, desired_goal), info)
        tasks_B = np.array([self._task_of(each) for each in info], np.int64)
        rewards_B = np.zeros(len(tasks_B), np.float64)
        for task in np.unique(tasks_B).tolist():
            rows = np.flatnonzero(tasks_B == task)
            goals = achieved_goal[rows], desired_goal[rows]
            rewards_B[rows] = self._reward_in(task, goals, [info[row] for row in rows.tolist()])
        return rewards_B

    def _task_of(self, info: Mapping[str, Any]) -> int:
        if self.num_tasks == 1:
            return 0
        if "task_id" not in info:
            raise ValueError(
                f"`info` must hold the 'task_id' of each step, since {self.num_tasks} tasks "
                f"compute their rewards, got {info}; HerReplayBuffer keeps it with "
                "replay_buffer_kwargs=dict(copy_info_dict=True)"
            )
        return int(info["task_id"])

    def _reward_in(self, task: int, goals: tuple[Any, Any], info: Any) -> Any:
        own = self._interface.goals_of(task, goals)
        reward = self._ask(task, reward_of, *own, info)
        if reward is None:
            raise TypeError(
                f"HER needs tasks with a method `{COMPUTE_REWARD}`, which "
                f"{self.task_names[task]!r} lacks"
            )
        return reward

    def _index(self, task: int | str | np.integer, argument: str = "task_id") -> int:
        return task_index(task, self.task_names, argument)


def as_schedule(schedule: Any, tasks: Any) -> Schedule:
    """Return a copy of the given schedule, else of the suite's, else of `Interleave()`.

    A function becomes a :class:`Chosen`.

    :raises TypeError: if `schedule` is neither a schedule nor a function
    """
    if schedule is None:
        schedule = suite_schedule(tasks) or Interleave()
    if callable(schedule) and not isinstance(schedule, type):
        schedule = Chosen(schedule)
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"`schedule` must be a Schedule (not its class), a function or None, got {schedule!r}"
        )
    return copy.copy(schedule)  # a shallow one, as `start` sets a new state
