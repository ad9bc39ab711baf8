"""What a policy thinks of its actions in one step, and how good it finds where it stands.

Shapes: B batch, A choices of one kind, D components of a continuous action.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch as th
from torch import distributions

Kind = Literal["probability", "value", "mean"]


class Decision(NamedTuple):
    """What a policy prefers, and its critics' values.

    :param kind: what the preferences are: probabilities, values of actions (Q), or the mean of a
        continuous action
    :param preferences: (B, A) for each choice that makes up an action, or one (B, D)
    :param values: (B,) by tower
    :param spread: standard deviation of a continuous action, (B, D), where there is one
    """

    kind: Kind
    preferences: tuple[th.Tensor, ...]
    values: dict[str, th.Tensor]
    spread: th.Tensor | None = None


def of_distribution(found: Any, values: dict[str, th.Tensor]) -> Decision:
    """Read one of SB3's or sb3-contrib's action distributions.

    :param found: the distribution
    :param values: (B,) by tower
    """
    inner = getattr(found, "distribution", None)
    several = inner if isinstance(inner, list) else getattr(found, "distributions", None)
    if several is None:
        several = [inner]
    if isinstance(several[0], distributions.Categorical):
        return Decision("probability", tuple(each.probs for each in several), values)
    if isinstance(several[0], distributions.Bernoulli):
        yes_BD = several[0].probs
        # As choices between no and yes.
        pairs = tuple(th.stack([1 - yes_B, yes_B], -1) for yes_B in yes_BD.unbind(-1))
        return Decision("probability", pairs, values)
    spread_BD = several[0].stddev if isinstance(several[0], distributions.Normal) else None
    return Decision("mean", (found.mode(),), values, spread_BD)
