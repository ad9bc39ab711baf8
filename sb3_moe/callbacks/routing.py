"""Follow which expert serves which task.

Shapes: N tasks, E experts, B samples, T rows, I inputs, O outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat

from sb3_moe.callbacks.periodic import UNPRINTED
from sb3_moe.callbacks.probing import ProbeCallback
from sb3_moe.layers import MoELayer, Routing
from sb3_moe.measures.experts import agreement, expert_outputs, load_entropy, specialisation
from sb3_moe.measures.resets import router_parameters
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.observations import Obs, concatenate
from sb3_moe.vec_env.tasks import LAYER, TASK, short_names

Array = npt.NDArray[np.float64]
KINDS = ("specialisation", "entropy", "agreement")


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

    For each mixture: ``specialisation`` (mutual information between task and expert, by the sizes
    of the weights), ``entropy`` (of the load, 1 where even) and ``agreement`` (cosine similarity of
    the experts' outputs); of many mixtures the mean. TensorBoard gets an image of the weight that
    each task gives each expert. Of a router that can't change, such as ``"task"``, only the
    agreement is logged. ``diagnostics.npz`` gets all: ``gates/<mixture>`` (K, N, E), ``load``
    (K, E), ``entropy``, ``specialisation`` and ``agreement`` (K,).

    :param every: global steps between measurements
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, one entry for each task, in place of collecting one: from
        environments of its own before training or, on a plain environment without tasks, from
        training's first observations, in which case the first measurement waits for them
    :param log_path: folder for ``diagnostics.npz``
    :param log_all: log ``load/<mixture>/<expert>`` too (share of the work, averaged over the tasks:
        of the choices where the router chooses experts, else of the weights) and
        ``gate/<mixture>/<task>/<expert>`` (mean weight in the output; those of ``top_k`` sum to
        less than 1), and what is constant
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
        log_all: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )
        self.log_all = log_all

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
                f"entropy/{name}": load_entropy(load_E),
                f"specialisation/{name}": specialisation(np.abs(gates_NE)),
                f"agreement/{name}": agreement(outputs[name].double().cpu().numpy()),
                f"gates/{name}": gates_NE,
                f"load/{name}": load_E,
            }
        self._log(row)
        self.record.add(step, row)
        return True

    def _log(self, row: dict[str, Any]) -> None:
        layers = policy_of(self.model).moe_layers()
        keys = dict(zip(layers, short_names(list(layers), LAYER), strict=True))
        learns = [name for name, layer in layers.items() if self.log_all or can_change(layer)]
        self.log_scalars(
            {
                f"moe/{kind}/{{}}": {keys[name]: row[f"{kind}/{name}"] for name in names}
                for kind, names in zip(KINDS, (learns, learns, layers), strict=True)
            }
        )
        for name in learns:
            gates_NE = row[f"gates/{name}"]
            if self.log_all:
                tasks = short_names(self.task_names, TASK)
                rows = {f"load/{keys[name]}": row[f"load/{name}"]}
                rows |= {f"gate/{keys[name]}/{t}": g for t, g in zip(tasks, gates_NE, strict=True)}
                for key, values_E in rows.items():
                    for k, value in enumerate(values_E):
                        self.logger.record(f"moe/{key}/{k}", float(value), exclude=UNPRINTED)
            self._draw(keys[name], name, gates_NE)

    def _draw(self, key: str, name: str, gates_NE: Array) -> None:
        # An image takes as long as all the rest, and only TensorBoard can show it.
        if any(isinstance(each, TensorBoardOutputFormat) for each in self.logger.output_formats):
            from sb3_moe.watching.figures import draw_gates  # matplotlib comes with the extras

            image = Figure(draw_gates(gates_NE, self.task_names, title=name), close=False)
            elsewhere = ("stdout", "log", "json", "csv")
            self.logger.record(f"moe/gates/{key}", image, exclude=elsewhere)


def can_change(layer: MoELayer) -> bool:
    """Say whether what a router decides can be another one day: it learns, or sees what does."""
    return layer.sees == "tokens" or bool(router_parameters(layer))
