"""One weight tensor for all experts: the stacked counterparts of Linear, Conv2d and friends.

Shapes: E experts, T rows that every expert sees, M rows per expert, I inputs, O outputs.
Activations are (E, M, I); images keep the experts in the channels: (T, E*C, height, width).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_moe.layers import paths
from sb3_moe.layers.shares import Share, Statistic, apart, statistics_apart
from sb3_moe.layers.tracing import is_recorded


class Stacked(nn.Module):
    """A layer that every expert has, with the experts' weights on one leading axis.

    :param num_experts: E
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Apply every expert's layer to the same rows: (T, I) to (E, T, O)."""
        out: th.Tensor = self(x.expand(self.num_experts, *x.shape))
        return out

    def unstack(self, k: int) -> nn.Module:
        """Return expert ``k``'s layer as a plain module with copied weights."""
        raise NotImplementedError

    def shares(self) -> list[Share]:
        """Return the layer's own weights, without those of layers inside it, and whose they are."""
        return [Share(each, 0, self.num_experts) for each in self.parameters(recurse=False)]

    def statistics(self) -> list[Statistic]:
        """Return the buffers that experts have entries in, without those of layers inside it."""
        return []


class StackedLinear(Stacked):
    """E linear layers.

    :param linears: one ``nn.Linear`` per expert, already initialised
    :param last: store the weight as (E, I, O) rather than (E, O, I). An expert's last layer is
        summed over experts, and this order makes that sum part of one GEMM without a copy
    """

    def __init__(self, linears: Sequence[nn.Linear], *, last: bool = False) -> None:
        super().__init__(len(linears))
        self.in_features = linears[0].in_features
        self.out_features = linears[0].out_features
        self.last = last
        weight_EOI = th.stack([linear.weight.detach() for linear in linears])
        self.weight = nn.Parameter(self.from_EOI(weight_EOI).clone())
        self.bias_EO: nn.Parameter | None = None
        if linears[0].bias is not None:
            self.bias_EO = nn.Parameter(th.stack([linear.bias.detach() for linear in linears]))

    def from_EOI(self, tensor: th.Tensor) -> th.Tensor:
        """Turn an (E, O, I) tensor into the stored order, or back, without a copy."""
        return tensor.transpose(1, 2).contiguous() if self.last else tensor

    @property
    def weight_EOI(self) -> th.Tensor:
        """The weight as (E, out, in), a view whatever the stored order."""
        return self.weight.transpose(1, 2) if self.last else self.weight

    @property
    def weight_EIO(self) -> th.Tensor:
        """The weight as (E, in, out), a view whatever the stored order."""
        return self.weight if self.last else self.weight.transpose(1, 2)

    @property
    def is_wide(self) -> bool:
        """Whether it is small enough for one GEMM over all experts."""
        return self.weight.numel() <= paths.WIDE_GEMM_LIMIT

    @property
    def macs(self) -> int:
        """Multiply-adds for one row in one expert."""
        return self.in_features * self.out_features

    def forward(self, x_EMI: th.Tensor) -> th.Tensor:
        """Apply each expert's layer to its own rows: (E, M, I) to (E, M, O)."""
        if self.bias_EO is None:
            return th.bmm(x_EMI, self.weight_EIO)
        return th.baddbmm(self.bias_EO.unsqueeze(1), x_EMI, self.weight_EIO)

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Apply every expert's layer to the same rows: (T, I) to (E, T, O)."""
        weight, bias = self.weight, self.bias_EO
        wide = self.is_wide or not paths.on_cpu(x)
        if not wide or self.last:
            return super().shared(x)
        y = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
        return y.view(x.shape[0], self.num_experts, self.out_features).transpose(0, 1)

    def mix(self, x_ETI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Apply each expert's layer and sum over experts with the gates: (E, T, I) to (T, O)."""
        x_TEI, weight, bias = x_ETI.transpose(0, 1), self.weight, self.bias_EO
        if self.last and self.is_wide and x_TEI.is_contiguous():
            gated = (x_TEI * gates_TE.unsqueeze(-1)).flatten(1)
            if bias is None:
                return th.mm(gated, weight.flatten(0, 1))
            shifts, weight_flat = th.mm(gates_TE, bias), weight.flatten(0, 1)
            # TorchScript's `freeze` takes what is added by `addmm` for a constant row.
            if is_recorded():
                return shifts + th.mm(gated, weight_flat)
            return th.addmm(shifts, gated, weight_flat)
        return gated_sum(self(x_ETI), gates_TE)

    def unstack(self, k: int) -> nn.Linear:
        """Return expert ``k``'s layer as an ``nn.Linear``."""
        linear = nn.utils.skip_init(
            nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias_EO is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        copy_parameters(linear, self.weight_EOI, self.bias_EO, k)
        return linear

    def unbind(self) -> list[tuple[th.Tensor | None, ...]]:
        """Return (weight (O, I), bias (O,) or None) per expert; the backward pass stacks once."""
        biases = [None] * self.num_experts if self.bias_EO is None else self.bias_EO.unbind()
        return list(zip(self.weight_EOI.unbind(), biases, strict=True))

    def single(self, x: th.Tensor, tensors: tuple[th.Tensor | None, ...]) -> th.Tensor:
        """Apply one expert's layer to (t, I)."""
        weight, bias = tensors
        assert weight is not None
        return F.linear(x, weight, bias)

    def extra_repr(self) -> str:
        """Show the sizes as ``nn.Linear`` does."""
        return f"{self.num_experts} x ({self.in_features} -> {self.out_features})"


class StackedConv2d(Stacked):
    """E convolutions: the first as one wide convolution, later ones grouped by expert.

    :param convs: one ``nn.Conv2d`` per expert, alike but for their weights
    :raises TypeError: if they are grouped or dilated, or pad with anything but zeros
    """

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__(len(convs))
        first = convs[0]
        if (first.groups, first.dilation, first.padding_mode) != (1, (1, 1), "zeros"):
            raise TypeError(
                "a stacked nn.Conv2d must have groups=1, dilation=1 and padding_mode='zeros', "
                f"got {first}"
            )
        self.stride, self.padding = convs[0].stride, convs[0].padding
        self.weight_EOIhw = nn.Parameter(th.stack([conv.weight.detach() for conv in convs]))
        self.bias_EO: nn.Parameter | None = None
        if convs[0].bias is not None:
            self.bias_EO = nn.Parameter(
                th.stack([b.detach() for conv in convs if (b := conv.bias) is not None])
            )

    def _convolve(self, x: th.Tensor, groups: int) -> th.Tensor:
        bias = None if self.bias_EO is None else self.bias_EO.flatten()
        return F.conv2d(
            x, self.weight_EOIhw.flatten(0, 1), bias, self.stride, self.padding, groups=groups
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply each expert's convolution to its own channels of (T, E*C, height, width)."""
        return self._convolve(x, groups=self.num_experts)

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Apply every expert's convolution to the same (T, C, height, width)."""
        return self._convolve(x, groups=1)

    def unstack(self, k: int) -> nn.Conv2d:
        """Return expert ``k``'s layer as an ``nn.Conv2d``."""
        out_channels, in_channels, *kernel = self.weight_EOIhw.shape[1:]
        conv = nn.utils.skip_init(
            nn.Conv2d,
            in_channels,
            out_channels,
            tuple(kernel),
            self.stride,
            self.padding,
            bias=self.bias_EO is not None,
            device=self.weight_EOIhw.device,
            dtype=self.weight_EOIhw.dtype,
        )
        copy_parameters(conv, self.weight_EOIhw, self.bias_EO, k)
        return conv

    def unbind(self) -> list[tuple[th.Tensor | None, ...]]:
        """Return (weight, bias or None) per expert."""
        biases = [None] * self.num_experts if self.bias_EO is None else self.bias_EO.unbind()
        return list(zip(self.weight_EOIhw.unbind(), biases, strict=True))

    def single(self, x: th.Tensor, tensors: tuple[th.Tensor | None, ...]) -> th.Tensor:
        """Apply one expert's convolution to (t, C, height, width)."""
        weight, bias = tensors
        assert weight is not None
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class StackedFlatten(Stacked):
    """Turn (T, E*C, height, width) into (E, T, C*height*width)."""

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Flatten each expert's share of the channels."""
        flat = x.flatten(1)
        # ONNX takes T for a constant after `unflatten`.
        return flat.view(-1, self.num_experts, flat.shape[1] // self.num_experts).transpose(0, 1)

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Flatten the one image that every expert sees: (T, C, height, width) to (E, T, ...)."""
        return x.flatten(1).expand(self.num_experts, -1, -1)

    def unstack(self, k: int) -> nn.Flatten:
        """Return ``nn.Flatten``."""
        return nn.Flatten()


class StackedActivation(Stacked):
    """What the experts' own activations share: values keep their shape."""

    def shared(self, x: th.Tensor) -> th.Tensor:
        """Apply every expert's activation to the same rows, or the same images."""
        return super().shared(x) if x.dim() == 2 else self(x.repeat(1, self.num_experts, 1, 1))


class StackedPReLU(StackedActivation):
    """E activations with learned slopes, each expert with as many as its ``nn.PReLU`` has.

    :param activations: one ``nn.PReLU`` per expert
    """

    def __init__(self, activations: Sequence[nn.PReLU]) -> None:
        super().__init__(len(activations))
        self.weight_EH = nn.Parameter(th.stack([each.weight.detach() for each in activations]))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Scale what is below zero of (E, M, H) rows, or of (T, E*C, height, width)."""
        if x.dim() == 3:
            return th.where(x > 0, x, self.weight_EH.unsqueeze(1) * x)
        x_TEChw = x.unflatten(1, (self.num_experts, -1))
        slopes_EC11 = self.weight_EH[:, :, None, None]
        return th.where(x_TEChw > 0, x_TEChw, slopes_EC11 * x_TEChw).flatten(1, 2)

    def unstack(self, k: int) -> nn.PReLU:
        """Return expert ``k``'s activation as an ``nn.PReLU``."""
        weight_H = self.weight_EH[k].detach().clone()
        plain = nn.PReLU(len(weight_H), device=weight_H.device, dtype=weight_H.dtype)
        plain.weight.data = weight_H
        return plain

    def unbind(self) -> list[tuple[Any, ...]]:
        """Return (slopes,) per expert."""
        return [(weight_H,) for weight_H in self.weight_EH.unbind()]

    def single(self, x: th.Tensor, share: tuple[Any, ...]) -> th.Tensor:
        """Apply one expert's activation."""
        return F.prelu(x, share[0])


class StackedEach(StackedActivation):
    """E modules of which no more is known: each acts on its own expert's values, by itself.

    :param modules: one per expert; they take rows (M, H), or images (T, C, height, width)
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(len(modules))
        self.each = nn.ModuleList(copy.deepcopy(module) for module in modules)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Apply each expert's module to its own values."""
        if x.dim() == 3:
            return th.stack([act(x_MH) for act, x_MH in zip(self.each, x.unbind(), strict=True)])
        images = x.chunk(self.num_experts, dim=1)
        return th.cat([act(image) for act, image in zip(self.each, images, strict=True)], dim=1)

    def unstack(self, k: int) -> nn.Module:
        """Return a copy of expert ``k``'s module."""
        return copy.deepcopy(self.each[k])

    def shares(self) -> list[Share]:
        """Return the weights of each expert's module."""
        return apart(self.each)

    def statistics(self) -> list[Statistic]:
        """Return the buffers of each expert's module."""
        return statistics_apart(self.each)

    def unbind(self) -> list[tuple[Any, ...]]:
        """Return (module,) per expert."""
        return [(module,) for module in self.each]

    def single(self, x: th.Tensor, share: tuple[Any, ...]) -> th.Tensor:
        """Apply one expert's module."""
        y: th.Tensor = share[0](x)
        return y


class StackedNorm(Stacked):
    """E normalisations over the batch as one over E*H features, which is the same thing.

    :param norms: one normalisation of (T, H) inputs per expert; every tensor of it with an axis
        has H entries
    """

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__(len(norms))
        self.norm = copy.deepcopy(norms[0])
        states = [norm.state_dict() for norm in norms]
        for name, tensor in [*self.norm.named_parameters(), *self.norm.named_buffers()]:
            if tensor.dim() > 0:
                tensor.data = th.cat([state[name] for state in states])

    def forward(self, x_ETI: th.Tensor) -> th.Tensor:
        """Normalise each expert's features over the T rows."""
        x_TEI = x_ETI.transpose(0, 1)
        return self.norm(x_TEI.flatten(1)).view(x_TEI.shape).transpose(0, 1)

    def unstack(self, k: int) -> nn.Module:
        """Return expert ``k``'s normalisation."""
        norm = copy.deepcopy(self.norm)
        for tensor in [*norm.parameters(), *norm.buffers()]:
            if tensor.dim() > 0:
                tensor.data = tensor.data.chunk(self.num_experts)[k].clone()
        return norm

    def shares(self) -> list[Share]:
        """Return the scales and shifts, H entries of each for every expert."""
        entries = [each for each in self.norm.parameters() if each.dim() > 0]
        return [Share(each, 0, self.num_experts) for each in entries]

    def statistics(self) -> list[Statistic]:
        """Return the running averages, H entries of each for every expert."""
        entries = [each for each in self.norm.buffers() if each.dim() > 0]
        return [Statistic(each, 0, self.num_experts) for each in entries]


@th.no_grad()
def copy_parameters(
    plain: nn.Linear | nn.Conv2d, weights: th.Tensor, biases: th.Tensor | None, k: int
) -> None:
    """Copy expert ``k``'s weight and bias into a plain module."""
    plain.weight.copy_(weights[k])
    if biases is not None and plain.bias is not None:
        plain.bias.copy_(biases[k])


def gated_sum(y_ETO: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
    """Sum over experts, weighted by the gates: (E, T, O) to (T, O)."""
    # An einsum would make a product of two tiny matrices of every row.
    return (y_ETO * gates_TE.t().unsqueeze(-1)).sum(0)
