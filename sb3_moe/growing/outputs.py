"""What networks return, before anything is made of it: logits, means, values.

Shapes: B batch, O outputs.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of

# How far apart rounding may bring outputs, as a share of their size.
TOLERANCE = 1e-4


def raw_outputs(policy: Any, obs: Any, actions: th.Tensor | None = None) -> dict[str, th.Tensor]:
    """Return what every network returns, by tower and number of the head: ``"pi.0"``, (B, O).

    :param policy: of any algorithm
    :param obs: a batch of observations as tensors on its device
    :param actions: for critics of actions; None: the actor's own
    """
    found: dict[str, th.Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: th.Tensor) -> None:
            found[name] = output

        return keep

    networks = networks_of(policy)
    with ExitStack() as stack:
        stack.enter_context(evaluating(policy))
        for network in networks.networks():
            for i, module in enumerate(network.heads or (network.hidden,)):
                handle = module.register_forward_hook(keeper(f"{network.tower}.{i}"))
                stack.callback(handle.remove)
        networks.run(obs, actions)
    return found


@th.no_grad()
def check_same(new: Any, old: Any, obs: Any, old_obs: Any) -> None:
    """Raise ValueError unless two policies return the same, whatever is in them.

    :param new: the new policy
    :param old: the old one
    :param obs: a batch of observations for the new one, as environments give them
    :param old_obs: the same for the old one
    """
    found, known = (
        raw_outputs(policy, policy.obs_to_tensor(each)[0])
        for policy, each in ((new, obs), (old, old_obs))
    )
    for name, wanted in known.items():
        size = max(wanted.abs().max().item(), 1.0)
        apart = (found[name] - wanted).abs().max().item() / size
        if not apart <= TOLERANCE:
            raise ValueError(
                "`router` and `expert` must be of kinds that do the same as the layers that are "
                f"moved, got outputs {name!r} that are {apart:.3g} of their size apart"
            )


def sampled(space: spaces.Space[Any], rows: int) -> Any:
    """Return observations from a space, always the same, numbers without bounds near 0.

    :param space: of observations; it stays as it is
    :param rows: how many
    """
    space = copy.deepcopy(space)
    space.seed(0)
    drawn = [space.sample() for _ in range(rows)]
    if isinstance(space, spaces.Dict):
        return {key: _batch([each[key] for each in drawn]) for key in space.spaces}
    return _batch(drawn)


def _batch(drawn: list[Any]) -> np.ndarray[Any, Any]:
    batch = np.stack([np.asarray(each) for each in drawn])
    return np.clip(batch, -10, 10) if batch.dtype.kind == "f" else batch
