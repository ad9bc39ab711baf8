"""A task: how to build an environment, and what to call it."""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym

from sb3_moe_envs.checks import Env

EnvFn = Callable[[], Env]


class TaskError(RuntimeError):
    """A task misbehaved; the message names the task, its index and what was wrong."""


@dataclass(frozen=True)
class Task:
    """One environment among several, given by a Gymnasium id or a callable that builds it.

    :param name: what logs and tables call the task
    :param env_id: Gymnasium id, or None where `env_fn` builds the environment
    :param kwargs: arguments for `gymnasium.make`
    :param env_fn: builds the environment; takes no arguments
    """

    name: str
    env_id: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    env_fn: EnvFn | None = None

    def __post_init__(self) -> None:
        if (self.env_id is None) == (self.env_fn is None):
            raise ValueError(
                f"a task takes either `env_id` or `env_fn`, got env_id={self.env_id!r} "
                f"and env_fn={self.env_fn!r}"
            )

    def make(self, render_mode: str | None = None) -> Env:
        """Build one environment.

        An `env_fn` isn't given the render mode, so its environment may render nothing.
        """
        if self.env_fn is not None:
            env = self.env_fn()
            _require_new(env, self.name)
            return env
        assert self.env_id is not None
        # `CheckedTask` checks what the environment returns, at less cost.
        kwargs = {"disable_env_checker": True, **self.kwargs}
        if render_mode is not None:
            kwargs["render_mode"] = render_mode
        return gym.make(self.env_id, **kwargs)


# The living environments that `env_fn`s have returned, by `id()`.
_GIVEN: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _require_new(env: Env, name: str) -> None:
    """Raise ValueError if an `env_fn` has returned this environment before, and remember it.

    Otherwise two slots, or training and evaluation, would step the same environment.
    """
    inner = env.unwrapped
    if _GIVEN.get(id(inner)) is inner:
        raise ValueError(
            f"`env_fn` of task {name!r} must build a new environment each time, as in "
            f"lambda: {type(inner).__name__}(...), and returned one a second time"
        )
    _GIVEN[id(inner)] = inner


def as_tasks(tasks: Any) -> list[Task]:
    """Read a list of ids, (id, kwargs) pairs, callables and tasks.

    :raises TypeError: if it is no list, or an entry is none of these
    :raises ValueError: if the list is empty
    """
    if isinstance(tasks, str) or not isinstance(tasks, Sequence):
        raise TypeError(f"`tasks` must be a suite's name or a list of tasks, got {tasks!r}")
    if not tasks:
        raise ValueError("`tasks` must hold at least one task, got an empty list")
    return _unique([_as_task(task, index) for index, task in enumerate(tasks)])


def _as_task(task: Any, index: int) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        return Task(_short_name(task), env_id=task)
    if callable(task):
        name = getattr(task, "__name__", "<lambda>")
        return Task(f"task{index}" if name == "<lambda>" else name, env_fn=task)
    match task:
        case [str(env_id), Mapping() as kwargs]:
            return Task(_short_name(env_id, kwargs.get("game")), env_id=env_id, kwargs=dict(kwargs))
    raise TypeError(
        f"`tasks[{index}]` must be a Gymnasium id, an (id, kwargs) pair, a callable without "
        f"arguments or sb3_moe_envs.Task(name, env_fn=a callable), got {task!r}"
    )


def _short_name(env_id: str, game: object = None) -> str:
    """Return `Name` for `module:Namespace/Name-v0`, or `Name-game` if a game is given."""
    name = re.sub(r"-v\d+$", "", env_id.rpartition(":")[2].rpartition("/")[2])
    return name if game is None else f"{name}-{game}"


def _unique(tasks: list[Task]) -> list[Task]:
    """Make equal names of tasks different, first by the tasks' arguments, then by a number."""
    names = [task.name for task in tasks]
    counts = Counter[str]()
    unique = []
    for task in tasks:
        name = task.name
        if names.count(name) > 1 and task.kwargs:
            arguments = ",".join(f"{key}={value}" for key, value in task.kwargs.items())
            name = f"{name}({arguments})"
        counts[name] += 1
        number = f"#{counts[name]}" if counts[name] > 1 else ""
        unique.append(replace(task, name=name + number))
    return unique


def called(task: Task, index: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of a task's environment.

    :raises TaskError: if the function raises; the message names the task
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        problem = f"task {index} ({task.name!r}): {type(error).__name__}: {error}"
        raise TaskError(problem) from error


def built(task: Task, index: int, build: Callable[..., Any], *args: Any) -> Any:
    """Call a function that builds a part of a task.

    :raises ValueError: if the function raises; the message names the task and the reason
    """
    try:
        return build(*args)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        is_atari = re.search(r"ALE/|NoFrameskip|Atari-", task.env_id or "")
        if is_atari and isinstance(error, gym.error.Error):
            reason += " Atari games are SB3MoE/Atari-<game>-v0, or ['SB3MoE/Atari-v0', {game: ...}]"
        raise ValueError(f"`tasks[{index}]` ({task.name!r}) can't be built: {reason}") from error


def close_all(closes: Iterable[Callable[[], Any]]) -> None:
    """Call all of these functions, even if one raises."""
    with ExitStack() as stack:
        for close in closes:
            stack.callback(close)
