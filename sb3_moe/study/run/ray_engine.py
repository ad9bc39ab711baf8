"""The same cells as tasks of a Ray cluster, with results in a folder that all nodes see."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

from sb3_moe.extras import require
from sb3_moe.study.run.engine import OF_A_CELL, work
from sb3_moe.study.run.provenance import COMMAND, command
from sb3_moe.study.spec.config import CellConfig


class RayEngine:
    """Run cells on a Ray cluster.

    A cell on a node that is lost runs again on another, from its last snapshot.

    :param address: of the cluster; None takes the one that Ray finds on this machine, or starts
        one; ``"local"`` starts one in any case
    :param cpus: CPUs per cell
    :param gpus: GPUs per cell, a fraction too
    :param retries: how often a cell whose node or process is lost starts again
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        retries: int = 3,
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
        """Hand a cell to the cluster."""
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
