"""Where runs are trained: processes of this machine, a Ray cluster, or SLURM."""

from __future__ import annotations

import logging
import math
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_moe.extras import require
from sb3_moe.study.config import RunConfig
from sb3_moe.study.folder import LOG, PATIENCE, RunFolder, held

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
OF_A_RUN = ONE_THREAD | KEPT_MEMORY


def child_environment(root: Path) -> dict[str, str]:
    """Give the variables of a process that trains.

    :param root: folder of the study, in which processes leave each other what jax has compiled
    """
    return OF_A_RUN | {
        "JAX_COMPILATION_CACHE_DIR": str((root / ".jax").resolve()),
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


def work(run: Mapping[str, Any], path: str) -> None:
    """Train one run in this process, and write down what went wrong if something did.

    :param run: what to train
    :param path: its folder
    :raises BusyError: if another process works in the folder, and goes on to
    """
    folder = RunFolder(Path(path))
    with held(folder.path, PATIENCE):
        # The process that was waited for may have finished the run.
        if folder.state().status == "done":
            return
        try:
            import torch as th

            from sb3_moe.study.training import train_run

            th.set_num_threads(1)
            train_run(RunConfig.from_dict(run), folder)
        except Exception as error:
            folder.fail(error)


def _work_quietly(run: Mapping[str, Any], path: str) -> None:
    """Do the same with the process's own output in a file, so that it doesn't mix with others'."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A terminal sends both to the whole group; the parent decides who stops.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = (Path(path) / LOG).open("a", buffering=1)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    work(run, path)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone: one that is killed can't stop it."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def check_processes(processes: int | None) -> int:
    """Give the number of processes; as many as the cores that this process may use for None.

    :raises ValueError: if there are none
    """
    from sb3_moe_envs.vector.workers import num_cores

    processes = num_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    return processes


class Engine:
    """What starts runs and tells when they have ended."""

    #: How many run at a time.
    capacity: int

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}

    def start(self, run: RunConfig, path: Path) -> None:
        """Start a run in a folder."""
        path.mkdir(parents=True, exist_ok=True)
        self._running[run.name] = self._launch(run.to_dict(), str(path.resolve()))

    def ended(self) -> dict[str, str]:
        """Name the runs that have ended since the last call, one way or another.

        :return: with what there is to say of a process that ended early, else nothing
        """
        over = [name for name, work in self._running.items() if self._is_over(work)]
        return {name: self._why(self._running.pop(name)) for name in over}

    def stop(self) -> None:
        """End what is running; it can go on later from its last snapshot."""
        for each in self._running.values():
            self._cancel(each)
        self._running.clear()

    def _launch(self, run: dict[str, Any], path: str) -> Any:
        raise NotImplementedError

    def _is_over(self, work: Any) -> bool:
        raise NotImplementedError

    def _why(self, work: Any) -> str:
        raise NotImplementedError

    def _cancel(self, work: Any) -> None:
        raise NotImplementedError


class LocalEngine(Engine):
    """One process per run, started by spawn: where jax is loaded, fork hangs.

    :param processes: how many at a time; None: as many as the cores that it may use
    :param root: see :func:`child_environment`
    :raises ValueError: if there are none
    """

    def __init__(self, processes: int | None, root: Path) -> None:
        super().__init__()
        self.capacity = check_processes(processes)
        self._variables = child_environment(root)

    def _launch(self, run: dict[str, Any], path: str) -> Any:
        # No daemon, so that tasks, and workers of ours, may have processes of their own.
        process = mp.get_context("spawn").Process(target=_work_quietly, args=(run, path))
        with environment(self._variables):
            process.start()
        return process

    def _is_over(self, work: Any) -> bool:
        return not work.is_alive()

    def _why(self, work: Any) -> str:
        code = work.exitcode
        if not code:
            return ""
        if code > 0:
            return f"its process ended with exit status {code}, see {LOG}"
        cause = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{cause}"

    def _cancel(self, work: Any) -> None:
        work.terminate()
        work.join()


class RayEngine(Engine):
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
        super().__init__()
        require("RayEngine", "ray")
        import ray

        self._ray: Any = ray
        # Ray's own handler would leave at once, before the study has said what is finished.
        handler = signal.getsignal(signal.SIGTERM)
        self._ray.init(
            address=address,
            runtime_env={"env_vars": OF_A_RUN},
            log_to_driver=False,
            include_dashboard=False if address in (None, "local") else None,
            logging_level=logging.WARNING,
        )
        signal.signal(signal.SIGTERM, handler)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(work)
        self.capacity = sys.maxsize  # Ray has a queue of its own, and knows which nodes there are

    def _launch(self, run: dict[str, Any], path: str) -> Any:
        return self._task.remote(run, path)

    def _is_over(self, work: Any) -> bool:
        return bool(self._ray.wait([work], timeout=0)[0])

    def _why(self, work: Any) -> str:
        try:
            self._ray.get(work)
        except self._ray.exceptions.RayError as error:
            return _first_line(getattr(error, "cause", error))
        return ""

    def _cancel(self, work: Any) -> None:
        self._ray.cancel(work, force=True)

    def stop(self) -> None:
        """Cancel the rest, and let go of the cluster."""
        super().stop()
        self._ray.shutdown()


class _Work:
    """What a SLURM job does; one that reaches its time limit is queued again and goes on."""

    def __call__(self, run: Mapping[str, Any], path: str) -> None:
        work(run, path)

    def checkpoint(self, run: Mapping[str, Any], path: str) -> Any:
        """Say what a job does that submitit queues again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run, path)


class SlurmEngine(Engine):
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
        super().__init__()
        require("SlurmEngine", "submitit")
        import submitit

        self._executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        self._executor.update_parameters(
            cpus_per_task=math.ceil(cpus), gpus_per_node=math.ceil(gpus), **parameters
        )
        # SLURM has a queue of its own.
        queues = self._executor.cluster == "slurm"
        self.capacity = sys.maxsize if queues else check_processes(None)

    def _launch(self, run: dict[str, Any], path: str) -> Any:
        with environment(OF_A_RUN):  # SLURM hands on this process's environment
            return self._executor.submit(_Work(), run, path)

    def _is_over(self, work: Any) -> bool:
        return bool(work.done())

    def _why(self, work: Any) -> str:
        return _first_line(work.exception() or "")

    def _cancel(self, work: Any) -> None:
        work.cancel(check=False)


def _first_line(reason: object) -> str:
    return str(reason).strip().partition("\n")[0]
