"""What experts do, and for which task.

Shapes: N tasks, E experts, T tokens of all samples, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of
from sb3_moe.vec_env.observations import Obs


@th.no_grad()
def expert_outputs(policy: Any, obs: Obs) -> dict[str, th.Tensor]:
    """Return the output of every expert for every token, (E, T, O), by mixture.

    :param policy: one of ours
    :param obs: a batch of observations
    """
    seen: dict[str, th.Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[th.Tensor, ...]) -> None:
            seen[name] = args[0].flatten(0, -2)

        return keep

    layers = policy.moe_layers()
    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        with evaluating(policy):
            networks_of(policy).run(policy.obs_to_tensor(obs)[0])
            return {name: layers[name].experts.every(x_TI) for name, x_TI in seen.items()}
    finally:
        for handle in handles:
            handle.remove()


Array = npt.NDArray[np.float64]


def load_entropy(load_E: npt.ArrayLike) -> float:
    """Return the entropy of the experts' shares of the work, over its largest value, log E.

    :param load_E: shares, of any positive sum
    :return: 0 where one expert does everything, 1 where all do the same; 1 for a single expert
    :raises ValueError: if a share is not finite or below 0, or the sum is 0
    """
    shares = _shares(load_E, "load_E")
    return float(_entropy(shares) / np.log(len(shares))) if len(shares) > 1 else 1.0


def specialisation(gates_NE: npt.ArrayLike) -> float:
    """Return the mutual information between task and expert, over its largest value.

    :param gates_NE: mean weight of each expert for each task; rows are scaled to sum to 1, and all
        tasks count the same
    :return: 0 where all tasks use the experts alike, 1 where the expert tells the task (or, with
        fewer experts than tasks, as far as it can); 0 with one task or one expert
    :raises ValueError: if a weight is not finite or below 0, or a row's sum is 0
    """
    gates = np.atleast_2d(np.asarray(gates_NE, np.float64))
    rows_NE = np.stack([_shares(row, "gates_NE") for row in gates])
    smaller = min(rows_NE.shape)
    if smaller == 1:
        return 0.0
    information = _entropy(rows_NE.mean(0)) - np.mean([_entropy(row) for row in rows_NE])
    # Rounding may leave it a hair outside of its range.
    return float(np.clip(information / np.log(smaller), 0.0, 1.0))


def agreement(outputs_ETO: npt.ArrayLike) -> float:
    """Return the mean cosine similarity between the outputs of two experts for the same input.

    :param outputs_ETO: every expert's output for every row
    :return: 1 where all experts say the same, -1 at the least; 1 for a single expert
    :raises ValueError: if an output is not finite
    """
    outputs = np.asarray(outputs_ETO, np.float64)
    if not np.isfinite(outputs).all():
        raise ValueError(f"`outputs_ETO` must be finite, got {outputs}")
    num_experts = len(outputs)
    if num_experts < 2:
        return 1.0
    norms = np.linalg.norm(outputs, axis=-1, keepdims=True)
    units = np.divide(outputs, norms, out=np.zeros_like(outputs), where=norms > 0)
    # The squared length of the sum holds every pair twice, and each expert with itself once.
    total = np.square(units.sum(0)).sum(-1)
    alone = np.square(units).sum((0, 2))
    return float(np.mean((total - alone) / (num_experts * (num_experts - 1))))


def _shares(values: npt.ArrayLike, name: str) -> Array:
    shares = np.asarray(values, np.float64)
    # What isn't finite isn't in that range either.
    in_range = np.all((shares >= 0) & (shares < np.inf))
    if shares.ndim != 1 or not in_range or shares.sum() <= 0:
        raise ValueError(
            f"`{name}` must be finite weights of at least 0 with a positive sum, got {shares}"
        )
    return shares / shares.sum()


def _entropy(shares: Array) -> float:
    positive = shares[shares > 0]
    # Not its negative, which is -0.0 where one has everything.
    return float(0.0 - (positive * np.log(positive)).sum())
