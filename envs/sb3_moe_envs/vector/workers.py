"""Processes that step the environments of all tasks between them: one per core, not one for each.

Gymnasium's AsyncVectorEnv starts a process for each environment. Where there are more environments
than cores, as with ten tasks, processes that hold several are faster and take less memory.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, cast

from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space, iterate

from sb3_moe_envs.checks import Options, ResetResult, Seed, seed_of_each
from sb3_moe_envs.closing import close_all
from sb3_moe_envs.methods import methods_of_all
from sb3_moe_envs.vector.infos import stack
from sb3_moe_envs.vector.sync import (
    InTurnVectorEnv,
    Rows,
    batch_of,
    restore_states,
    states_of,
)

# A task's environments in a process: its index, how many, and a number that makes it unique.
Key = tuple[int, int, int]
# A function of the environments of a key, and its other arguments.
Request = tuple[Key, Callable[..., Any], tuple[Any, ...]]
Make = Callable[[int, int], InTurnVectorEnv]


# A worker and the number of a request: exchanged for the answer.
Ticket = tuple["Worker", int]


class Worker:
    """Environments in this process, which answers requests as the others do.

    :param make: as of :class:`Workers`
    """

    def __init__(self, make: Make) -> None:
        self.num_envs = 0
        self._make = make
        self._envs: dict[Key, InTurnVectorEnv] = {}
        self._asked = 0
        self._requests: dict[int, Request] = {}
        self._answers: dict[int, Any] = {}

    def ask(self, key: Key, function: Callable[..., Any], *args: Any) -> Ticket:
        """Note a request."""
        self._asked += 1
        self._requests[self._asked] = (key, function, args)
        return self, self._asked

    def send(self) -> None:
        """Begin with what was noted, once: what Ctrl-C interrupts is not begun anew."""
        requests, self._requests = self._requests, {}
        for number, request in requests.items():
            self._answers[number] = _answer(self._envs, self._make, request)

    def answer(self, number: int) -> Any:
        """Return an answer, or raise the error that it is."""
        if number not in self._answers:
            raise RuntimeError("the request was interrupted, and has no result")
        answer = self._answers.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self, *, terminate: bool = False) -> None:
        """Close the environments; a process ends, with `terminate` whatever it is doing."""
        close_all(env.close for env in self._envs.values())


class Process(Worker):
    """Environments in another process."""

    def __init__(self, make: Make) -> None:
        super().__init__(make)
        context: Any = multiprocessing.get_context(_start_method())
        self._pipe, theirs = context.Pipe()
        by_value = CloudpickleWrapper(cast(Any, make))
        arguments = (theirs, self._pipe, by_value)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def send(self) -> None:
        """Send what was noted."""
        requests, self._requests = self._requests, {}
        if requests:
            self._talk(self._pipe.send, requests)

    def answer(self, number: int) -> Any:
        """Wait for an answer."""
        while number not in self._answers:
            self._answers |= self._talk(self._pipe.recv)
        return super().answer(number)

    def close(self, *, terminate: bool = False) -> None:
        """Let the process end, and end it if it doesn't."""
        with suppress(OSError):
            if not terminate:
                self._pipe.send(None)
                self._process.join(timeout=5)
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _talk(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except (EOFError, OSError) as error:
            self._process.join(timeout=1)
            raise RuntimeError(
                f"the process that plays it ended, with exit code {self._process.exitcode}"
            ) from error


class Workers:
    """As many processes as there are cores, this one among them, started when they are needed.

    This one plays too, where there are more environments than other cores: it would only wait, and
    on two cores a system that wakes two processes at once often gives both the same one.

    All requests are sent with the first wait for an answer, in one message to each process, so that
    all work at the same time and none waits for another to read.

    :param make: builds environments of a task, from its index and their number, in the process
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._all: list[Worker] = [Worker(make)]
        self._num_keys = 0

    def assign(self, task: int, num_envs: int) -> list[tuple[Worker, Key]]:
        """Spread a task's environments evenly, most of them to the process that has the fewest."""
        idle = sum(worker.num_envs == 0 for worker in self._all[:-1])
        for _ in range(min(num_cores() - len(self._all), num_envs - idle)):
            self._all.insert(-1, Process(self._make))
        idlest = sorted(self._all, key=lambda worker: worker.num_envs)[:num_envs]
        assigned = []
        for place, worker in enumerate(idlest):
            size = num_envs // len(idlest) + (place < num_envs % len(idlest))
            worker.num_envs += size
            self._num_keys += 1
            assigned.append((worker, (task, size, self._num_keys)))
        return assigned

    def answer(self, ticket: Ticket) -> Any:
        """Return the answer to a request.

        :raises RuntimeError: if the process has ended
        :raises gymnasium.error.ClosedEnvironmentError: if it was closed
        """
        asked, number = ticket
        if asked not in self._all:
            raise ClosedEnvironmentError("it was closed, by close() or after an error")
        for worker in self._all:  # this process last: it has no time for the others afterwards
            worker.send()
        return asked.answer(number)

    def close(self, *, terminate: bool = False) -> None:
        """Close the environments, and end the processes; with `terminate`, whatever they do."""
        workers, self._all = self._all, [Worker(self._make)]
        close_all(functools.partial(each.close, terminate=terminate) for each in workers)


class WorkerVectorEnv(VectorEnv[Any, Any, Any]):
    """Environments of one task, side by side in the processes of :class:`Workers`.

    The processes close what they hold, so closing this does nothing.

    :param workers: which play them
    :param task: the task's index
    :param num_envs: number of environments
    """

    def __init__(self, workers: Workers, task: int, num_envs: int) -> None:
        self._workers, self.num_envs = workers, num_envs
        self._chunks = workers.assign(task, num_envs)
        sizes = [size for _, (_, size, _) in self._chunks]
        ends = itertools.accumulate(sizes)
        self._rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._tickets: list[Ticket] = []
        worker, key = self._chunks[0]
        vars(self).update(workers.answer(worker.ask(key, _attributes)))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment."""
        observations, infos = self.reset_rows(seed_of_each(seed, self.num_envs, options), options)
        return batch_of(self.single_observation_space, observations), stack(infos, self.num_envs)

    def reset_rows(self, seeds: Sequence[int | None], options: Any) -> tuple[list[Any], Any]:
        """Start an episode in every environment; return observations, and infos by row."""
        asked = self._ask(InTurnVectorEnv.reset_rows, [seeds[rows] for rows in self._rows], options)
        observations, infos = zip(*self._wait(asked), strict=True)
        return list(itertools.chain(*observations)), self._by_row(infos)

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        each = list(iterate(self.action_space, actions))
        self._tickets = self._ask(InTurnVectorEnv.step_rows, [each[rows] for rows in self._rows])

    def finish_rows(self) -> Rows:
        """Wait for the step that has begun."""
        *lists, infos, finals = zip(*self._wait(self._tickets), strict=True)
        obs, rewards, terminated, truncated = (list(itertools.chain(*each)) for each in lists)
        by_row = self._by_row(infos), self._by_row(finals)
        return Rows(obs, rewards, terminated, truncated, *by_row)

    def render(self) -> tuple[Any, ...]:
        """Return an image of each environment."""
        return tuple(itertools.chain(*self._of_each(InTurnVectorEnv.render)))

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of each environment, or read an attribute."""
        return tuple(itertools.chain(*self._of_each(InTurnVectorEnv.call, name, *args)))

    def methods_of_all(self, name: str) -> Callable[[], list[Any]] | None:
        """Return what calls a method of each environment; None: they have none."""
        if not all(self._of_each(_have_methods, name)):
            return None
        return lambda: list(itertools.chain(*self._of_each(_call_methods, name)))

    def state_dict(self) -> list[Any] | None:
        """Return the environments' states; None if one has none to give."""
        states = self._of_each(states_of)
        return None if None in states else list(itertools.chain(*states))

    def load_state_dict(self, states: list[Any]) -> None:
        """Go on from states, which as many environments in one process may have given too."""
        self._wait(self._ask(restore_states, [states[rows] for rows in self._rows]))

    def _of_each(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        return self._wait([worker.ask(key, function, *args) for worker, key in self._chunks])

    def _ask(self, function: Callable[..., Any], own: Sequence[Any], *args: Any) -> list[Ticket]:
        """Ask every process, each with an argument of its own."""
        chunks = zip(self._chunks, own, strict=True)
        return [worker.ask(key, function, each, *args) for (worker, key), each in chunks]

    def _wait(self, tickets: Sequence[Ticket]) -> list[Any]:
        return [self._workers.answer(ticket) for ticket in tickets]

    def _by_row(self, chunks: Sequence[dict[int, Any]]) -> dict[int, Any]:
        pairs = zip(self._rows, chunks, strict=True)
        return {rows.start + row: each for rows, chunk in pairs for row, each in chunk.items()}


def _attributes(envs: InTurnVectorEnv) -> dict[str, Any]:
    names = ("metadata", "render_mode", "single_observation_space", "single_action_space")
    return {name: getattr(envs, name) for name in names}


def _have_methods(envs: InTurnVectorEnv, name: str) -> bool:
    return methods_of_all(envs, name) is not None


def _call_methods(envs: InTurnVectorEnv, name: str) -> list[Any]:
    methods = methods_of_all(envs, name)
    assert methods is not None
    return methods()


def _start_method() -> str | None:
    """Choose how processes start: a fork could hang, as with jax, or lack the GPU in use here."""
    torch = sys.modules.get("torch")
    no_fork = "jax" in sys.modules or (torch is not None and torch.cuda.is_initialized())
    has_server = "forkserver" in multiprocessing.get_all_start_methods()  # Windows never forks
    return "forkserver" if no_fork and has_server else None


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(pipe: Connection, others_end: Connection, by_value: CloudpickleWrapper) -> None:
    """Answer requests until there is a None, or nobody left to ask."""
    others_end.close()
    # Ctrl-C reaches every process of a terminal; the one that asks will end the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make: Any = by_value.fn
    envs: dict[Key, InTurnVectorEnv] = {}
    try:
        while (requests := pipe.recv()) is not None:
            pipe.send_bytes(
                _pickled({number: _answer(envs, make, each) for number, each in requests.items()})
            )
    except (EOFError, OSError):
        pass
    close_all(each.close for each in envs.values())


def _answer(envs: dict[Key, InTurnVectorEnv], make: Make, request: Request) -> Any:
    key, function, args = request
    try:
        if key not in envs:
            envs[key] = make(*key[:2])
        return function(envs[key], *args)
    except Exception as error:
        return error


def _pickled(answers: dict[int, Any]) -> bytes:
    """Pickle answers; one that can't be sent becomes the error that says so."""
    for number, answer in answers.items():
        if isinstance(answer, Exception):
            answer.add_note("In a worker process:\n" + "".join(traceback.format_exception(answer)))
            if _problem_of_sending(answer):
                answers[number] = RuntimeError(f"{type(answer).__name__}: {answer}")
    try:
        return pickle.dumps(answers)
    except Exception:  # pickling other people's classes can raise anything
        for number, answer in answers.items():
            if problem := _problem_of_sending(answer):
                answers[number] = TypeError(
                    f"its result can't be sent between processes: {problem}"
                )
        return pickle.dumps(answers)


def _problem_of_sending(answer: Any) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(answer))
    except Exception as error:
        return error
    return None
