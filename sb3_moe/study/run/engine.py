"""Where cells run: one process each on this machine, or tasks of a Ray cluster (``ray_engine``)."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from sb3_moe.study.run.folder import LOG, CellFolder
from sb3_moe.study.run.locks import PATIENCE, BusyError, held
from sb3_moe.study.run.provenance import COMMAND, command
from sb3_moe.study.run.stopping import end_with_parent
from sb3_moe.study.spec.config import CellConfig

# One thread per process: networks of this size are faster so, and cells share the cores.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
# glibc would give the memory of an update back to the system, which hands it out page by page again
# in the next one: tens of thousands of faults a second.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
# Of a process that trains, wherever it runs.
OF_A_CELL = ONE_THREAD | KEPT_MEMORY


# The exit status of a process that found another one at work in its cell's folder.
BUSY = os.EX_TEMPFAIL


def child_environment(cache: Path) -> dict[str, str]:
    """Give the variables of a process that trains.

    :param cache: folder in which processes leave each other the games that jax has compiled
    """
    return OF_A_CELL | {
        COMMAND: command(),
        "JAX_COMPILATION_CACHE_DIR": str(cache.resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


class Engine(Protocol):
    """What starts cells and tells when they have ended."""

    @property
    def capacity(self) -> int:
        """How many cells run at a time."""
        ...

    def start(self, cell: CellConfig, path: Path) -> None:
        """Start a cell in a folder."""
        ...

    def ended(self) -> dict[str, str]:
        """Name the cells that have ended since the last call, one way or another.

        :return: with what there is to say of a process that ended early, else nothing
        """
        ...

    def stop(self) -> None:
        """End what is running; it can go on later from its last snapshot."""
        ...


def work(cell: Mapping[str, Any], path: str) -> None:
    """Train one cell in this process, and write down what went wrong if something did.

    :param cell: what to train
    :param path: its folder
    :raises BusyError: if another process works in the folder, and goes on to
    """
    folder = CellFolder(Path(path))
    with held(folder.path, PATIENCE):
        # The process that was waited for may have finished the cell.
        if folder.state().status != "done":
            _train(cell, folder)


def _train(cell: Mapping[str, Any], folder: CellFolder) -> None:
    try:
        import torch as th

        from sb3_moe.study.run.cell import train_cell

        th.set_num_threads(1)
        train_cell(CellConfig.from_dict(cell), folder)
    except Exception as error:
        folder.fail(error)


def _work_quietly(cell: Mapping[str, Any], path: str) -> None:
    """Do the same with the process's own output in a file, so that it doesn't mix with others'."""
    end_with_parent()
    # A terminal sends both to the whole group; the parent decides who stops.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = (Path(path) / LOG).open("a", buffering=1)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        work(cell, path)
    except BusyError as error:
        print(error, file=sys.stderr)
        sys.exit(BUSY)


def _ending(code: int | None) -> str:
    """Say how a process ended that left no word of it itself."""
    if not code:
        return ""
    if code == BUSY:
        return "another process is at work in its folder"
    if code > 0:
        return f"its process ended with exit status {code}, see {LOG}"
    names = {number.value: number.name for number in signal.Signals}
    cause = ", as when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {names.get(-code, f'signal {-code}')}{cause}"


def check_processes(processes: int | None) -> int:
    """Give the number of processes; as many as the cores that this process may use for None.

    :raises ValueError: if there are none
    """
    from sb3_moe_envs.vector.workers import num_cores

    processes = num_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    return processes


class LocalEngine:
    """One process per cell, started by spawn: where jax is loaded, fork hangs.

    :param processes: how many at a time; None: as many as the cores that it may use
    :param cache: see :func:`child_environment`
    :raises ValueError: if there are none
    """

    def __init__(self, processes: int | None, cache: Path) -> None:
        self.capacity = check_processes(processes)
        self._variables = child_environment(cache)
        self._context = mp.get_context("spawn")
        self._running: dict[str, SpawnProcess] = {}

    def start(self, cell: CellConfig, path: Path) -> None:
        """Start a process."""
        path.mkdir(parents=True, exist_ok=True)
        process = self._context.Process(
            target=_work_quietly,
            args=(cell.to_dict(), str(path)),
            name=cell.name,
            daemon=False,  # so that tasks, and workers of ours, may have processes of their own
        )
        with environment(self._variables):
            process.start()
        self._running[cell.name] = process

    def ended(self) -> dict[str, str]:
        """Collect the processes that are gone."""
        names = [name for name, process in self._running.items() if not process.is_alive()]
        return {name: _ending(self._running.pop(name).exitcode) for name in names}

    def stop(self) -> None:
        """Terminate the rest."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.join()
        self._running.clear()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for children started meanwhile, where the user set none."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
