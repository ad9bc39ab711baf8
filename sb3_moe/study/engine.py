"""Where and when runs are trained: processes of this machine, a Ray cluster, or SLURM."""

import logging
import math
import multiprocessing as mp
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch as th
from rich.console import Console
from rich.progress import Progress, TextColumn

from sb3_moe.layers.extras import require
from sb3_moe.study.config import RunConfig
from sb3_moe.study.folder import LOG, PATIENCE, Job, RunFolder, State, held, steps_in
from sb3_moe.study.training import train_run
from sb3_moe_envs.vector.workers import num_cores

POLL_SECONDS = 0.5
# The key of a task's mean return in training.
_RETURN = re.compile("rollout/([^/]+)/ep_rew_mean")
# How often a run whose node or process is lost starts again on Ray.
RETRIES = 3
# glibc would otherwise give the memory of an update back to the system, and get it again page by
# page in the next update: tens of thousands of page faults a second.
KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def variables(root: Path) -> dict[str, str]:
    """Give the environment variables with which runs are trained; those that are set keep theirs.

    :param root: folder of the study, in which processes share what jax has compiled
    """
    wanted = {
        # One thread per process: small networks are faster with one, and runs share the cores.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_PLATFORMS": "cpu",
        **KEPT_MEMORY,
        "JAX_COMPILATION_CACHE_DIR": str((root / ".jax").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def work(run: Mapping[str, Any], path: str) -> None:
    """Train one run in this process; if it fails, write the error into its folder.

    :param run: what to train
    :param path: its folder
    :raises BusyError: if another process still works in the folder after ``PATIENCE`` seconds
    """
    folder = RunFolder(Path(path))
    with held(folder.path, PATIENCE):
        status = folder.state().status
        if status == "done":  # by a process that held the folder until now
            return
        if status in ("failed", "damaged"):
            folder.make_ready()
        try:
            th.set_num_threads(1)
            train_run(RunConfig.from_dict(run), folder)
        except Exception as error:
            folder.fail(error)


def _work_quietly(run: Mapping[str, Any], path: str) -> None:
    """Call :func:`work` with the process's output in a file, so that outputs of runs don't mix."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A terminal sends both signals to all processes of the group; the parent decides which end.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log = (Path(path) / LOG).open("a", buffering=1)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    work(run, path)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone: a killed parent can't stop it."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def check_processes(processes: int | None) -> int:
    """Give the number of processes; for None, the number of cores that this process may use.

    :raises ValueError: if it is below 1
    """
    processes = num_cores() if processes is None else processes
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    return processes


class Engine:
    """Base class: starts runs, and tells which have ended."""

    #: How many runs may go on at the same time; by default without limit, since clusters have their
    #: own queues.
    capacity = sys.maxsize

    def __init__(self) -> None:
        self._running: dict[str, Any] = {}

    def launch(self, run: dict[str, Any], path: str) -> Any:
        """Start :func:`work`; give a handle with ``done()``, ``exception()`` and ``cancel()``."""
        raise NotImplementedError

    def start(self, run: RunConfig, path: Path) -> None:
        """Start a run in a folder."""
        path.mkdir(parents=True, exist_ok=True)
        self._running[run.name] = self.launch(run.to_dict(), str(path.resolve()))

    def ended(self) -> dict[str, str]:
        """Name the runs that have ended since the last call, done or not.

        :return: by name, the reason if the run's process ended early, else an empty text
        """
        reasons = {}
        for name in [name for name, work in self._running.items() if work.done()]:
            error = self._running.pop(name).exception() or ""
            # Ray's own errors have the original error as `cause`; their texts are tracebacks.
            cause = str(getattr(error, "cause", error))
            reasons[name] = cause.strip().partition("\n")[0]
        return reasons

    def stop(self) -> None:
        """End all running runs; each can resume later from its last snapshot."""
        for each in self._running.values():
            each.cancel()
        self._running.clear()


class _Process(SpawnProcess):
    """A process of this machine, started by spawn: where jax is loaded, fork hangs.

    It is no daemon, so that environments may start processes of their own.
    """

    def done(self) -> bool:
        return not self.is_alive()

    def exception(self) -> str:
        code = self.exitcode or 0
        if code >= 0:
            return f"its process ended with exit status {code}, see {LOG}" if code else ""
        cause = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{cause}"

    def cancel(self) -> None:
        self.terminate()
        self.join()


class LocalEngine(Engine):
    """One process per run.

    :param processes: how many at the same time; None: one for each core that this process may use
    :raises ValueError: if the number is below 1
    """

    def __init__(self, processes: int | None) -> None:
        super().__init__()
        self.capacity = check_processes(processes)

    def launch(self, run: dict[str, Any], path: str) -> Any:
        """Start a process."""
        process = _Process(target=_work_quietly, args=(run, path))
        process.start()
        return process


class RayEngine(Engine):
    """Tasks of a Ray cluster, with results in a folder that all nodes see.

    If a node is lost, its runs start again on another, from their last snapshots.

    :param root: see :func:`variables`
    :param address: of the cluster; None takes the one that Ray finds on this machine, or starts
        one; ``"local"`` starts one in any case
    :param cpus: CPUs per run
    :param gpus: GPUs per run; may be a fraction
    """

    def __init__(self, root: Path, address: str | None, cpus: float, gpus: float) -> None:
        super().__init__()
        require("RayEngine", "ray")
        import ray

        self._ray = ray
        # Ray's own handler would exit at once, before the study has said what is finished.
        handler = signal.getsignal(signal.SIGTERM)
        self._ray.init(
            address=address,
            runtime_env={"env_vars": variables(root)},
            log_to_driver=False,
            include_dashboard=False if address in (None, "local") else None,
            logging_level=logging.WARNING,
        )
        signal.signal(signal.SIGTERM, handler)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(work)

    def launch(self, run: dict[str, Any], path: str) -> Any:
        """Start a task."""
        return self._task.remote(run, path).future()

    def stop(self) -> None:
        """Disconnect from the cluster, which ends the tasks."""
        super().stop()
        self._ray.shutdown()


class _Work:
    """A SLURM job: it trains a run, and at its time limit it is queued again and resumes."""

    def __call__(self, run: Mapping[str, Any], path: str) -> None:
        work(run, path)

    def checkpoint(self, run: Mapping[str, Any], path: str) -> Any:
        """Return what submitit queues at the time limit: the same run again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, run, path)


class SlurmEngine(Engine):
    """Jobs of SLURM through submitit, with results in a folder that all nodes see.

    :param root: folder of the study; submitit's files go to ``.slurm`` in it
    :param cpus: CPUs per run
    :param gpus: GPUs per run
    :param processes: how many jobs at the same time; None: as many as there are, or cores of this
        machine
    :param cluster: ``"slurm"``, or ``"local"`` for processes of this machine; None: SLURM if it is
        installed
    :param parameters: further parameters of submitit's ``update_parameters``, such as
        ``timeout_min`` and ``slurm_partition``
    """

    def __init__(
        self,
        root: Path,
        cpus: float = 1,
        gpus: float = 0,
        processes: int | None = None,
        cluster: str | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__()
        require("SlurmEngine", "submitit")
        import submitit

        # A run may take many time limits.
        limits = {"slurm_max_num_timeout": sys.maxsize}
        self._executor = submitit.AutoExecutor(root / ".slurm", cluster=cluster, **limits)
        self._executor.update_parameters(
            cpus_per_task=math.ceil(cpus), gpus_per_node=math.ceil(gpus), **parameters
        )
        if processes is not None or self._executor.cluster != "slurm":
            self.capacity = check_processes(processes)

    def launch(self, run: dict[str, Any], path: str) -> Any:
        """Submit a job."""
        return self._executor.submit(_Work(), run, path)

    def stop(self) -> None:
        """Cancel all jobs; those that have ended meanwhile raise no error."""
        for each in self._running.values():
            each.cancel(check=False)
        self._running.clear()


# Running the jobs of a study, and showing how far they are.


def unfinished(jobs: Sequence[Job], retry: bool) -> list[Job]:
    """List the jobs to run; those that failed or are damaged only with ``retry``."""
    wanted = {"missing", "interrupted"} | ({"failed", "damaged"} if retry else set())
    return [job for job in jobs if job.state.status in wanted]


def run_jobs(jobs: Sequence[Job], engine: Engine, console: Console) -> None:
    """Run jobs to their end, as many at a time as the engine takes.

    :param jobs: in the order in which they start
    :param engine: where they run
    :param console: where progress, and the end of each run, are printed
    """
    waiting = list(jobs)
    running = dict[str, Job]()
    if jobs:
        console.print(f"{len(jobs)} runs to train; `sb3-moe study status` says how far they are")
    view = LiveView(jobs, console)
    with view.progress:
        while waiting or running:
            to_come = {*running, *(job.run.name for job in waiting)}
            for job in list(waiting):
                start = job.run.start
                if start in to_come:
                    continue
                if start and not (job.folder.path.parent / start / "done.json").is_file():
                    waiting.remove(job)
                    view.ended(job, State("missing", f"{start}, which it begins with, is not done"))
                elif len(running) < engine.capacity:
                    waiting.remove(job)
                    engine.start(job.run, job.folder.path)
                    running[job.run.name] = job
            for name, why in engine.ended().items():
                job = running.pop(name)
                state = job.folder.state()
                explained = state.status in ("done", "failed") or not why
                view.ended(job, state if explained else State(state.status, why))
            view.refresh(list(running.values()))
            time.sleep(POLL_SECONDS)


class LiveView:
    """A bar of all runs' steps on a terminal, and a line for each run that has ended.

    :param jobs: all that will run
    :param console: where both are shown
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._count = len(jobs)
        self._ended = self._steps = 0
        self.progress = Progress(
            *Progress.get_default_columns(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = sum(job.run.total_steps for job in jobs)
        self._bar = self.progress.add_task("steps", total=total, note="")

    def ended(self, job: Job, state: State) -> None:
        """Print a line on how a run ended."""
        self._ended += 1
        self._steps += job.run.total_steps
        note = state.reason
        if state.status == "done":
            note = _summary(job.folder.last_logged())
        elif state.status not in ("failed", "damaged"):
            note = f"{note or 'its process ended early'}; run again to go on"
        line = f"[{self._ended}/{self._count}] {job.run.name}: {state.status} {note}"
        self.progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self, running: Sequence[Job]) -> None:
        """Show how far the runs are."""
        if self.progress.disable:
            return
        steps = self._steps + sum(steps_in(job.folder.last_logged()) for job in running)
        note = f"{self._ended} of {self._count} runs, {len(running)} at work"
        self.progress.update(self._bar, completed=steps, note=note)


def _summary(row: Mapping[str, str]) -> str:
    """Say a run's speed and its last returns in training; a report has those of evaluations."""
    found = ((_RETURN.fullmatch(key), value) for key, value in row.items())
    returns = [f"{key[1]} {float(value):.1f}" for key, value in found if key and value]
    last = f", last training episodes: {'  '.join(returns)}" if returns else ""
    return f"{row.get('time/fps', '?')} steps/s{last}"
