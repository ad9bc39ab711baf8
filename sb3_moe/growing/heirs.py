"""Which experts come after others: whose weights they have, and whose gates they take over.

Shapes: E experts before, X after, S slots per expert, K = E*S scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch as th

from sb3_moe.layers.scores import LinearRouter, MLPRouter


@dataclass(frozen=True)
class Heir:
    """What an expert comes from.

    :param weights: how much of each old expert there is in its weights; empty: it starts anew
    :param gates: which share of each old expert's gates it takes over
    :param share: which share of all gates it takes, at most, if it starts anew
    :param stays: whether it goes on as the old one: it is frozen if all that it comes from is
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    gates: Mapping[int, float] = field(default_factory=dict)
    share: float = 0.0
    stays: bool = True

    @property
    def is_new(self) -> bool:
        """Whether it has nothing of an old one."""
        return not self.weights


def kept(k: int, share: float = 1.0) -> Heir:
    """Return an expert that stays, with a share of its gates."""
    return Heir({k: 1.0}, {k: share})


def shared_biases(
    router: LinearRouter | MLPRouter, num_experts: int, heirs: Sequence[Heir]
) -> th.Tensor:
    """Return what to add to scores so that experts take over the gates of others, (X*S,).

    The exponential of a score is an expert's part in the softmax: a share of it is its logarithm
    added to the score. One that starts anew has the mean score of all, and the mean of scores is
    at most the logarithm of the mean of their exponentials: so its gate is at most its share.
    With normalised weights the direction of the mean can score above the mean of the scores: the
    bias is lower by as much.

    :param router: the old one
    :param num_experts: E
    :param heirs: X of them
    """
    weight = next(router.parameters(), next(router.buffers(), th.zeros(())))
    bias_K = weight.new_zeros(router.num_scores) if router.bias is None else router.bias
    bias_ES = bias_K.view(num_experts, -1)
    above_S = router.above_mean(num_experts).to(bias_ES)
    new = sum(heir.share for heir in heirs if heir.is_new)
    rows = []
    for heir in heirs:
        if heir.is_new:
            part = math.log(num_experts * heir.share / (1.0 - new))
            rows.append(bias_ES.mean(0) + part - above_S)
        else:
            taken = [bias_ES[k] + math.log(share) for k, share in heir.gates.items()]
            rows.append(taken[0] if len(taken) == 1 else th.stack(taken).logsumexp(0))
    return th.stack(rows).flatten()
