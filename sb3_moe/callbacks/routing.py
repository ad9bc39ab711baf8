"""Follow which expert serves which task.

Shapes: N tasks, E experts, B samples, T rows, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from sb3_moe.callbacks.probing import ProbeCallback
from sb3_moe.layers import Routing
from sb3_moe.measures.experts import agreement, expert_outputs, load_entropy, specialisation
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.observations import Obs, concatenate
from sb3_moe.vec_env.tasks import LAYER, PRINTED, TASK, short_names

Array = npt.NDArray[np.float64]


class TaskRouting(NamedTuple):
    """What a mixture does with each task.

    :param gates_NE: mean weight of each expert in the output
    :param load_NE: share of the work that goes to each expert; rows sum to 1
    """

    gates_NE: Array
    load_NE: Array


def routing_per_task(policy: MoEPolicy, batches: list[Obs]) -> dict[str, TaskRouting]:
    """Return what each mixture does with each task, by its name.

    :param policy: one of ours
    :param batches: observations of each task
    """
    by_task: list[dict[str, Routing]] = [policy.routing(batch) for batch in batches]
    return {
        name: TaskRouting(
            _stacked([routing[name].gates_BNE.mean((0, 1)) for routing in by_task]),
            _stacked([routing[name].load_E for routing in by_task]),
        )
        for name in by_task[0]
    }


def _stacked(rows: list[th.Tensor]) -> Array:
    return th.stack(rows).double().cpu().numpy()


class RoutingCallback(ProbeCallback):
    """Log what the routers do on a fixed batch of every task, under ``moe/``.

    For each mixture: ``load/<expert>`` (share of the work, averaged over the tasks: of the choices
    where the router chooses experts, else of the weights), ``entropy`` (of the load, 1 where even),
    ``specialisation`` (mutual information between task and expert, by the sizes of the weights),
    ``agreement`` (cosine similarity of the experts' outputs), ``gate/<task>/<expert>`` (mean weight
    in the output; those of ``top_k`` sum to less than 1), and a picture of the last for
    TensorBoard. ``diagnostics.npz`` gets ``gates/<mixture>`` (K, N, E), ``load`` (K, E),
    ``entropy``, ``specialisation`` and ``agreement`` (K,).

    :param every: global steps between measurements
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, one entry for each task, in place of collecting one: from
        environments of its own before training or, on a plain environment without tasks, from
        training's first observations, in which case the first measurement waits for them
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises ValueError: if a number is out of range, or the policy has no mixture
    """

    def __init__(
        self,
        every: int = 50_000,
        *,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there is something to look at."""
        self.check_model(model)
        super().init_callback(model)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless there is a mixture."""
        if not isinstance(model.policy, MoEPolicy):
            raise ValueError(
                "the policy must have mixtures of experts, as in PPO('MoeMlpPolicy', env), got "
                f"{type(model.policy).__name__}"
            )
        if not model.policy.moe_layers():
            raise ValueError(
                "the policy has no mixture of experts: choose another `placement` than 'none'"
            )

    @th.no_grad()
    def act(self, step: int) -> bool:
        """Measure, log and keep."""
        policy, batches = policy_of(self.model), self.batches()
        outputs = expert_outputs(policy, concatenate(batches))
        routings = routing_per_task(policy, batches)
        row: dict[str, Any] = {}
        for name, (gates_NE, load_NE) in routings.items():
            load_E = load_NE.mean(0)
            row |= {
                f"entropy/{name}": _of_finite(_entropy, load_E),
                f"specialisation/{name}": _of_finite(_specialisation, np.abs(gates_NE)),
                f"agreement/{name}": _of_finite(agreement, outputs[name].double().cpu().numpy()),
                f"gates/{name}": gates_NE,
                f"load/{name}": load_E,
            }
        self._log(list(routings), row)
        self.record.add(step, row)
        return True

    def _log(self, names: list[str], row: dict[str, Any]) -> None:
        keys = dict(zip(names, short_names(names, LAYER), strict=True))
        # What a key holds besides the task, where that is longest.
        others = [f"gate/{keys[name]}//{len(row[f'load/{name}']) - 1}" for name in names]
        tasks = short_names(self.task_names, min(PRINTED - max(map(len, others)), TASK))
        for name, key in keys.items():
            for kind in ("entropy", "specialisation", "agreement"):
                self.logger.record(f"moe/{kind}/{key}", row[f"{kind}/{name}"])
            for expert, share in enumerate(row[f"load/{name}"]):
                self.logger.record(f"moe/load/{key}/{expert}", float(share))
            for task, gates_E in zip(tasks, row[f"gates/{name}"], strict=True):
                for expert, gate in enumerate(gates_E):
                    self.logger.record(f"moe/gate/{key}/{task}/{expert}", float(gate))
            self._draw(key, name, row[f"gates/{name}"])

    def _draw(self, key: str, name: str, gates_NE: Array) -> None:
        # A picture takes as long as all the rest, and only TensorBoard can show it.
        if any(isinstance(each, TensorBoardOutputFormat) for each in self.logger.output_formats):
            from sb3_moe.watching.figures import draw_gates  # matplotlib comes with the extras

            picture = Figure(draw_gates(gates_NE, self.task_names, title=name), close=False)
            elsewhere = ("stdout", "log", "json", "csv")
            self.logger.record(f"moe/gates/{key}", picture, exclude=elsewhere)


def _of_finite(measure: Callable[[Array], float], values: Array) -> float:
    """Measure what there is; NaN of a network that diverged, which doesn't end the run."""
    return measure(values) if np.isfinite(values).all() else float("nan")


def _entropy(load_E: Array) -> float:
    """Measure how even the work is; NaN where no expert has any."""
    return load_entropy(load_E) if load_E.any() else float("nan")


def _specialisation(sizes_NE: Array) -> float:
    """Leave out tasks that no expert has any weight for; NaN if that is all of them."""
    met_NE = sizes_NE[sizes_NE.any(1)]
    return specialisation(met_NE) if len(met_NE) else float("nan")
