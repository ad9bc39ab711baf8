"""Many tasks in one environment, one at a time."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from sb3_moe_envs.checks import (
    UNKNOWN,
    CheckedTask,
    Env,
    EnvStep,
    Info,
    Options,
    ResetResult,
    State,
    succeeded,
    whole,
)
from sb3_moe_envs.methods import ACTION_MASKS, method_of
from sb3_moe_envs.schedules import Episode
from sb3_moe_envs.snapshot import restore, snapshot
from sb3_moe_envs.suites import ScheduleLike
from sb3_moe_envs.task_set import TaskSet, framed
from sb3_moe_envs.tasks import built, called, close_all


class MultiTaskEnv(TaskSet, Env):
    """Play one of several tasks per episode, as a schedule says.

    If the schedule switches tasks in mid-episode, the episode is truncated, with the last
    observation of the old task; the new task starts at the next reset. A reset with a seed starts
    the schedule again. An episode whose task was chosen by hand (`set_task`,
    `reset(options={"task_id": k})`) isn't counted by the schedule.

    Spaces that differ are padded to a common one. Observations: Dicts join their keys, and entries
    that a task lacks are zero. Actions: choices are counted from 0, and choice i stands for a
    task's start + i; Boxes with different bounds become floats in [-1, 1], mapped to each task's
    own bounds.

    >>> env = MultiTaskEnv(["CartPole-v1", "Acrobot-v1"])
    >>> obs, info = env.reset(seed=0, options={"task_id": 1})
    >>> int(obs["task_id"]), env.task_names
    (1, ['CartPole', 'Acrobot'])
    >>> env.close()

    :param tasks: a suite's name, or Gymnasium ids, (id, kwargs) pairs and callables
    :param schedule: which task when: a schedule (it is copied), or a function of `Progress` that
        chooses for each episode; None: the suite's, or `Interleave()`
    :param task_id: how observations name the task: `"dict"`, `"onehot"`, `"channels"`; `"info"` and
        `"none"` leave observations as they are, and `"none"` also hides the task in `action_masks`
    :param invalid_action: what an action that the task lacks does: `"noop"` (the task's first
        action), `"modulo"` (wraps around) or `"error"`
    :param num_envs: how many such environments run side by side, as in SB3's `make_vec_env`: each
        step counts as that many
    :param env_index: which of them this is: round robin starts with a different task in each
    :param render_mode: passed on to the tasks; if given, each task is rendered once when it is
        built, to find the size of its images
    :raises TypeError: if `tasks` or `schedule` is of the wrong type
    :raises ValueError: if an argument is unknown, or the tasks' spaces don't fit
    """

    _kept = ("_seeds", "_task", "_pinned", "_by_hand", "_steps", "_reward", "_success", "_running")
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        tasks: Any,
        *,
        schedule: ScheduleLike = None,
        task_id: str = "dict",
        invalid_action: str = "noop",
        num_envs: int = 1,
        env_index: int = 0,
        render_mode: str | None = None,
    ) -> None:
        self._take(tasks, schedule, {"task_id": task_id, "invalid_action": invalid_action})
        self.num_envs = whole("num_envs", num_envs)
        self.env_index = whole("env_index", env_index, minimum=0)
        self.render_mode = render_mode
        self.schedule.start(self.task_names, env_index=self.env_index)
        self._envs: list[Env] = []
        self._build()
        fps = self._envs[0].metadata.get("render_fps", 30)
        self.metadata = self.metadata | {"render_fps": fps}
        self._task = self.schedule.task
        self._pinned: int | None = None
        self._by_hand = False
        self._steps = 0
        self._reward = 0.0
        self._success = UNKNOWN
        self._running = False

    def _build(self) -> None:
        """Build each task's environment, and the spaces that they share."""
        for index, task in enumerate(self.tasks):
            self._envs.append(CheckedTask(built(task, index, task.make, self.render_mode)))
        self._unify(
            [env.observation_space for env in self._envs], [env.action_space for env in self._envs]
        )
        self.observation_space = self._interface.observation_space
        self.action_space = self._interface.action_space

    def reset(self, *, seed: int | None = None, options: Options = None) -> ResetResult:
        """Start an episode of the task that is next.

        :param seed: starts the schedule and every task's random stream again
        :param options: `{"task_id": k}` chooses this episode's task; other entries go to the task
        """
        if self._rewind(seed):
            super().reset(seed=seed)
        elif self._running and self._steps:
            self._end(finished=False)
        options = dict(options or {})
        chosen = options.pop("task_id", self._pinned)
        self._by_hand = chosen is not None
        self._task = self.schedule.task if chosen is None else self._index(chosen)
        obs, info = self._start(options or None)
        return self._interface.encode(self._task, obs), self._describe(info)

    def step(self, action: Any) -> EnvStep:
        """Act in the running task."""
        self._restored = False
        own = self._interface.decode(self._task, action)
        obs, reward, terminated, truncated, info = self._call(self._envs[self._task].step, own)
        self._steps += 1
        self._reward += float(reward)
        self._success = succeeded(self._success, info)
        over, switched = self._count()
        if switched and not (terminated or truncated):
            # Truncated, so that values are bootstrapped from the old task's observation. It is a
            # copy, as the task may write its next observation into the same array.
            truncated = True
            obs = copy.deepcopy(obs)
        if terminated or truncated:
            self._end(finished=not over)
        obs = self._interface.encode(self._task, obs)
        return obs, float(reward), bool(terminated), bool(truncated), self._describe(info)

    def render(self) -> Any:
        """Render the running task; images of all tasks have the size of the largest."""
        return framed(self._envs[self._task].render(), self._size)

    def close(self) -> None:
        """Close every task's environment."""
        close_all(env.close for env in self._envs)

    def set_task(self, task: int | str | None) -> None:
        """Play this task from the next reset on; None: as the schedule says.

        :raises ValueError: if there is no such task
        """
        self._pinned = None if task is None else self._index(task, "task")

    def get_task(self) -> int:
        """Return the index of the running task."""
        return self._task

    def action_masks(self) -> np.ndarray:
        """Return a mask of the actions that the running task has and its own masks allow.

        MaskablePPO calls this method.

        :raises TypeError: if the action space has no choices to mask
        """
        masks = self._interface.masks
        task = self._task
        own = method_of(self._envs[task], ACTION_MASKS) if self._seeds.started else None
        if own is None:
            return masks.of(task)
        return masks.of(task) & self._call(lambda: masks.spread(task, own()))

    def state_dict(self) -> State:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        envs = [snapshot(env) for env in self._envs]
        return self._head_of_state() | {
            "envs": envs,
            "exact": all(env is not None for env in envs),
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state; a seed in the first reset after it, before any step, is ignored.

        If the running task can't be restored, it starts a new episode.

        :raises ValueError: if the state is of another number of tasks or of environments
        """
        self._load_head(state)
        for task, saved in enumerate(state["envs"]):
            if saved is not None:
                self._envs[task] = restore(self._envs[task], saved)
            else:
                self._seeds.renew(task)
        if self._running and state["envs"][self._task] is None:
            self._start(None)

    def _start(self, options: Options) -> ResetResult:
        """Start an episode of the current task, and return its observation and info."""
        self._steps = 0
        self._reward = 0.0
        self._success = UNKNOWN
        self._running = True
        env = self._envs[self._task]
        seed = self._seeds.take(self._task)
        return self._call(env.reset, seed=seed, options=options)

    def _count(self) -> tuple[bool, bool]:
        """Count a step; return whether the turn is over, and whether another task is wanted."""
        if self._by_hand:
            return False, False
        before = self._turn()
        self.schedule.count(self.num_envs)
        return self._turn() != before, self.schedule.task != self._task

    def _end(self, finished: bool) -> None:
        if self._running and not self._by_hand:
            self.schedule.end(
                Episode(self._task, self._steps, self._reward, self._success, finished)
            )
        self._running = False

    def _describe(self, info: Info) -> Info:
        return {**info, "task_id": self._task, "task_name": self.task_names[self._task]}

    def _ask(self, task: int, function: Callable[..., Any], *args: Any) -> Any:
        return function(self._envs[task], *args)

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the running task; its error names the task."""
        return called(self.tasks[self._task], self._task, function, *args, **kwargs)
