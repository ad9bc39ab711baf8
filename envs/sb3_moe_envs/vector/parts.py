"""The vector environment of one task, as one part of a larger one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_moe_envs.closing import close_each
from sb3_moe_envs.snapshot import gives_state, own_state
from sb3_moe_envs.tasks import Task, spec_or_id
from sb3_moe_envs.vector.copies import restore_states, states_of
from sb3_moe_envs.vector.shown import ShownWorld

Vector = VectorEnv[Any, Any, Any]


# What `gymnasium.make` takes for itself, and the environments don't know.
_OF_SINGLE_COPIES = {"max_episode_steps", "disable_env_checker"}


class Part(NamedTuple):
    """A task's vector environment, and the rows of the whole that it makes up."""

    task: int
    rows: Any
    env: Vector


def make_part(
    task: Task, num_envs: int, render_mode: str | None, make_copies: Callable[[], Vector]
) -> Vector:
    """Build the vector environment of one task: its own, or else one that steps copies.

    :param make_copies: builds as many copies as `num_envs`, with SAME_STEP autoreset
    :raises ValueError: if the task's own vector environment resets otherwise, has another number of
        copies or writes over its observations
    """
    if task.vector_fn is not None:
        return _checked(task, task.vector_fn(num_envs), num_envs)
    if task.env_id is not None and is_batched(task):
        kwargs: dict[str, Any] = dict(task.kwargs)
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        own = gym.make_vec(spec_or_id(task.env_id), num_envs, **kwargs)
        return _checked(task, own, num_envs)
    return make_copies()


def is_batched(task: Task) -> bool:
    """Say whether a task has a vector environment of its own, which steps all copies at once.

    What ``gymnasium.make`` alone takes, such as a limit of steps, asks for single copies.
    """
    if task.vector_fn is not None:
        return True
    own = task.env_id is not None and _is_own(task.env_id)
    return own and not _OF_SINGLE_COPIES & set(task.kwargs)


def rows_of_task(tasks_B: np.ndarray, task: int) -> Any:
    """Return which rows play a task: a slice where they are next to each other."""
    rows = np.flatnonzero(tasks_B == task)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def in_order(parts: Sequence[Part]) -> bool:
    """Say whether the rows of the parts, one after the other, are those of the whole."""
    end = 0
    for part in parts:
        if not isinstance(part.rows, slice) or part.rows.start != end:
            return False
        end = part.rows.stop
    return True


def send(part: Part, actions: Any) -> None:
    """Let a part that can work in the background begin its step."""
    if hasattr(part.env, "step_async"):
        part.env.step_async(actions)


def receive(part: Part, actions: Any) -> Any:
    """Return the result of a part's step."""
    if hasattr(part.env, "step_async"):
        return part.env.step_wait()  # type: ignore[attr-defined]  # vector worlds with threads
    return part.env.step(actions)


def part_state(env: Vector) -> Any:
    """Return the state of a part, or None if it has none to give."""
    own: Any = env.unwrapped
    if _holds_more(env):
        return None
    if gives_state(own):
        return own_state(own)
    if isinstance(own, SyncVectorEnv):
        states = states_of(own)
        return None if any(state is None for state in states) else states
    return None


def load_part_state(env: Vector, state: Any) -> None:
    """Bring a part into a state."""
    own: Any = env.unwrapped
    if hasattr(own, "load_state_dict"):
        own.load_state_dict(state)
        return
    restore_states(own, state)


def _holds_more(env: Vector) -> bool:
    """Say whether a wrapper may have a state of its own, such as running statistics."""
    while isinstance(env, VectorWrapper):
        if not isinstance(env, ShownWorld):
            return True
        env = env.env
    return False


def _is_own(env_id: str) -> bool:
    spec = gym.registry.get(env_id.rpartition(":")[2])
    return spec is not None and spec.namespace == "SB3MoE" and spec.vector_entry_point is not None


def _checked(task: Task, env: Vector, num_envs: int) -> Vector:
    problem = _problem_of(env, num_envs)
    if problem:
        close_each([env])
        raise ValueError(f"`vector_fn` of {task.name!r} must {problem}")
    return env


def _problem_of(env: Vector, num_envs: int) -> str | None:
    """Say what a vector environment must do but doesn't, if anything."""
    base: Any = env.unwrapped
    mode = getattr(base, "autoreset_mode", env.metadata.get("autoreset_mode"))
    if mode is not AutoresetMode.SAME_STEP:
        return f"reset in the same step (autoreset_mode SAME_STEP), got {mode}"
    if env.num_envs != num_envs:
        return f"build num_envs={num_envs} copies, got {env.num_envs}"
    # Of Gymnasium's own: the next step would write over observations that were handed out.
    if getattr(base, "copy", True) is False:
        return "give new observations at each step (copy=True), got copy=False"
    return None
