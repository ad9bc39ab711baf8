"""Processes that step the environments of all tasks between them: one per core, not one for each.

Gymnasium's AsyncVectorEnv starts a process for each environment. Where there are more environments
than cores, as with ten tasks, processes that hold several need less time and memory.
"""

from __future__ import annotations

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
from sb3_moe_envs.methods import results_of_all
from sb3_moe_envs.tasks import close_all
from sb3_moe_envs.vector.infos import stack
from sb3_moe_envs.vector.sync import InTurnVectorEnv, Rows, batch_of, restore_states, states_of

# A task's environments in a process: its index, how many, and a number that makes it unique.
Key = tuple[int, int, int]
# A function of the environments of a key, and its other arguments.
Call = tuple[Key, Callable[..., Any], tuple[Any, ...]]
Make = Callable[[int, int], InTurnVectorEnv]


class Request:
    """A call of some environments, and what comes of it.

    :param call: what to do
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.is_done, self.answer = False, None


class Worker:
    """Environments in this process, which answers requests as the others do.

    :param make: as of :class:`Workers`
    """

    def __init__(self, make: Make) -> None:
        self.num_envs = 0
        self.requests: list[Request] = []
        self._make = make
        self._envs: dict[Key, InTurnVectorEnv] = {}

    def begin(self, calls: list[Call]) -> None:
        """Begin with some calls, if that takes nobody's time here."""

    def finish(self, calls: list[Call]) -> list[Any]:
        """Return the results of these calls, errors among them."""
        return [_result(self._envs, self._make, call) for call in calls]

    def close(self, *, terminate: bool = False) -> None:
        """Close the environments; a process ends, with `terminate` whatever it is doing."""
        close_all(self._envs.values())


class Process(Worker):
    """Environments in another process."""

    def __init__(self, make: Make) -> None:
        super().__init__(make)
        self._round = 0
        context: Any = multiprocessing.get_context(_start_method())
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, self._pipe, CloudpickleWrapper(cast(Any, make)))
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, calls: list[Call]) -> None:
        """Send calls to the process."""
        self._round += 1
        self._talk(self._pipe.send, (self._round, calls))

    def finish(self, calls: list[Call]) -> list[Any]:
        """Wait for the results; those of a round that Ctrl-C interrupted are left out."""
        number, results = self._talk(self._pipe.recv)
        while number != self._round:
            number, results = self._talk(self._pipe.recv)
        return cast(list[Any], results)

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
    """Worker processes, one fewer than there are cores, started when they are needed.

    This process steps environments too, if there are more of them than workers: otherwise it would
    only wait, and two processes that wake at once often get the same core.

    Requests are collected and sent together when the first answer is wanted, in one message to each
    process, so that all work at the same time.

    :param make: builds environments of a task, from its index and their number, in the process
    """

    def __init__(self, make: Make) -> None:
        self._make = make
        self._here, self._processes = Worker(make), list[Process]()
        self._num_keys = 0

    def assign(self, task: int, num_envs: int) -> list[tuple[Worker, Key]]:
        """Spread a task's environments evenly, most of them to the process that has the fewest."""
        idle = sum(process.num_envs == 0 for process in self._processes)
        for _ in range(min(num_cores() - 1 - len(self._processes), num_envs - idle)):
            self._processes.append(Process(self._make))
        workers = [*self._processes, self._here]
        idlest = sorted(workers, key=lambda worker: worker.num_envs)[:num_envs]
        assigned = []
        for place, worker in enumerate(idlest):
            size = num_envs // len(idlest) + (place < num_envs % len(idlest))
            worker.num_envs += size
            self._num_keys += 1
            assigned.append((worker, (task, size, self._num_keys)))
        return assigned

    def answer(self, request: Request) -> Any:
        """Return the answer to a request, or raise the error that it is.

        :raises RuntimeError: if the process has ended
        :raises gymnasium.error.ClosedEnvironmentError: if it was closed, or interrupted by Ctrl-C
        """
        if not request.is_done:
            self._play()
        if not request.is_done:
            raise ClosedEnvironmentError("it was closed, by close() or an error, or interrupted")
        if isinstance(request.answer, BaseException):
            raise request.answer
        return request.answer

    def close(self, *, terminate: bool = False) -> None:
        """Close the environments, and end the processes; with `terminate`, whatever they do."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.close(terminate=terminate)
        here, self._here = self._here, Worker(self._make)
        here.close()

    def _play(self) -> None:
        rounds = []
        for worker in (self._here, *self._processes):
            # What Ctrl-C interrupts is not begun anew.
            requests, worker.requests = worker.requests, []
            if requests:
                rounds.append((worker, requests, [request.call for request in requests]))
        for worker, _, calls in rounds:
            worker.begin(calls)
        for worker, requests, calls in rounds:
            for request, answer in zip(requests, worker.finish(calls), strict=True):
                request.is_done, request.answer = True, answer


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
        self._requests: list[Request] = []
        vars(self).update(self._of_each(_attributes)[0])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment."""
        seeds = seed_of_each(seed, self.num_envs)
        answers = self._wait(self._ask(InTurnVectorEnv.reset_rows, self._split(seeds), options))
        observations, infos = zip(*answers, strict=True)
        batch = batch_of(self.single_observation_space, list(itertools.chain(*observations)))
        return batch, stack(self._by_row(infos), self.num_envs)

    def step_async(self, actions: Any) -> None:
        """Note a step."""
        own = self._split(list(iterate(self.action_space, actions)))
        self._requests = self._ask(InTurnVectorEnv.step_rows, own)

    def finish_rows(self) -> Rows:
        """Wait for the step that was noted."""
        *lists, infos, finals = zip(*self._wait(self._requests), strict=True)
        obs, rewards, terminated, truncated = (list(itertools.chain(*each)) for each in lists)
        by_row = self._by_row(infos), self._by_row(finals)
        return Rows(obs, rewards, terminated, truncated, *by_row)

    def render(self) -> tuple[Any, ...]:
        """Return an image of each environment."""
        return tuple(itertools.chain(*self._of_each(InTurnVectorEnv.render)))

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of each environment, or read an attribute."""
        return tuple(itertools.chain(*self._of_each(InTurnVectorEnv.call, name, *args)))

    def results_of_all(self, name: str) -> list[Any] | None:
        """Call a method of each environment; None: they have none."""
        results = self._of_each(results_of_all, name)
        return None if None in results else list(itertools.chain(*results))

    def state_dict(self) -> list[Any] | None:
        """Return the environments' states; None if one has none to give."""
        states = self._of_each(states_of)
        return None if None in states else list(itertools.chain(*states))

    def load_state_dict(self, states: list[Any]) -> None:
        """Go on from states, which as many environments in one process may have given too."""
        self._wait(self._ask(restore_states, self._split(states)))

    def _of_each(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        return self._wait(self._ask(function, None, *args))

    def _split(self, rows: Sequence[Any]) -> list[Any]:
        return [rows[own] for own in self._rows]

    def _ask(
        self, function: Callable[..., Any], own: Sequence[Any] | None, *args: Any
    ) -> list[Request]:
        """Ask every process, each with an argument of its own if there are any."""
        requests = []
        for place, (worker, key) in enumerate(self._chunks):
            first = () if own is None else (own[place],)
            requests.append(Request((key, function, (*first, *args))))
            worker.requests.append(requests[-1])
        return requests

    def _wait(self, requests: Sequence[Request]) -> list[Any]:
        return [self._workers.answer(request) for request in requests]

    def _by_row(self, chunks: Sequence[dict[int, Any]]) -> dict[int, Any]:
        pairs = zip(self._rows, chunks, strict=True)
        return {rows.start + row: each for rows, chunk in pairs for row, each in chunk.items()}


def _attributes(envs: InTurnVectorEnv) -> dict[str, Any]:
    names = ("metadata", "render_mode", "single_observation_space", "single_action_space")
    return {name: getattr(envs, name) for name in names}


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
    """Play calls until there is a None, or nobody left to ask."""
    others_end.close()
    # Ctrl-C reaches every process of a terminal; the one that asks will end the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make: Any = by_value.fn
    envs: dict[Key, InTurnVectorEnv] = {}
    with suppress(EOFError, OSError):
        while (message := pipe.recv()) is not None:
            number, calls = message
            pipe.send_bytes(_pickled(number, [_result(envs, make, call) for call in calls]))
    close_all(envs.values())


def _result(envs: dict[Key, InTurnVectorEnv], make: Make, call: Call) -> Any:
    key, function, args = call
    try:
        if key not in envs:
            envs[key] = make(*key[:2])
        return function(envs[key], *args)
    except Exception as error:
        return error


def _pickled(number: int, results: list[Any]) -> bytes:
    # An exception may be pickled and not be read again.
    results = [_sendable(each) if isinstance(each, Exception) else each for each in results]
    try:
        return pickle.dumps((number, results))
    except Exception:  # pickling other people's classes can raise anything
        return pickle.dumps((number, [_sendable(each) for each in results]))


def _sendable(result: Any) -> Any:
    if isinstance(result, Exception):
        result.add_note("In a worker process:\n" + "".join(traceback.format_exception(result)))
    try:
        pickle.loads(pickle.dumps(result))
    except Exception as problem:
        if isinstance(result, Exception):
            return RuntimeError(f"{type(result).__name__}: {result}")
        return TypeError(f"its result can't be sent between processes: {problem}")
    return result
