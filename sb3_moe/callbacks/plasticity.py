"""Follow how much of a network still works and how well it can still learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_moe.callbacks.probing import ProbeCallback
from sb3_moe.plasticity.dormant import TAUS, check_tau
from sb3_moe.plasticity.hidden_layers import online_parameters
from sb3_moe.plasticity.measure import measure_layers, measure_ntk, measure_weights
from sb3_moe.plasticity.probe import Obs
from sb3_moe.plasticity.weights import weight_change


class PlasticityCallback(ProbeCallback):
    """Measure dormant neurons, ranks, weights and gradients of every tower and layer.

    Logged under ``plasticity/`` and kept in ``diagnostics.npz``, under the names that
    :func:`~sb3_moe.plasticity.measure_layers` explains. Measured before training, at the first
    start of a rollout after every ``every`` global steps, and at the end, on one fixed batch,
    balanced over the tasks. ``weight_change/<tower>`` is since the measurement before, and NaN for
    the first of a process.

    :param every: global steps between measurements
    :param taus: thresholds of dormancy, each at least 0; the first is the primary one
    :param ntk_size: samples for the rank of the neural tangent kernel; 0 leaves it out
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, one entry for each task, in place of collecting one
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises ValueError: if a number is out of range
    """

    def __init__(
        self,
        every: int = 50_000,
        *,
        taus: Sequence[float] = TAUS,
        ntk_size: int = 24,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )
        if not taus:
            raise ValueError("`taus` must hold at least one threshold, got none")
        for tau in taus:
            check_tau(tau)
        if ntk_size < 0:
            raise ValueError(f"`ntk_size` must be at least 0, got {ntk_size}")
        self.taus = tuple(taus)
        self.ntk_size = ntk_size
        self._weights: dict[str, list[th.Tensor]] = {}

    def act(self, step: int) -> bool:
        """Measure, log and keep."""
        policy, batches = self.model.policy, self.batches()
        measures = measure_layers(policy, batches, self.taus) | measure_weights(policy)
        measures |= self._weight_changes()
        if self.ntk_size:
            measures |= measure_ntk(policy, batches, self.ntk_size)
        self._log(measures)
        self.record.add(step, measures)
        return True

    def _weight_changes(self) -> dict[str, float]:
        towers = online_parameters(self.model.policy)
        changes = {
            f"weight_change/{name}": weight_change(towers[name], before)
            for name, before in self._weights.items()
        }
        self._weights = {
            name: [parameter.detach().clone() for parameter in parameters]
            for name, parameters in towers.items()
        }
        return changes

    def _log(self, measures: dict[str, Any]) -> None:
        for name, value in measures.items():
            kind, _, where = name.partition("/")
            if np.ndim(value) == 0:
                self.logger.record(f"plasticity/{kind}/{where}", float(value))
            else:
                for task, one in zip(self.task_names, value, strict=True):
                    self.logger.record(f"plasticity/dormant/{where}/{task}", float(one))
