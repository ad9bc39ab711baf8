"""Processes that step the copies of all tasks between them: one per core, not one per copy."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector.utils import CloudpickleWrapper

from sb3_moe_envs.closing import close_all
from sb3_moe_envs.vector.interrupts import uninterrupted

# A task's copies in a process: its index, how many, and a number that tells equal ones apart.
Key = tuple[int, int, int]
# What a worker is asked: a function of the copies, and its other arguments.
Request = tuple[Key, Callable[..., Any], tuple[Any, ...]]


class Ticket(NamedTuple):
    """A question that was asked, to be shown for its answer."""

    player: Player
    number: int


class Workers:
    """As many processes as there are cores, this one among them, started when they are needed.

    This one plays too, where there are more copies than other cores: it would only wait, and on two
    cores a system that wakes two processes at once often gives both the same one.

    What is asked is sent with the first wait for an answer, in one message to each process, so that
    all work at the same time and none waits for another to read.

    :param make: builds copies of a task, from its index and their number, in the process
    """

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self._make = make
        self._others: list[Other] = []
        self._here = Here(make)
        self._num_keys = 0

    def deal(self, task: int, num_copies: int) -> list[tuple[Player, Key]]:
        """Spread a task's copies evenly, most of them to the process that has the fewest."""
        while len(self._others) < num_cores() - 1 and self._must_grow(num_copies):
            self._others.append(Other(self._make))
        idlest = sorted(self._players(), key=lambda player: player.num_copies)[:num_copies]
        dealt = []
        for place, player in enumerate(idlest):
            size = num_copies // len(idlest) + (place < num_copies % len(idlest))
            player.num_copies += size
            self._num_keys += 1
            dealt.append((player, (task, size, self._num_keys)))
        return dealt

    def answer(self, ticket: Ticket) -> Any:
        """Return what a question was answered with.

        :raises RuntimeError: if the process has ended
        :raises gymnasium.error.ClosedEnvironmentError: if it was closed
        """
        if ticket.player not in self._players():
            raise ClosedEnvironmentError("its copies were closed, by close() or after an error")
        if not ticket.player.has_answered(ticket.number):
            for player in self._players():
                player.flush()
        return ticket.player.answer(ticket.number)

    def close(self) -> None:
        """Close the copies, and let the processes end."""
        close_all(player.close for player in self._dismissed())

    def terminate(self) -> None:
        """End the processes, whatever they are doing."""
        for player in self._dismissed():
            player.terminate()

    def _dismissed(self) -> list[Player]:
        """Return the processes that there were; from now on there are none but this one, idle."""
        players = self._players()
        self._others, self._here = [], Here(self._make)
        return players

    def _players(self) -> list[Player]:
        """List all processes, this one last: once asked it has no time for the others."""
        return [*self._others, self._here]

    def _must_grow(self, num_copies: int) -> bool:
        return sum(other.num_copies == 0 for other in self._others) < num_copies


class Player(ABC):
    """A process that plays copies: is asked many things at once, and gives as many answers."""

    def __init__(self) -> None:
        self.num_copies = 0
        self._asked = 0
        self._outbox: dict[int, Request] = {}
        self._inbox: dict[int, Any] = {}

    def ask(self, key: Key, function: Callable[..., Any], *args: Any) -> Ticket:
        """Note what is to be done with some copies."""
        self._asked += 1
        self._outbox[self._asked] = (key, function, args)
        return Ticket(self, self._asked)

    def flush(self) -> None:
        """Send what was noted, once: what Ctrl-C interrupts is not begun anew."""
        requests, self._outbox = self._outbox, {}
        if requests:
            self._send(requests)

    def has_answered(self, number: int) -> bool:
        """Say whether an answer is here already."""
        return number in self._inbox

    def answer(self, number: int) -> Any:
        """Return an answer, or raise the error that it is."""
        while not self.has_answered(number):
            self._receive()
        answer = self._inbox.pop(number)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @abstractmethod
    def close(self) -> None:
        """Close the copies, and let the process end."""

    @abstractmethod
    def terminate(self) -> None:
        """End the process, if it is another one."""

    @abstractmethod
    def _send(self, requests: dict[int, Request]) -> None: ...

    @abstractmethod
    def _receive(self) -> None:
        """Wait for answers to what was sent, and put them into the inbox."""


class Here(Player):
    """This process, asked like the others."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        super().__init__()
        self._copies = Made(make)

    def close(self) -> None:
        """Close the copies."""
        self._copies.close()

    def terminate(self) -> None:
        """Close the copies."""
        self._copies.close()

    def _send(self, requests: dict[int, Request]) -> None:
        for number, request in requests.items():
            self._inbox[number] = self._done(request)

    def _receive(self) -> None:
        raise RuntimeError("it was interrupted, and has no result")

    def _done(self, request: Request) -> Any:
        try:
            return self._copies.do(request)
        except Exception as error:
            return error


class Other(Player):
    """Another process."""

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        super().__init__()
        context: Any = multiprocessing.get_context(_start_method())
        self._pipe, theirs = context.Pipe()
        by_value = CloudpickleWrapper(cast(Any, make))
        self._process = context.Process(
            target=_work, args=(theirs, self._pipe, by_value), daemon=True
        )
        self._process.start()
        theirs.close()

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

    # Half a message, sent or read, would spoil all that come after it.

    def _send(self, requests: dict[int, Request]) -> None:
        with uninterrupted():
            self._take(self._pipe.send, requests)

    def _receive(self) -> None:
        self._take(self._pipe.poll, None)
        with uninterrupted():
            self._inbox |= self._take(self._pipe.recv)

    def _take(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except (EOFError, OSError) as error:
            self._process.join(timeout=1)
            raise RuntimeError(
                f"the process that plays it ended, with exit code {self._process.exitcode}"
            ) from error


class Made:
    """The copies of a process, built when something is first asked of them.

    :param make: as of :class:`Workers`
    """

    def __init__(self, make: Callable[[int, int], Any]) -> None:
        self._make = make
        self._copies: dict[Key, Any] = {}

    def do(self, request: Request) -> Any:
        """Return what a function of some copies gives."""
        key, function, args = request
        if key not in self._copies:
            self._copies[key] = self._make(*key[:2])
        return function(self._copies[key], *args)

    def close(self) -> None:
        """Close all of them."""
        close_all(each.close for each in self._copies.values())


def _start_method() -> str | None:
    """Choose how processes start: a fork could hang, as with jax, or lack the GPU in use here."""
    torch = sys.modules.get("torch")
    bears_no_fork = "jax" in sys.modules or (torch is not None and torch.cuda.is_initialized())
    there = "forkserver" in multiprocessing.get_all_start_methods()  # Windows never forks
    return "forkserver" if bears_no_fork and there else None


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
    make: Any = by_value.fn
    copies = Made(make)
    try:
        while (requests := pipe.recv()) is not None:
            _send(pipe, {number: _answer(copies, each) for number, each in requests.items()})
    except (EOFError, OSError):
        pass
    copies.close()


def _answer(copies: Made, request: Request) -> Any:
    try:
        return copies.do(request)
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _sendable(error)


def _send(pipe: Connection, answers: dict[int, Any]) -> None:
    """Send answers, and say of those that can't be sent why not."""
    try:
        pipe.send(answers)
    except OSError:  # nobody listens
        raise
    except Exception:
        pipe.send({number: _or_why_not(each) for number, each in answers.items()})


def _or_why_not(answer: Any) -> Any:
    try:
        pickle.dumps(answer)
    except Exception as error:
        return TypeError(f"what it returned can't be sent between processes: {error}")
    return answer


def _sendable(error: Exception) -> Exception:
    """Return an error itself, if it survives the way to another process, or its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
