"""The vector environments of all tasks: built when needed, stepped together, watched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from sb3_moe_envs.checks import (
    batch_problem,
    mask_problem,
    observation_problem,
    reset_result_problem,
)
from sb3_moe_envs.closing import close_all
from sb3_moe_envs.masks import masks_of_copies
from sb3_moe_envs.tasks import Task, built, gave_both, reject
from sb3_moe_envs.vector.copies import Copies, abandon, make_copies
from sb3_moe_envs.vector.in_workers import WorkersVectorEnv
from sb3_moe_envs.vector.parts import (
    Part,
    Vector,
    load_part_state,
    make_part,
    part_state,
    receive,
    rows_of_task,
    send,
)
from sb3_moe_envs.vector.workers import Workers

# Which have looked at each copy's result themselves, in this process or in another.
LOOKED_AT = (Copies, WorkersVectorEnv)


class Pool:
    """One vector environment per task and number of copies.

    If a task misbehaves, all are closed and the error names it.

    :param tasks: the tasks
    :param vectorization: `"sync"` or `"async"`, for tasks without a vector environment of their own
    :param render_mode: passed on to the tasks
    """

    def __init__(self, tasks: Sequence[Task], vectorization: str, render_mode: str | None) -> None:
        self.tasks, self.vectorization, self.render_mode = tasks, vectorization, render_mode
        self._envs: dict[tuple[int, int], Vector] = {}
        self._workers = Workers(functools.partial(_make_one_of, tuple(tasks), render_mode))
        self._masks: dict[tuple[int, int], Callable[[], Any] | None] = {}

    def env(self, task: int, size: int) -> Vector:
        """Return a task's vector environment of `size` copies.

        :raises ValueError: if it can't be built
        """
        if (task, size) not in self._envs:
            copies: Callable[[], Vector]
            if self.vectorization == "async":
                copies = functools.partial(WorkersVectorEnv, self._workers, task, size)
            else:
                copies = functools.partial(make_copies, self.tasks[task], size, self.render_mode)
            build = functools.partial(make_part, self.tasks[task], size, self.render_mode, copies)
            self._envs[task, size] = built(self.tasks[task], task, build)
        return self._envs[task, size]

    def arrange(self, tasks_B: np.ndarray) -> list[Part]:
        """Return the parts that play these tasks, one task per row."""
        parts = []
        for task in np.unique(tasks_B).tolist():
            size = int((tasks_B == task).sum())
            parts.append(Part(task, rows_of_task(tasks_B, task), self.env(task, size)))
        self._check_apart(parts)
        return parts

    def _check_apart(self, parts: Sequence[Part]) -> None:
        """Raise if two tasks that are stepped side by side have one environment between them."""
        seen: dict[int, int] = {}
        for part in parts:
            for copy in part.env.envs if isinstance(part.env, Copies) else ():
                first = seen.setdefault(id(copy.unwrapped), part.task)
                if first != part.task:
                    self.abandon()
                    names = (self.tasks[first].name, self.tasks[part.task].name)
                    raise ValueError(gave_both(*names))

    def reset(
        self, part: Part, seed: int | None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every row of a part."""
        result = self._call(part.task, part.env.reset, seed=seed, options=options)
        self._check(part.task, reset_result_problem(result))
        obs, infos = result
        space, rows = part.env.single_observation_space, (part.env.num_envs,)
        self._check(part.task, observation_problem(space, obs, rows))
        return obs, infos

    def step(self, parts: Sequence[Part], actions: Sequence[Any]) -> list[Any]:
        """Step parts at the same time, each with its own actions."""
        for part, action in zip(parts, actions, strict=True):
            self._call(part.task, send, part, action)
        results = []
        for part, action in zip(parts, actions, strict=True):
            result = self._call(part.task, receive, part, action)
            if not isinstance(part.env, LOOKED_AT):
                space = part.env.single_observation_space
                self._check(part.task, batch_problem(space, part.env.num_envs, result))
            results.append(result)
        return results

    def own_masks(self, part: Part, length: int) -> Any:
        """Return the action masks that a task gives itself, a row for each copy; None: it has none.

        :param length: entries of each mask
        """
        key = (part.task, part.env.num_envs)
        if key not in self._masks:
            self._masks[key] = self._call(part.task, masks_of_copies, part.env)
        source = self._masks[key]
        if source is None:
            return None
        masks = self._call(part.task, source)
        self._check(part.task, mask_problem((part.env.num_envs, length), masks))
        return masks

    def state_dict(self) -> dict[tuple[int, int], Any]:
        """Return each environment's state by task and size, None for one that has none to give."""
        return {key: part_state(env) for key, env in self._envs.items()}

    def load_state_dict(self, state: dict[tuple[int, int], Any]) -> None:
        """Go on from a state; an environment without one is left as it is."""
        for key, saved in state.items():
            if saved is not None:
                load_part_state(self.env(*key), saved)

    def close(self) -> None:
        """Close all environments."""
        close_all([*(env.close for env in self._envs.values()), self._workers.close])

    def abandon(self) -> None:
        """Close all, whatever closing raises: what went wrong before that is to be heard."""
        for env in self._envs.values():
            with suppress(Exception):
                abandon(env)
        with suppress(Exception):
            self._workers.terminate()

    def _check(self, task: int, problem: str | None) -> None:
        if problem:
            self.abandon()
            reject(self.tasks[task], task, problem)

    def _call(self, task: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.abandon()
            reject(self.tasks[task], task, f"{type(error).__name__}: {error}", error)


def _make_one_of(
    tasks: Sequence[Task], render_mode: str | None, task: int, num_envs: int
) -> Copies:
    return make_copies(tasks[task], num_envs, render_mode)
