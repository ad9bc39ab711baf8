"""How each kind of router shares out its gates when experts change, and which gates are constant.

Shapes: E experts before, X after, S slots per expert, K tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch as th
from torch import Tensor

from sb3_moe.growing.copy_map import Age
from sb3_moe.layers import (
    BeliefMoE,
    EmbeddingMoE,
    LinearScores,
    MoELayer,
    ScoredMoE,
    SoftMoE,
    SparseMoE,
    TaskMoE,
    UniformMoE,
)
from sb3_moe.layers.classes import own_options

# Times this factor, scores are so small that all gates are practically equal; the order stays.
FAINT = 1e-6


@dataclass(frozen=True, eq=False)
class Heir:
    """An expert after a change, and the old experts that it comes from.

    :param weights: how much of each old expert there is in its weights; empty: it starts anew
    :param gates: which share of each old expert's gates it takes over
    :param share: which share of all gates it takes, at most, if it starts anew
    :param age: whether its numbers were there before the change, belong to a copy, or are new; one
        that is kept is frozen if all experts that it comes from are
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    gates: Mapping[int, float] = field(default_factory=dict)
    share: float = 0.0
    age: Age = "kept"


def kept(k: int, share: float = 1.0) -> Heir:
    """Return the heir of an expert that stays and keeps a share of its gates."""
    return Heir({k: 1.0}, {k: share})


# Experts that are made from dense layers.


def take_copies(layer: MoELayer) -> float:
    """Prepare a router for experts that are all equal at first.

    :return: what the gates of a token sum to
    :raises ValueError: if equal experts would not output for each token what one of them does
    """
    if isinstance(layer, EmbeddingMoE) and not layer.softmax:
        raise ValueError("`router`='embedding' needs `router_kwargs`=dict(weights='softmax')")
    if isinstance(layer, SparseMoE) and layer.top_k < layer.num_experts and not layer.renormalize:
        # The kept gates don't sum to 1. With small scores each is nearly 1/E, and the token still
        # chooses its experts. If there is a scale, weights are normalized, and only it counts.
        scores = layer.scores
        (scores.weight_RK if scores.scale is None else scores.scale).data.mul_(FAINT)
        return layer.top_k / layer.num_experts
    return 1.0


# Mixtures that are made into dense layers.


def constant_gates(layer: MoELayer, task: int | None) -> list[float] | None:
    """Return the experts' gates if they are the same for every token, else None.

    :param task: the task of the tokens; None: any
    :raises ValueError: if the task picks the expert, and ``task`` is None
    """
    number = layer.num_experts
    match layer:
        case TaskMoE():
            if task is None and number > 1:
                raise ValueError(f"`task` must be in [0, {number}) with `router`={layer.name!r}")
            return [float(k == (task or 0)) for k in range(number)]
        case EmbeddingMoE() if task is not None:
            return _gates_KE(layer)[task].tolist()
        case UniformMoE():
            return [1.0 / number] * number
    softmax = isinstance(layer, EmbeddingMoE) and layer.softmax
    is_one = number == 1 and (softmax or isinstance(layer, SoftMoE | SparseMoE | BeliefMoE))
    return [1.0] if is_one else None


def _gates_KE(layer: EmbeddingMoE) -> Tensor:
    rows_KE = layer.task_weights.rows_KW.detach()
    return rows_KE.softmax(-1) if layer.softmax else rows_KE


# Experts that are added, removed or merged.


def takes_bias(layer: MoELayer) -> bool:
    """Say whether a router needs a bias for its scores before gates can be shared out."""
    return "bias" in own_options(type(layer)) and not isinstance(layer, EmbeddingMoE)


def shared_gates(gates_KE: Tensor, heirs: Sequence[Heir]) -> Tensor:
    """Return the gates (K, X) after a change; a new expert takes its share of the sum of all gates.

    :param gates_KE: the gates before the change
    :param heirs: what each of the X experts takes over
    """
    left = 1.0 - sum(heir.share for heir in heirs)
    total_K = gates_KE.sum(-1)
    columns = [
        heir.share * total_K
        if heir.age == "new"
        else left * th.stack([share * gates_KE[:, k] for k, share in heir.gates.items()]).sum(0)
        for heir in heirs
    ]
    return th.stack(columns, -1)


@th.no_grad()
def share_out(new: MoELayer, old: Any, heirs: Sequence[Heir]) -> None:
    """Let the experts of a new layer take over the gates of the old experts.

    A router of the user's own may have a method ``share_out(heirs, old)`` that does it.

    :param new: the new layer; the tensors that :meth:`MoELayer.expert_axes` names are copied or
        averaged already
    :param old: the layer before the change, of the same class, from which the heirs come
    :param heirs: what each of the X experts takes over
    :raises ValueError: if the gates can't be shared out
    """
    if callable(own := getattr(new, "share_out", None)):
        own(heirs, old)
    elif isinstance(new, EmbeddingMoE):
        gates_KX = shared_gates(_gates_KE(old), heirs)
        rows = new.task_weights
        rows.weight_KW.copy_(gates_KX.log() if new.softmax else gates_KX)
        if rows.bias_W is not None:
            rows.weight_KW.sub_(rows.bias_W)
    elif isinstance(new, ScoredMoE) and (bias_K := new.scores.bias_K) is not None:
        bias_K.copy_(_shared_biases(old.scores, old.num_experts, heirs))
    else:
        raise ValueError(
            f"`router`={new.name!r} can't share out its gates: a router of your own needs a method "
            "`share_out(heirs, old)`, a built-in one needs scores with a bias"
        )


def _shared_biases(scores: LinearScores, num_experts: int, heirs: Sequence[Heir]) -> Tensor:
    """Return the biases of scores by which experts take over the gates of old experts, (X*S,).

    A gate is proportional to the exponential of the score: adding the logarithm of a share to the
    score multiplies the gate by the share. An expert that starts anew has the mean of all scores,
    which is at most the logarithm of the mean of their exponentials: so its gate is at most its
    share. With normalized weights the mean direction can score above the mean of the scores: the
    bias is lower by the largest such difference.
    """
    left = 1.0 - sum(heir.share for heir in heirs)
    weight_RES = scores.weight_RK.unflatten(1, (num_experts, -1))
    bias_ES = weight_RES.new_zeros(weight_RES.shape[1:])
    if scores.bias_K is not None:
        bias_ES = scores.bias_K.view(num_experts, -1)
    rows = []
    for heir in heirs:
        if heir.age == "new":
            part = math.log(num_experts * heir.share / left)
            rows.append(bias_ES.mean(0) + part - _above_mean(scores.scale, weight_RES))
        else:
            taken = [bias_ES[k] + math.log(share) for k, share in heir.gates.items()]
            rows.append(th.stack(taken).logsumexp(0))
    return th.stack(rows).flatten()


def _above_mean(scale: Tensor | None, weight_RES: Tensor) -> Tensor:
    """Return how far the mean direction can score above the mean of all scores at most, (S,)."""
    if scale is None:
        return weight_RES.new_zeros(weight_RES.shape[-1])
    mean_RS = weight_RES.mean(1)
    directions_RES = weight_RES / (weight_RES.norm(dim=0) + 1e-6)
    direction_RS = mean_RS / (mean_RS.norm(dim=0) + 1e-6)
    return scale.abs() * (direction_RS - directions_RES.mean(1)).norm(dim=0)
