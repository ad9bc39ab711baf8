"""Processes that step the copies of all tasks between them: one per core, not one per copy."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

from gymnasium.vector.utils import CloudpickleWrapper

# A task's copies in a process: its index, how many, and a number that tells equal ones apart.
Key = tuple[int, int, int]
# What a worker is asked: a function of the copies, and its other arguments.
Request = tuple[Key, Callable[..., Any], tuple[Any, ...]]


class Ticket(NamedTuple):
    """A question that was asked, to be shown for its answer."""

    worker: Worker
    number: int


class Workers:
    """As many processes as there are cores, started when they are needed.

    What is asked is sent with the first wait for an answer, in one message to each process, so that
    all work at the same time and none waits for another to read.

    :param make: builds copies of a task, from its index and their number, in the process
    """

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self._make = make
        self._workers: list[Worker] = []
        self._num_keys = 0

    def deal(self, task: int, num_copies: int) -> list[tuple[Worker, Key]]:
        """Spread a task's copies evenly, most of them to the process that has the fewest."""
        while len(self._workers) < num_cores() and self._must_grow(num_copies):
            self._workers.append(Worker(self._make))
        idlest = sorted(self._workers, key=lambda worker: worker.num_copies)[:num_copies]
        dealt = []
        for place, worker in enumerate(idlest):
            size = num_copies // len(idlest) + (place < num_copies % len(idlest))
            worker.num_copies += size
            self._num_keys += 1
            dealt.append((worker, (task, size, self._num_keys)))
        return dealt

    def answer(self, ticket: Ticket) -> Any:
        """Return what a question was answered with.

        :raises RuntimeError: if the process has ended
        """
        for worker in self._workers:
            worker.flush()
        return ticket.worker.answer(ticket.number)

    def close(self) -> None:
        """Let the processes close their copies and end."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def terminate(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.terminate()
        self._workers = []

    def _must_grow(self, num_copies: int) -> bool:
        return sum(worker.num_copies == 0 for worker in self._workers) < num_copies


class Worker:
    """One process, as seen from outside."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        # A process that has loaded jax hangs when it forks.
        context = multiprocessing.get_context("forkserver" if "jax" in sys.modules else None)
        self._pipe, theirs = context.Pipe()
        by_value = CloudpickleWrapper(cast(Any, make))
        self._process = context.Process(
            target=_work, args=(theirs, self._pipe, by_value), daemon=True
        )
        self._process.start()
        theirs.close()
        self.num_copies = 0
        self._asked = self._answered = 0
        self._outbox: list[Request] = []
        self._inbox: dict[int, Any] = {}

    def ask(self, key: Key, function: Callable[..., Any], *args: Any) -> Ticket:
        """Note what is to be done with some copies."""
        self._outbox.append((key, function, args))
        self._asked += 1
        return Ticket(self, self._asked)

    def flush(self) -> None:
        """Send what was noted."""
        if self._outbox:
            self._take(self._pipe.send, self._outbox)
            self._outbox = []

    def answer(self, number: int) -> Any:
        """Return an answer, or raise the error that it is."""
        while number not in self._inbox:
            for answer in self._take(self._pipe.recv):
                self._answered += 1
                self._inbox[self._answered] = answer
        answer = self._inbox.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Let the process end, and end it if it doesn't."""
        try:
            self._pipe.send(None)
            self._process.join(timeout=5)
        except OSError:
            pass
        self.terminate()

    def terminate(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _take(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except (EOFError, OSError) as error:
            self._process.join(timeout=1)
            raise RuntimeError(
                f"the process that plays it ended, with exit code {self._process.exitcode}"
            ) from error


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(pipe: Connection, others_end: Connection, by_value: CloudpickleWrapper) -> None:
    """Answer questions until there is a None, or nobody left to ask."""
    others_end.close()
    # Ctrl-C reaches every process of a terminal; the one that asks will end the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    copies: dict[Key, Any] = {}
    make: Any = by_value.fn
    try:
        while (requests := pipe.recv()) is not None:
            pipe.send([_answer(copies, make, *request) for request in requests])
    except (EOFError, OSError):
        pass
    for each in copies.values():
        each.close()


def _answer(
    copies: dict[Key, Any],
    make: Callable[[int, int], Any],
    key: Key,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> Any:
    try:
        if key not in copies:
            copies[key] = make(*key[:2])
        return function(copies[key], *args)
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """Return an error itself, if it survives the way to another process, or its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
