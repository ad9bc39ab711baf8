"""Follow how much of a network still works and how well it can still learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.callbacks.periodic import UNPRINTED
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
from sb3_moe.vec_env.tasks import LAYER, TASK, short_names

# What is logged unless all is asked for.
LOGGED = ("dormant", "inactive", "effective_rank", "ntk_rank", "weight_norm", "gradient_norm")


class PlasticityCallback(ProbeCallback):
    """Measure dormant neurons, ranks, weights and gradients of every network and layer.

    All are kept in ``diagnostics.npz``, under the names that
    :func:`~sb3_moe.measures.measure_layers` explains. Under ``plasticity/`` up to 25 are logged:
    ``dormant`` and ``effective_rank`` by layer, ``ntk_rank``, ``weight_norm`` and ``gradient_norm``
    by network; of many layers the mean. Measured before training, at the first start of a rollout
    after every ``every`` global steps, and at the end, on one fixed batch, balanced over the tasks.
    ``weight_change/<network>`` is since the measurement before, and NaN for the first of a process.

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
    :param log_all: log every measure too: ``dormant@<tau>`` as ``dormant_<tau>``, which trackers
        take, and ``dormant_per_task/<layer>/<task>`` by itself
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
        log_all: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )
        if not isinstance(taus, Sequence) or not taus:
            raise TypeError(f"`taus` must be a sequence of thresholds, got {taus!r}")
        for tau in taus:
            check_tau(tau)
        whole("ntk_size", ntk_size, least=0)
        yes_or_no("by_gradient", by_gradient)
        self.taus = tuple(taus)
        self.by_gradient = by_gradient
        self.ntk_size = ntk_size
        self.log_all = log_all
        self._weights: dict[str, list[th.Tensor]] = {}
        self._gradients = CriticGradients()

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless there is a hidden layer to look at."""
        some_hidden_layers(model.policy)

    def forget(self) -> None:
        """Drop what was another model's, or other tasks'."""
        super().forget()
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
        networks = online_parameters(self.model.policy)
        changes = {
            f"weight_change/{name}": weight_change(networks[name], before)
            for name, before in self._weights.items()
            # Nothing can be said of a network whose experts became more, or fewer.
            if [each.shape for each in before] == [each.shape for each in networks[name]]
        }
        self._weights = {
            name: [parameter.detach().clone() for parameter in parameters]
            for name, parameters in networks.items()
        }
        return changes

    def _log(self, measures: dict[str, Any]) -> None:
        kinds: dict[str, dict[str, Any]] = {f"plasticity/{kind}/{{}}": {} for kind in LOGGED}
        by_task: dict[str, Any] = {}
        long = list(dict.fromkeys(name.split("/", 1)[1] for name in measures))
        places = dict(zip(long, short_names(long, LAYER), strict=True))
        for name, value in measures.items():
            kind, place = name.split("/", 1)
            key = f"plasticity/{kind.replace('@', '_').replace('+', '')}/{{}}"
            if np.ndim(value):
                by_task[places[place]] = value
            elif self.log_all or key in kinds:
                kinds.setdefault(key, {})[places[place]] = float(value)
        self.log_scalars(kinds)
        for place, values in by_task.items() if self.log_all else ():
            for task, value in zip(short_names(self.task_names, TASK), values, strict=True):
                key = f"dormant_per_task/{place}/{task}"
                self.logger.record(key, float(value), exclude=UNPRINTED)
