"""Processes that share the environments of all tasks: one process per core.

Gymnasium's AsyncVectorEnv starts a process for each environment. With ten Meta-World tasks on two
cores, processes that hold several environments took 0.7 times its processor time and half its
memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from sb3_moe_envs.tasks import close_all
from sb3_moe_envs.vector.groups import Group, InTurnVectorEnv
from sb3_moe_envs.vector.infos import Rows

# A function to call with a vector environment, and other arguments.
Call = tuple[Callable[..., Any], tuple[Any, ...]]
Make = Callable[[int, int], InTurnVectorEnv]


class Process:
    """A process that holds vector environments and calls functions with them.

    Each vector environment has at most one call at a time.

    :param make: as in :class:`Workers`
    """

    def __init__(self, make: Make) -> None:
        self.num_envs = 0
        self.num_vectors = 0
        #: the calls that :meth:`play` sends, by the vector environment's number, as the answers
        self.noted = dict[int, Call]()
        self._answers = dict[int, Any]()
        self._round = 0
        context: Any = multiprocessing.get_context(_start_method())
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._pipe, CloudpickleWrapper(cast(Any, make)))
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def play(self) -> None:
        """Send the noted calls; answers to earlier calls, which Ctrl-C interrupted, are dropped."""
        calls = self.noted
        self.noted = {}
        if calls:
            self._round += 1
            self._answers.clear()
            self._talk(self._pipe.send, (self._round, calls))

    def answer(self, number: int) -> Any:
        """Wait for a vector environment's answer; return it, or raise it if it is an error.

        :raises RuntimeError: if the process has ended
        """
        while number not in self._answers:
            of_round, answers = self._talk(self._pipe.recv)
            if of_round == self._round:
                self._answers.update(answers)
        answer = self._answers.pop(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Let the process close its environments and end; end it if it doesn't."""
        with suppress(OSError):
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
                f"its worker process ended with exit code {self._process.exitcode}"
            ) from error


class Workers:
    """Worker processes, one fewer than there are cores, started when they are needed.

    This process steps environments too, if there are more of them than workers. With a worker for
    each core it would only wait, and two processes that wake at once often get the same core.

    :param make: builds environments of a task, from the task's index and their number; it is called
        in the process that steps them
    :param is_parallel: whether there are any; if not, this process steps all environments
    """

    def __init__(self, make: Make, *, is_parallel: bool) -> None:
        self._make = make
        self._num_here = 0
        self._most = num_cores() - 1 if is_parallel else 0
        self._processes: list[Process] = []

    def groups(self, task: int, num_envs: int) -> Groups:
        """Build a task's environments, spread evenly over the processes.

        Processes that have the fewest environments so far come first.
        """
        for _ in range(min(self._most - len(self._processes), num_envs)):
            self._processes.append(Process(self._make))
        loads = [*(process.num_envs for process in self._processes), self._num_here]
        idlest = np.argsort(loads, kind="stable")[:num_envs].tolist()
        groups: Groups = []
        for rank, place in enumerate(idlest):
            size = num_envs // len(idlest) + (rank < num_envs % len(idlest))
            if place < len(self._processes):
                groups.append(WorkerGroup(self._processes[place], task, size))
            else:
                self._num_here += size
                groups.append(Group(self._make(task, size)))
        return groups

    def play(self) -> None:
        """Let all processes begin the noted calls."""
        for process in self._processes:
            process.play()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()


class WorkerGroup:
    """Environments of one task in another process, which closes them.

    :param process: the process that steps them
    :param task: the task's index
    :param num_envs: number of environments
    """

    begins = True

    def __init__(self, process: Process, task: int, num_envs: int) -> None:
        self._process = process
        self._number = process.num_vectors
        self.num_envs = num_envs
        process.num_envs += num_envs
        process.num_vectors += 1
        self.ask(InTurnVectorEnv, task, num_envs)

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with the vector environment as its first argument, in its process."""
        self._process.noted[self._number] = function, args
        self._process.play()
        return self._process.answer(self._number)

    def begin(self, actions: Any) -> None:
        """Note a step, which begins together with those of the process's other environments."""
        self._process.noted[self._number] = InTurnVectorEnv.play, (actions,)

    def finish(self, actions: Any) -> Rows:
        """Wait for the step that was noted."""
        return self._process.answer(self._number)

    def close(self) -> None:
        """Do nothing: the process closes its environments when it ends."""


# A task's environments, in this process and in others.
Groups = list[Group | WorkerGroup]


def _start_method() -> str | None:
    """Choose how processes start.

    A fork can hang once jax is imported, and can't use a GPU that this process has begun to use.
    """
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
    """Answer calls until None arrives, or the process that asks is gone, as after an error."""
    others_end.close()
    # Ctrl-C reaches every process of a terminal: the process that asks ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make: Any = by_value.fn
    vectors: list[InTurnVectorEnv] = []
    with suppress(EOFError, OSError):
        while (message := pipe.recv()) is not None:
            of_round, calls = message
            answers = {number: _answer(vectors, make, number, calls[number]) for number in calls}
            pipe.send((of_round, answers))
    close_all(vector.close for vector in vectors)


def _answer(vectors: list[InTurnVectorEnv], make: Make, number: int, call: Call) -> Any:
    function, args = call
    try:
        if number < len(vectors):
            return function(vectors[number], *args)
        vectors.append(make(*args))  # a vector environment's first call builds it
        return None
    except Exception as error:  # it may not be picklable: its text is sent
        found = RuntimeError(f"{type(error).__name__}: {error}")
        found.add_note("Where it was raised:\n" + "".join(traceback.format_exception(error)))
        return found
