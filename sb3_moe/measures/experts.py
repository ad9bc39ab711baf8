"""What experts do, and for which task.

Shapes: N tasks, E experts, T tokens of all samples, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from numpy.typing import ArrayLike

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.observations import Obs


@th.no_grad()
def expert_outputs(policy: Any, obs: Obs) -> dict[str, th.Tensor]:
    """Return the output of every expert for every token, (E, T, O), by mixture.

    :param policy: one of ours
    :param obs: a batch of observations
    """
    layers = policy.moe_layers()
    seen: dict[str, th.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args: seen.update({name: args[0].flatten(0, -2)})

    handles = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    try:
        with evaluating(policy):
            networks_of(policy).run(policy.obs_to_tensor(obs)[0])
            return {name: layers[name].experts.every(x_TI) for name, x_TI in seen.items()}
    finally:
        for handle in handles:
            handle.remove()


Array = npt.NDArray[np.float64]


def load_entropy(load_E: ArrayLike) -> float:
    """Return the entropy of the experts' shares of the work, over its largest value, log E.

    :param load_E: shares, of any sum
    :return: 0 where one expert does everything, 1 where all do the same; 1 for a single expert; NaN
        where there is no work, or a share is not finite
    """
    shares = _shares(load_E)
    return float(_entropy(shares) / np.log(len(shares))) if len(shares) > 1 else 1.0


def specialisation(gates_NE: ArrayLike) -> float:
    """Return the mutual information between task and expert, over its largest value.

    :param gates_NE: mean weight of each expert for each task; rows are scaled to sum to 1, and all
        tasks count the same but those without any weight, which are left out
    :return: 0 where all tasks use the experts alike, 1 where the expert tells the task (or, with
        fewer experts than tasks, as far as it can); 0 with one task or one expert; NaN where there
        is no task, or a weight is not finite
    """
    gates = np.atleast_2d(np.asarray(gates_NE, np.float64))
    gates = gates[gates.any(1)]
    if not gates.size or not np.isfinite(gates).all():
        return float("nan")
    rows_NE = np.stack([_shares(row) for row in gates])
    smaller = min(rows_NE.shape)
    if smaller == 1:
        return 0.0
    information = _entropy(rows_NE.mean(0)) - np.mean([_entropy(row) for row in rows_NE])
    # Rounding may leave it a hair outside of its range.
    return float(np.clip(information / np.log(smaller), 0.0, 1.0))


def agreement(outputs_ETO: ArrayLike) -> float:
    """Return the mean cosine similarity between the outputs of two experts for the same input.

    :param outputs_ETO: every expert's output for every row
    :return: 1 where all experts say the same, -1 at the least; 1 for a single expert; NaN where an
        output is not finite
    """
    outputs = np.asarray(outputs_ETO, np.float64)
    num_experts = len(outputs)
    if not np.isfinite(outputs).all():
        return float("nan")
    if num_experts < 2:
        return 1.0
    norms = np.linalg.norm(outputs, axis=-1, keepdims=True)
    units = np.divide(outputs, norms, out=np.zeros_like(outputs), where=norms != 0)
    # The squared length of the sum holds every pair twice, and each expert with itself once.
    total = np.square(units.sum(0)).sum(-1)
    alone = np.square(units).sum((0, 2))
    return float(np.mean((total - alone) / (num_experts * (num_experts - 1))))


def _shares(values: ArrayLike) -> Array:
    weights = np.asarray(values, np.float64)
    if not weights.any() or not np.isfinite(weights).all():
        return np.full_like(weights, np.nan)
    return weights / weights.sum()


def _entropy(shares: Array) -> float:
    if np.isnan(shares).any():
        return float("nan")
    positive = shares[shares > 0]
    # Not its negative, which is -0.0 where one has everything.
    return float(0.0 - (positive * np.log(positive)).sum())
