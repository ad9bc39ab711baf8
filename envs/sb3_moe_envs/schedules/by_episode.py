"""The base class of schedules, and the schedules that choose a task for each episode."""

import copy
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal, NamedTuple

import numpy as np

from sb3_moe_envs.checks import State, positive, whole

# A warning is given if a task's number of slots misses its share by this or more.
_HALF_A_SLOT = 0.5


class Slots(Enum):
    """How a schedule uses the slots of a vector environment."""

    SHARED = "each task keeps a fixed share of the slots"
    TOGETHER = "all slots play the same task"
    OWN = "each slot follows a schedule of its own"


class Episode(NamedTuple):
    """An episode that is over.

    `finished` is False if a reset cut it short, or if the task's turn ended with its last step; a
    vector environment does not report such an episode at all.
    """

    task: int
    steps: int
    reward: float
    success: float = float("nan")
    finished: bool = True


class Schedule(ABC):
    """Decide which task an environment plays; random choices follow from (seed, env_index).

    `start` begins the schedule anew. `count` is called with the steps of all environments, and
    `end` with each episode that is over. `task` is the task to play now: if `count` changes it, the
    running episode is truncated.

    :cvar _state: the names of the attributes that make up the state, besides the random stream: a
        schedule of your own lists its own, or a resumed run starts it anew
    """

    _state: tuple[str, ...] = ()
    slots: Slots = Slots.TOGETHER
    num_tasks: int = 0
    env_index: int = 0

    def start(
        self,
        task_names: Sequence[str],
        *,
        seed: int | np.random.SeedSequence | None = None,
        env_index: int = 0,
    ) -> None:
        """Begin from the first task.

        :param task_names: the tasks' names, in order
        :param seed: of the random stream of this schedule
        :param env_index: which environment this is, among those that play the same tasks
        """
        self.num_tasks = len(task_names)
        self.env_index = env_index
        self.rng = np.random.default_rng(seed)
        self._start(task_names)

    @abstractmethod
    def _start(self, task_names: Sequence[str]) -> None:
        """Check the tasks and set the state to the beginning."""

    def __repr__(self) -> str:
        arguments = inspect.signature(type(self)).parameters.values()
        shown = []
        for each in arguments:
            value = getattr(self, each.name, each.default)
            if value != each.default:
                shown.append(f"{each.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    @property
    @abstractmethod
    def task(self) -> int:
        """The task to play now."""

    @property
    def turn(self) -> int:
        """The number of the running turn, if tasks take turns; the next may be of the same task."""
        return 0

    def count(self, steps: int) -> None:  # noqa: B027 - not every schedule counts steps
        """Take note of `steps` environment steps."""

    def end(self, episode: Episode) -> None:  # noqa: B027 - not every schedule counts episodes
        """Take note of an episode that is over."""

    def state_dict(self) -> State:
        """Return the state, of values that JSON can hold."""
        state = {name: copy.deepcopy(getattr(self, name)) for name in self._state}
        return state | {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: State) -> None:
        """Go on from a state of the same kind of schedule, for the same number of tasks."""
        for name in self._state:
            setattr(self, name, copy.deepcopy(state[name]))
        self.rng.bit_generator.state = state["rng"]


def task_index(task: int | str | np.integer, task_names: Sequence[str], argument: str) -> int:
    """Turn a task's name or index into its index.

    :raises ValueError: if there is no such task
    """
    if isinstance(task, str):
        if task not in task_names:
            raise ValueError(f"`{argument}` must name a task of {list(task_names)}, got {task!r}")
        return list(task_names).index(task)
    index = whole(argument, task, minimum=None)
    if not 0 <= index < len(task_names):
        raise ValueError(f"`{argument}` must be in [0, num_tasks={len(task_names)}), got {task}")
    return index


class ByEpisode(Schedule):
    """Choose a task for each episode, given the steps and episodes of each task so far."""

    _state = ("_task", "_steps", "_episodes")

    def _start(self, task_names: Sequence[str]) -> None:
        self._steps = [0] * self.num_tasks
        self._episodes = [0] * self.num_tasks
        self._task = self._choose(None)

    @property
    def task(self) -> int:
        """The task of the running episode, or of the next one."""
        return self._task

    def end(self, episode: Episode) -> None:
        """Choose the next episode's task."""
        self._steps[episode.task] += episode.steps
        self._episodes[episode.task] += 1
        self._task = self._choose(episode)

    @abstractmethod
    def _choose(self, last: Episode | None) -> int:
        """Return the task of the next episode.

        :param last: the episode that has just ended, None before the first
        """


class Interleave(ByEpisode):
    """Mix all tasks, in equal or weighted shares, changing task between episodes only.

    In round robin the next episode goes to the task that is furthest behind its share; ties go to
    the next index, and environment i starts with task i. By default, a vector environment gives
    each task a fixed share of its slots, and so of the steps (more for the first tasks if slots
    don't divide evenly); with any other `unit` or `order`, each slot has its own schedule.

    :param unit: what the shares are shares of, `"steps"` or `"episodes"`
    :param order: `"round_robin"`, or `"random"`: drawn so that the shares hold on average
    :param weights: share of each task, any positive numbers; None: equal
    :raises ValueError: if an argument is out of range
    """

    slots = Slots.SHARED

    def __init__(
        self,
        unit: Literal["steps", "episodes"] = "steps",
        *,
        order: Literal["round_robin", "random"] = "round_robin",
        weights: Sequence[float] | None = None,
    ) -> None:
        if unit not in ("steps", "episodes"):
            raise ValueError(f"`unit` must be 'steps' or 'episodes', got {unit!r}")
        if order not in ("round_robin", "random"):
            raise ValueError(f"`order` must be 'round_robin' or 'random', got {order!r}")
        self.unit = unit
        self.order = order
        self.weights = None if weights is None else tuple(positive("weights", w) for w in weights)
        if (unit, order) != ("steps", "round_robin"):
            self.slots = Slots.OWN

    def shares(self, num_tasks: int) -> np.ndarray:
        """Return each task's share, summing to 1.

        :raises ValueError: if there are not as many weights as tasks
        """
        if self.weights is None:
            return np.full(num_tasks, 1 / num_tasks)
        if len(self.weights) != num_tasks:
            raise ValueError(
                f"`weights` must have one entry per task, {num_tasks}, got {len(self.weights)}"
            )
        return np.asarray(self.weights) / sum(self.weights)

    def _start(self, task_names: Sequence[str]) -> None:
        self._shares = self.shares(self.num_tasks)
        super()._start(task_names)

    def _choose(self, last: Episode | None) -> int:
        if self.order == "random":
            return int(self.rng.choice(self.num_tasks, p=self._probabilities()))
        played = self._steps if self.unit == "steps" else self._episodes
        behind = np.asarray(played) / self._shares
        turn = (np.arange(self.num_tasks) - self.env_index) % self.num_tasks
        return int(np.lexsort((turn, behind))[0])

    def _probabilities(self) -> np.ndarray:
        """Return the shares of episodes; for shares of steps, tasks with long episodes get less."""
        if self.unit == "episodes" or not any(self._steps):
            return self._shares
        mean = sum(self._steps) / sum(self._episodes)
        lengths = [
            steps / episodes if steps else mean
            for steps, episodes in zip(self._steps, self._episodes, strict=True)
        ]
        odds = self._shares / np.asarray(lengths)
        return np.asarray(odds / odds.sum())


def slot_counts(shares: np.ndarray, num_slots: int) -> list[int]:
    """Give each task a whole number of slots, at least one, by the largest-remainder method.

    :param shares: (N,) summing to 1
    :raises ValueError: if there are fewer slots than tasks
    """
    if num_slots < len(shares):
        raise ValueError(
            "Interleave needs at least as many environments as there are tasks, "
            f"{len(shares)}, got {num_slots}"
        )
    # Each task first gets one slot; the rest are dealt out by how much each share still lacks.
    missing = np.maximum(shares * num_slots - 1, 0)
    rest = num_slots - len(shares)
    quotas = missing / missing.sum() * rest if rest else missing * 0
    counts = np.floor(quotas).astype(int)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: rest - counts.sum()]] += 1
    return (counts + 1).tolist()


def fixed_tasks(schedule: Schedule, num_tasks: int, num_slots: int) -> np.ndarray | None:
    """Return the task of each slot under `Interleave`, or None where all slots switch together.

    :param schedule: which task when
    :param num_tasks: how many tasks
    :param num_slots: how many slots
    :return: (num_slots,); a warning is given if this misses the weights by half a slot or more
    :raises ValueError: if each slot would choose its own tasks, or there are too few slots
    """
    if schedule.slots is Slots.TOGETHER:
        return None
    if schedule.slots is Slots.OWN or not isinstance(schedule, Interleave):
        raise ValueError(
            "`schedule` must be an Interleave of steps, or switch all slots together, got "
            f"{schedule!r}; one that chooses for each slot needs make_multitask_vector"
        )
    shares = schedule.shares(num_tasks)
    counts = slot_counts(shares, num_slots)
    missed = np.abs(np.array(counts) - shares * num_slots).max()
    if schedule.weights is not None and missed >= _HALF_A_SLOT:
        warnings.warn(
            f"with `num_envs`={num_slots} the tasks get {counts} slots, not the shares of the "
            f"steps that `weights`={list(schedule.weights)} ask for",
            stacklevel=4,
        )
    return np.repeat(np.arange(num_tasks), counts)


class Progress(NamedTuple):
    """The argument of a function that chooses the next task.

    `steps` and `episodes` count, per task, what this environment has played; `last` is the episode
    that has just ended, None before the first; `rng` is seeded with the environment.
    """

    task_names: tuple[str, ...]
    steps: tuple[int, ...]
    episodes: tuple[int, ...]
    last: Episode | None
    rng: np.random.Generator


class Chosen(ByEpisode):
    """Ask a function for the task of each episode, separately in each environment.

    It is also asked at the start, before the first reset: let it depend on its argument alone.

    :param choose: takes a `Progress`, returns the index or name of a task
    """

    slots = Slots.OWN

    def __init__(self, choose: Callable[[Progress], int | str]) -> None:
        self.choose = choose

    def __repr__(self) -> str:
        return f"Chosen({getattr(self.choose, '__name__', self.choose)})"

    def _start(self, task_names: Sequence[str]) -> None:
        self._names = tuple(task_names)
        super()._start(task_names)

    def _choose(self, last: Episode | None) -> int:
        progress = Progress(self._names, tuple(self._steps), tuple(self._episodes), last, self.rng)
        return task_index(self.choose(progress), self._names, "choose")
