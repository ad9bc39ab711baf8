"""Where runs are trained: processes of this machine, a Ray cluster, or SLURM."""

from __future__ import annotations

import logging
import math
import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from sb3_moe.extras import require
from sb3_moe.study.run.folder import LOG, CellFolder
from sb3_moe.study.run.processes import PATIENCE, BusyError, end_with_parent, held
from sb3_moe.study.run.provenance import COMMAND, command
from sb3_moe.study.spec.config import CellConfig

# One thread per process: networks of this size are faster so, and runs share the cores.
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

# Exit statuses: of a process that found another one at work in its run's folder, and of one that
# could not even write down its error.
BUSY, UNWRITTEN = 75, 74


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


class Engine(Protocol):
    """What starts runs and tells when they have ended."""

    @property
    def capacity(self) -> int:
        """How many run at a time."""
        ...

    def start(self, cell: CellConfig, path: Path) -> None:
        """Start a run in a folder."""
        ...

    def ended(self) -> dict[str, str]:
        """Name the runs that have ended since the last call, one way or another.

        :return: with what there is to say of a process that ended early, else nothing
        """
        ...

    def stop(self) -> None:
        """End what is running; it can go on later from its last snapshot."""
        ...


def work(cell: Mapping[str, Any], path: str) -> None:
    """Train one run in this process, and write down what went wrong if something did.

    :param cell: what to train
    :param path: its folder
    :raises BusyError: if another process works in the folder, and goes on to
    """
    folder = CellFolder(Path(path))
    with held(folder.path, PATIENCE):
        # The process that was waited for may have finished the run.
        if folder.state().status == "done":
            return
        try:
            import torch as th

            from sb3_moe.study.run.cell import train_cell

            th.set_num_threads(1)
            train_cell(CellConfig.from_dict(cell), folder)
        except Exception as error:
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = path  # a full disk says so at a write, which knows no name
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
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(UNWRITTEN)


def _ending(code: int | None) -> str:
    """Say how a process ended that left no word of it itself."""
    if not code:
        return ""
    if code == BUSY:
        return "another process is at work in its folder"
    if code == UNWRITTEN:
        return "its process could not write into its folder: is the disk full?"
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
    """One process per run, started by spawn: where jax is loaded, fork hangs.

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


class RayEngine:
    """Tasks of a Ray cluster, with results in a folder that all nodes see.

    A run on a node that is lost runs again on another, from its last snapshot.

    :param address: of the cluster; None takes the one that Ray finds on this machine, or starts
        one; ``"local"`` starts one in any case
    :param cpus: CPUs per run
    :param gpus: GPUs per run, a fraction too
    :param retries: how often a run whose node or process is lost starts again
    """

    def __init__(
        self, address: str | None = None, cpus: float = 1, gpus: float = 0, retries: int = 3
    ) -> None:
        require("RayEngine", "ray")
        import ray

        self._ray: Any = ray
        # Ray's own handler would leave at once, before the study has said what is finished.
        handler = signal.getsignal(signal.SIGTERM)
        self._ray.init(
            address=address,
            runtime_env={"env_vars": OF_A_CELL | {COMMAND: command()}},
            log_to_driver=False,
            include_dashboard=False if address in (None, "local") else None,
            logging_level=logging.WARNING,
        )
        signal.signal(signal.SIGTERM, handler)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(work)
        self._cpus = cpus
        self._running: dict[Any, str] = {}

    @property
    def capacity(self) -> int:
        """Leave the queue to Ray: it knows which nodes come and go."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1) / self._cpus))

    def start(self, cell: CellConfig, path: Path) -> None:
        """Hand a run to the cluster."""
        reference = self._task.remote(cell.to_dict(), str(path.resolve()))
        self._running[reference] = cell.name

    def ended(self) -> dict[str, str]:
        """Collect the tasks that Ray says are over."""
        if not self._running:
            return {}
        pending = list(self._running)
        ready, _ = self._ray.wait(pending, num_returns=len(pending), timeout=0)
        return {self._running.pop(reference): self._ending(reference) for reference in ready}

    def _ending(self, reference: Any) -> str:
        """Say what ended a task that left no word of it itself."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return str(getattr(error, "cause", error)).strip().partition("\n")[0]
        return ""

    def stop(self) -> None:
        """Cancel the rest, and let go of the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


class _Work:
    """What a SLURM job does; one that reaches its time limit is queued again and goes on."""

    def __call__(self, cell: Mapping[str, Any], path: str) -> None:
        work(cell, path)

    def checkpoint(self, cell: Mapping[str, Any], path: str) -> Any:
        """Say what a job does that submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell, path)


class SlurmEngine:
    """Jobs of SLURM through submitit, with results in a folder that all nodes see.

    :param logs: the folder of submitit's files
    :param cpus: CPUs per run
    :param gpus: GPUs per run
    :param cluster: ``"slurm"``, or ``"local"`` for processes of this machine; None: SLURM if it is
        here
    :param parameters: further ones of submitit's ``update_parameters``, such as ``timeout_min`` and
        ``slurm_partition``
    """

    def __init__(
        self,
        logs: Path,
        cpus: float = 1,
        gpus: float = 0,
        cluster: str | None = None,
        **parameters: Any,
    ) -> None:
        require("SlurmEngine", "submitit")
        import submitit

        self._executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        self._executor.update_parameters(
            cpus_per_task=math.ceil(cpus), gpus_per_node=math.ceil(gpus), **parameters
        )
        # SLURM has a queue of its own.
        queues = self._executor.cluster == "slurm"
        self.capacity = sys.maxsize if queues else check_processes(None)
        self._running: dict[str, Any] = {}

    def start(self, cell: CellConfig, path: Path) -> None:
        """Submit a job, to which SLURM hands on this process's environment."""
        with environment(OF_A_CELL | {COMMAND: command()}):
            job = self._executor.submit(_Work(), cell.to_dict(), str(path.resolve()))
        self._running[cell.name] = job

    def ended(self) -> dict[str, str]:
        """Collect the jobs that are over."""
        names = [name for name, job in self._running.items() if job.done()]
        errors = {name: self._running.pop(name).exception() for name in names}
        return {name: str(each or "").strip().partition("\n")[0] for name, each in errors.items()}

    def stop(self) -> None:
        """Cancel the rest."""
        for job in self._running.values():
            job.cancel(check=False)
        self._running.clear()
