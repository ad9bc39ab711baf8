"""Follow how much of a network still works and how well it can still learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.callbacks.probing import ProbeCallback
from sb3_moe.layers.checks import whole, yes_or_no
from sb3_moe.measures.activations import online_parameters, some_hidden_layers
from sb3_moe.measures.gradients import CriticGradients, measure_gradients
from sb3_moe.measures.plasticity import (
    TAUS,
    check_tau,
    measure_layers,
    measure_ntk,
    measure_weights,
    weight_change,
)
from sb3_moe.vec_env.observations import Obs
from sb3_moe.vec_env.tasks import LAYER, MEASURE, PRINTED, TASK, short_names


class PlasticityCallback(ProbeCallback):
    """Measure dormant neurons, ranks, weights and gradients of every tower and layer.

    Logged under ``plasticity/`` and kept in ``diagnostics.npz``, under the names that
    :func:`~sb3_moe.measures.measure_layers` explains, but ``dormant@<tau>`` is logged as
    ``dormant_<tau>``, which trackers take; ``dormant_per_task/<layer>/<task>`` stands by itself.
    Measured before training, at the first
    start of a rollout after every ``every`` global steps, and at the end, on one fixed batch,
    balanced over the tasks. ``weight_change/<tower>`` is since the measurement before, and NaN for
    the first of a process.

    :param every: global steps between measurements
    :param taus: thresholds of dormancy, each at least 0; the first is the primary one
    :param by_gradient: also measure the share of units that hardly any gradient reached in the
        last update (under TRPO the critic's), ``inactive/<layer>`` and ``inactive_<tau>``; see
        :func:`~sb3_moe.measures.measure_gradients`
    :param ntk_size: samples for the rank of the neural tangent kernel; 0 leaves it out
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, one entry for each task, in place of collecting one: from
        environments of its own before training or, on a plain environment without tasks, from
        training's first observations, in which case the first measurement waits for them
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if a size isn't an int
    :raises ValueError: if a number is out of range, or the policy has no hidden layer
    """

    def __init__(
        self,
        every: int = 50_000,
        *,
        taus: Sequence[float] = TAUS,
        by_gradient: bool = False,
        ntk_size: int = 24,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )
        if not isinstance(taus, Sequence):
            raise TypeError(f"`taus` must be a sequence of thresholds, got {taus!r}")
        if not taus:
            raise ValueError("`taus` must hold at least one threshold, got none")
        for tau in taus:
            check_tau(tau)
        whole("ntk_size", ntk_size, least=0)
        yes_or_no("by_gradient", by_gradient)
        self.taus = tuple(taus)
        self.by_gradient = by_gradient
        self.ntk_size = ntk_size
        self._weights: dict[str, list[th.Tensor]] = {}
        self._gradients = CriticGradients()

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there is something to look at."""
        self.check_model(model)
        super().init_callback(model)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless there is a hidden layer to look at."""
        some_hidden_layers(model.policy)

    def _forget(self) -> None:
        super()._forget()
        self._weights = {}

    def _on_training_start(self) -> None:
        self._gradients.attach(self.model.policy)
        super()._on_training_start()

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self._gradients.detach()

    def act(self, step: int) -> bool:
        """Measure, log and keep."""
        policy, batches = self.model.policy, self.batches()
        measures = measure_layers(policy, batches, self.taus)
        measures |= measure_weights(policy, self._gradients.of_last_step())
        measures |= self._weight_changes()
        if self.by_gradient:
            measures |= measure_gradients(policy, self._gradients.of_last_step(), self.taus)
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
            # Of a tower whose experts became more, or fewer, nothing can be said.
            if [each.shape for each in before] == [each.shape for each in towers[name]]
        }
        self._weights = {
            name: [parameter.detach().clone() for parameter in parameters]
            for name, parameters in towers.items()
        }
        return changes

    def _log(self, measures: dict[str, Any]) -> None:
        names = [name.split("/", 1) for name in measures]
        kinds = _keys([kind for kind, _ in names], MEASURE)
        places = _keys([place for _, place in names], LAYER)
        room = PRINTED - len("/") - max(map(len, places.values()))
        tasks = short_names(self.task_names, min(room, TASK))
        for (kind, place), value in zip(names, measures.values(), strict=True):
            if np.ndim(value) == 0:
                self.logger.record(f"plasticity/{kinds[kind]}/{places[place]}", float(value))
            else:
                for task, one in zip(tasks, value, strict=True):
                    # Behind plasticity/ a table has no room for this.
                    self.logger.record(f"{kinds[kind]}/{places[place]}/{task}", float(one))


def _keys(names: list[str], length: int) -> dict[str, str]:
    unique = list(dict.fromkeys(names))
    return dict(zip(unique, short_names(unique, length), strict=True))
