"""What every expert of a policy says, whether it is asked or not.

Shapes: E experts, T tokens of all samples, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of
from sb3_moe.observations.batches import Obs


@th.no_grad()
def expert_outputs(policy: Any, obs: Obs) -> dict[str, th.Tensor]:
    """Return the output of every expert for every token, (E, T, O), by mixture.

    :param policy: one of ours
    :param obs: a batch of observations
    """
    seen: dict[str, th.Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[th.Tensor, ...]) -> None:
            seen[name] = args[0].flatten(0, 1)

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
