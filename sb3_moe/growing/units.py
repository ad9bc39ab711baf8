"""How the units of a layer are divided over experts.

Shapes: B rows, H units.
"""

from __future__ import annotations

import numpy as np
import torch as th


def evenly(units: int, shares: int) -> list[th.Tensor]:
    """Divide units over shares in their order.

    :param units: how many there are
    :param shares: over how many they are divided
    """
    return [th.from_numpy(part) for part in np.array_split(np.arange(units), shares)]


def by_firing(values_BH: th.Tensor, shares: int) -> list[th.Tensor]:
    """Divide units over shares so that those which fire together come together.

    The most active unit that is left begins a share, and those which correlate with it most join.

    :param values_BH: what each unit did on a probe batch
    :param shares: over how many they are divided
    """
    centred_BH = values_BH - values_BH.mean(0)
    normed_BH = centred_BH / centred_BH.norm(dim=0).clamp_min(1e-12)
    alike_HH = normed_BH.T @ normed_BH
    activity_H = values_BH.abs().mean(0)
    left = th.ones(len(activity_H), dtype=th.bool)
    found = []
    for part in evenly(len(activity_H), shares):
        if not len(part):
            found.append(part)
            continue
        seed = activity_H.masked_fill(~left, -1.0).argmax()
        likeness_H = alike_HH[seed].masked_fill(~left, -2.0)
        likeness_H[seed] = 2.0
        chosen = likeness_H.topk(len(part)).indices
        left[chosen] = False
        found.append(chosen.sort().values)
    return found
