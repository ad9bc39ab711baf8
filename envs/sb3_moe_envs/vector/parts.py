"""The environments of all tasks: built when needed, stepped together, each in its own slots."""

import functools
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from sb3_moe_envs.checks import CheckedTask, Info, Options
from sb3_moe_envs.tasks import Task, built, called, close_all
from sb3_moe_envs.vector.groups import (
    Group,
    InTurnVectorEnv,
    restore_states,
    start,
    states_of,
)
from sb3_moe_envs.vector.infos import Rows
from sb3_moe_envs.vector.workers import Groups, WorkerGroup, Workers

# Arguments that `gymnasium.make` takes itself and doesn't pass on to the environment.
_OF_GYMNASIUM = {"max_episode_steps", "disable_env_checker"}


class Part(NamedTuple):
    """Environments of one task that step together, and which of all slots they play."""

    task: int
    #: number of the task's environments in all parts, and in the parts before this one
    size: int
    offset: int
    #: the slots, as a slice if they are next to each other, else as an array
    rows: Any
    slots: list[int]
    group: Group | WorkerGroup


# The task, rows and observations of each part.
PartObservations = list[tuple[int, Any, Any]]


class Pool:
    """The environments of all tasks, built once for each pair of a task and a number of them.

    Those of one pair are one group, or one group per process. If a task misbehaves, the error names
    it.

    :param tasks: the tasks
    :param vectorization: `"sync"` or `"async"`, for tasks without a vector environment of their own
    :param render_mode: passed on to the tasks
    """

    def __init__(self, tasks: Sequence[Task], vectorization: str, render_mode: str | None) -> None:
        self.tasks = tasks
        self.render_mode = render_mode
        self._groups: dict[tuple[int, int], Groups] = {}
        make = functools.partial(_in_turn, tuple(tasks), render_mode)
        self._workers = Workers(make, is_parallel=vectorization == "async")

    def groups(self, task: int, size: int) -> Groups:
        """Return a task's environments in groups, `size` environments altogether.

        :raises ValueError: if they can't be built
        """
        if (task, size) not in self._groups:
            self._groups[task, size] = built(self.tasks[task], task, self._build, task, size)
        return self._groups[task, size]

    def _build(self, index: int, size: int) -> Groups:
        task = self.tasks[index]
        if task.env_id is not None and is_batched(task):
            mode = {} if self.render_mode is None else {"render_mode": self.render_mode}
            return [Group(gym.make_vec(task.env_id, size, **{**task.kwargs, **mode}))]
        return self._workers.groups(index, size)

    def arrange(self, tasks_B: np.ndarray) -> list[Part]:
        """Return the parts that play these tasks, one task per slot.

        First come the parts that can't step in the background: the others step meanwhile.

        :raises ValueError: if an environment can't be built
        """
        parts = []
        for task in np.unique(tasks_B).tolist():
            slots = np.flatnonzero(tasks_B == task)
            offset = 0
            for group in self.groups(task, len(slots)):
                own = slots[offset : offset + group.num_envs]
                first = int(own[0])
                last = int(own[-1])
                rows = slice(first, last + 1) if last - first + 1 == len(own) else own
                parts.append(Part(task, len(slots), offset, rows, own.tolist(), group))
                offset += len(own)
        return sorted(parts, key=lambda part: part.group.begins)

    def reset(
        self, parts: Sequence[Part], seeds: dict[tuple[int, int], int | None], options: Options
    ) -> tuple[PartObservations, dict[int, Info]]:
        """Start an episode in every slot of parts; return observations by part, infos by slot.

        :param seeds: by task and size; a task's environments get consecutive ones, across its parts
        """
        observations = []
        infos = dict[int, Info]()
        for part in parts:
            first = seeds[part.task, part.size]
            seed = None if first is None else first + part.offset
            obs, own = self.ask(part, start, seed, options)
            observations.append((part.task, part.rows, obs))
            infos.update(zip(part.slots, own, strict=True))
        return observations, infos

    def step(self, moves: Sequence[tuple[Part, Any]]) -> Rows:
        """Step parts at the same time; return observations by part, and all else by slot.

        :param moves: each part with its actions
        """
        num_slots = sum(len(part.slots) for part, _ in moves)
        flags = np.zeros((2, num_slots), np.bool_)
        whole = Rows([], np.zeros(num_slots), flags[0], flags[1], {}, {})
        for part, actions in moves:
            if part.group.begins:
                self.call(part, part.group.begin, actions)
        self._workers.play()
        for part, actions in moves:
            step: Rows = self.call(part, part.group.finish, actions)
            whole.observations.append((part.task, part.rows, step.observations))
            whole.rewards[part.rows] = step.rewards
            whole.terminated[part.rows] = step.terminated
            whole.truncated[part.rows] = step.truncated
            for row, info in step.infos.items():
                whole.infos[part.slots[row]] = info
            for row, final in step.finals.items():
                whole.finals[part.slots[row]] = final
        return whole

    def ask(self, part: Part, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with a part's vector environment, in the process that holds it."""
        return self.call(part, part.group.ask, function, *args)

    def state_dict(self) -> dict[tuple[int, int], Any]:
        """Return a list of the environments' states, by task and number of environments.

        It is None if one of the environments can't give its state.
        """
        found = {}
        for key, groups in self._groups.items():
            states = [state for group in groups for state in group.ask(states_of)]
            found[key] = None if any(state is None for state in states) else states
        return found

    def load_state_dict(self, state: dict[tuple[int, int], Any]) -> None:
        """Go on from a state; environments whose entry is None are left as they are."""
        for key, states in state.items():
            if states is not None:
                left = iter(states)
                for group in self.groups(*key):
                    group.ask(restore_states, list(islice(left, group.num_envs)))

    def close(self) -> None:
        """Close all environments."""
        groups = (group for own in self._groups.values() for group in own)
        close_all(each.close for each in (*groups, self._workers))

    def call(self, part: Part, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function about a part; its error names the task."""
        return called(self.tasks[part.task], part.task, function, *args)


def _in_turn(
    tasks: Sequence[Task], render_mode: str | None, index: int, num_envs: int
) -> InTurnVectorEnv:
    """Build a task's environments, which are stepped one by one."""
    return InTurnVectorEnv([lambda: CheckedTask(tasks[index].make(render_mode))] * num_envs)


def is_batched(task: Task) -> bool:
    """Return whether a task has a vector environment of its own, which steps all at once.

    It isn't used with arguments that only `gymnasium.make` takes, such as a limit of steps: these
    need single environments.
    """
    spec = gym.registry.get((task.env_id or "").rpartition(":")[2])
    if spec is None or spec.namespace != "SB3MoE" or spec.vector_entry_point is None:
        return False
    return not _OF_GYMNASIUM & set(task.kwargs)
