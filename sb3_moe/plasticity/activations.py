"""What every hidden layer of a policy computes, read with forward hooks that are taken off again.

Shapes: E experts (1 for a dense layer), T rows, H units (feature maps of a convolution), P
positions (1 without a convolution).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers.activations import POINTWISE
from sb3_moe.layers.stacked import StackedEach

ACTIVATIONS = (nn.PReLU, *POINTWISE)


def is_activation(module: nn.Module) -> bool:
    """Say whether a module is an activation whose values are a hidden layer's, stacked or not."""
    if isinstance(module, StackedEach):
        # The experts' own modules, of a class of the user's own.
        return any(isinstance(part, ACTIVATIONS) for part in module.modules())
    return isinstance(module, ACTIVATIONS)


class Activations(NamedTuple):
    """The post-activation values of one hidden layer on one batch.

    :param values_ETHP: one row per sample, token or slot that reached the layer
    :param gates_TE: how much each expert's row counts in the layer's output; None for a layer
        that is not in a mixture, or where rows and gates don't line up
    :param reached_E: whether any row was sent to each expert; None where all see rows
    """

    values_ETHP: th.Tensor
    gates_TE: th.Tensor | None = None
    reached_E: th.Tensor | None = None

    @property
    def activity_EH(self) -> th.Tensor:
        """Mean absolute activation of each unit, over rows and positions (0 without rows)."""
        return _mean(self.values_ETHP.abs())

    @property
    def gated_activity_EH(self) -> th.Tensor:
        """The same with each row weighted by its gate's size; the plain one without gates."""
        if self.gates_TE is None:
            return self.activity_EH
        return _mean(self.values_ETHP.abs() * self.gates_TE.abs().T[:, :, None, None])

    @property
    def features_TF(self) -> th.Tensor:
        """One row per sample with the units of all experts side by side."""
        return self.values_ETHP.transpose(0, 1).flatten(1)


def _mean(values_ETHP: th.Tensor) -> th.Tensor:
    rows = values_ETHP.shape[1] * values_ETHP.shape[3]
    return values_ETHP.sum(dim=(1, 3)) / max(rows, 1)


def as_ETHP(values: th.Tensor, num_experts: int = 1) -> th.Tensor:
    """Bring what an activation module returned into one shape.

    :param values: (T, H) or (T, C, height, width) of a dense layer, (E, T, H) or
        (E, T, C, height, width) of a stacked one, or (T, E*C, height, width) of grouped
        convolutions
    :param num_experts: E of the stacked network that the module belongs to, 1 for a dense layer
    :raises ValueError: if the shape is none of these
    """
    if values.dim() == 4:
        values = values.reshape(len(values), num_experts, -1, *values.shape[2:]).transpose(0, 1)
    elif values.dim() == 2 and num_experts == 1:
        values = values.unsqueeze(0)
    if values.dim() not in (3, 5) or values.shape[0] != num_experts:
        raise ValueError(
            f"activations must be (T, H), (T, C, h, w), or lead with num_experts={num_experts}, "
            f"got shape {tuple(values.shape)}"
        )
    return values.flatten(3) if values.dim() == 5 else values.unsqueeze(-1)


@contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Any]]]:
    """Keep what each module returned, call by call, while the block runs.

    :param modules: name to module
    """
    outputs: dict[str, list[Any]] = {name: [] for name in modules}

    def hook(name: str) -> Any:
        return lambda module, args, output: outputs[name].append(output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
