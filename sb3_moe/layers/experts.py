"""Experts as one stacked network: built from plain modules, and given back as plain modules.

Shapes: E experts, T rows that every expert may see, M rows per expert, k chosen experts per row,
I inputs, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch as th
from torch import nn

from sb3_moe.layers.encoder import (
    ImageEncoder,
    Residual,
    StackedImageEncoder,
    StackedResidual,
    run,
    split,
)
from sb3_moe.layers.stacked import (
    Stacked,
    StackedConv2d,
    StackedFlatten,
    StackedLinear,
    StackedNorm,
    gated_sum,
)

LEAVES = (StackedLinear, StackedConv2d)
Tensors = tuple[th.Tensor | None, ...]
# Below this many wasted multiply-adds, computing every expert beats sorting rows (measured on CPU).
MASK_LIMIT = 4_000_000
# From so many hidden values of all experts on, one expert after the other is faster (on CPU): its
# values stay in the cache, and the C library hands no memory back to the system on each call.
CACHE_LIMIT = 524_288


class StackedNetwork(nn.Module):
    """E networks of one shape, run together.

    Each expert is given as a plain module and so starts with exactly the weights that module was
    given: whoever builds the experts decides how they are initialised.

    :param experts: one module per expert, alike but for their weights: an ``nn.Linear``, or an
        ``nn.Sequential`` of linear layers, an image encoder, normalisations and activations that
        ends in an ``nn.Linear``
    :raises ValueError: if there is no expert, or they differ in more than their weights
    :raises TypeError: if a layer can't be stacked, or the last one is not linear
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        if not experts:
            raise ValueError("`experts` must hold at least 1 expert, got 0")
        check_alike(experts)
        self.num_experts = len(experts)
        *hidden, last = zip(*(flat(expert) for expert in experts), strict=True)
        if not isinstance(last[0], nn.Linear):
            raise TypeError(f"an expert must end in nn.Linear, got {type(last[0]).__name__}")
        self.layers = nn.Sequential(*(stack(same) for same in hidden))
        # Whether a layer before the last one already turns shared rows into rows per expert.
        self.spreads = any(isinstance(layer, Stacked) for layer in self.layers)
        self.last = StackedLinear(last, last=self.spreads)
        self.out_features = self.last.out_features
        # Statistics over the batch need every row in every expert.
        self.needs_all_rows = any(isinstance(m, StackedNorm) for m in self.modules())
        leaves = [m for m in self.layers.modules() if isinstance(m, StackedLinear)]
        self.width = max((leaf.out_features for leaf in leaves), default=0)
        self.macs = sum(m.macs for m in self.modules() if isinstance(m, StackedLinear))

    def forward(self, x_EMI: th.Tensor) -> th.Tensor:
        """Run each expert on rows of its own: (E, M, I) to (E, M, O)."""
        if self._one_by_one(x_EMI):
            pairs = zip(self._singles(), x_EMI.unbind(), strict=True)
            return th.stack([single(x_MI) for single, x_MI in pairs])
        return self.last(run(self.layers, x_EMI, shared=False))

    def mixture(self, x_TI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Run every expert on every row and sum with the gates: (T, I) to (T, O)."""
        if not self.spreads:
            return gated_sum(self.every(x_TI), gates_TE)
        if self._one_by_one(x_TI):
            return self._mixture_one_by_one(x_TI, gates_TE)
        return self.last.mix(run(self.layers, x_TI, shared=True), gates_TE)

    def every(self, x_TI: th.Tensor) -> th.Tensor:
        """Run every expert on every row: (T, I) to (E, T, O)."""
        hidden = run(self.layers, x_TI, shared=True)
        return self.last(hidden) if self.spreads else self.last.shared(hidden)

    def selected(self, x_TI: th.Tensor, experts_Tk: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Run on each row only its chosen experts; no row is dropped.

        :param x_TI: the rows
        :param experts_Tk: indices of the chosen experts
        :param gates_TE: weight of each expert's output, zero where it was not chosen
        :return: (T, O)
        """
        wasted = len(x_TI) * (self.num_experts - experts_Tk.shape[1]) * self.macs
        # Sorting needs the counts on the host: on a GPU that wait costs more than the waste.
        if wasted <= MASK_LIMIT or x_TI.is_cuda or self.needs_all_rows:
            return self.mixture(x_TI, gates_TE)
        return self._sorted(x_TI, experts_Tk, gates_TE)

    def _sorted(self, x_TI: th.Tensor, experts_Tk: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        top_k = experts_Tk.shape[1]
        flat = experts_Tk.flatten()
        order = flat.argsort()
        counts = th.bincount(flat, minlength=self.num_experts).tolist()
        rows = x_TI[order.div(top_k, rounding_mode="floor")].split(counts)
        outputs = [single(x) for single, x in zip(self._singles(), rows, strict=True) if len(x)]
        inverse = th.empty_like(order).scatter_(0, order, th.arange(len(order)))
        y_TkO = th.cat(outputs)[inverse].unflatten(0, experts_Tk.shape)
        return (y_TkO * gates_TE.gather(1, experts_Tk).unsqueeze(-1)).sum(1)

    def _one_by_one(self, x: th.Tensor) -> bool:
        units = self.num_experts * x.shape[-2] * self.width
        return units >= CACHE_LIMIT and not x.is_cuda and not self.needs_all_rows

    def _singles(self) -> list[Callable[[th.Tensor], th.Tensor]]:
        """Return each expert as a function of its rows; the backward pass stacks once."""
        leaves = [leaf for leaf in self.modules() if isinstance(leaf, LEAVES)]
        experts = zip(*(leaf.unbind() for leaf in leaves), strict=True)
        return [partial(self._single, tensors) for tensors in experts]

    def _single(self, tensors: Sequence[Tensors], x: th.Tensor) -> th.Tensor:
        remaining = iter(tensors)
        for layer in [*self.layers, self.last]:
            x = single(layer, x, remaining)
        return x

    def _mixture_one_by_one(self, x_TI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        outputs = (single(x_TI) for single in self._singles())
        gates = gates_TE.split(1, dim=1)
        y_TO = next(outputs) * gates[0]
        for out_TO, gate_T1 in zip(outputs, gates[1:], strict=True):
            y_TO = y_TO.addcmul_(out_TO, gate_T1)
        return y_TO

    def expert(self, k: int) -> nn.Sequential:
        """Return expert ``k`` as plain modules, with a copy of its weights."""
        return nn.Sequential(*unstack_all(self.layers, k), self.last.unstack(k))


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module that does what each of these alike modules does, for all of them."""
    first = modules[0]
    match first:
        case nn.Linear():
            return StackedLinear(modules)  # type: ignore[arg-type]  # alike: all are Linear
        case nn.Conv2d():
            return StackedConv2d(modules)  # type: ignore[arg-type]
        case nn.Flatten():
            return StackedFlatten(len(modules))
        case Residual():
            blocks = [m.block for m in modules if isinstance(m, Residual)]
            return StackedResidual(stack_all(blocks), len(modules))
        case ImageEncoder():
            convs = [m.convs for m in modules if isinstance(m, ImageEncoder)]
            return StackedImageEncoder(stack_all(convs), first.image_shape, len(modules))
    if not first.state_dict():
        return copy.deepcopy(first)
    if hasattr(first, "num_features") and not isinstance(first, nn.BatchNorm2d | nn.BatchNorm3d):
        return StackedNorm(modules)
    raise TypeError(f"don't know how to stack {type(first).__name__} over experts")


def stack_all(networks: Sequence[nn.Module]) -> nn.Sequential:
    """Stack alike networks layer by layer."""
    columns = zip(*(flat(network) for network in networks), strict=True)
    return nn.Sequential(*(stack(same) for same in columns))


def flat(module: nn.Module) -> list[nn.Module]:
    """Return a network's layers in order, those of nested sequences too."""
    if isinstance(module, nn.Sequential):
        return [layer for each in module for layer in flat(each)]
    return [module]


def check_alike(experts: Sequence[nn.Module]) -> None:
    """Raise ValueError unless the experts have the same modules and tensors of the same shapes."""
    first, *others = (str(expert) for expert in experts)
    for k, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(f"`experts` must be alike, got {first} and, as expert {k}, {other}")


def unstack(layer: nn.Module, k: int) -> nn.Module:
    """Return expert ``k``'s share of a module that ``stack`` made."""
    match layer:
        case StackedImageEncoder():
            return ImageEncoder(unstack_all(layer.convs, k), layer.image_shape)
        case StackedResidual():
            return Residual(unstack_all(layer.block, k))
        case Stacked():
            return layer.unstack(k)
    return copy.deepcopy(layer)


def unstack_all(layers: nn.Sequential, k: int) -> nn.Sequential:
    """Return expert ``k``'s share of a stacked network."""
    return nn.Sequential(*(unstack(layer, k) for layer in layers))


def single(layer: nn.Module, x: th.Tensor, tensors: Iterator[Tensors]) -> th.Tensor:
    """Apply one expert's share of a module that ``stack`` made, taking its tensors in order."""
    match layer:
        case StackedImageEncoder():
            image, rest = split(x, layer.image_shape)
            return th.cat([single(layer.convs, image, tensors).flatten(1), rest], dim=1)
        case StackedResidual():
            return x + single(layer.block, x, tensors)
        case nn.Sequential():
            for each in layer:
                x = single(each, x, tensors)
            return x
        case StackedLinear() | StackedConv2d():
            return layer.single(x, next(tensors))
    y: th.Tensor = layer(x)
    return y


def mlp_experts(
    num_experts: int,
    in_features: int,
    hidden: int,
    out_features: int,
    activation_fn: Callable[[], nn.Module] = nn.ReLU,
) -> StackedNetwork:
    """Build experts of two linear layers with an activation between, initialised as torch does.

    :param num_experts: E
    :param in_features: features of a token
    :param hidden: width of an expert
    :param out_features: features of its output
    :param activation_fn: the activation between
    """
    return StackedNetwork(
        [
            nn.Sequential(
                nn.Linear(in_features, hidden), activation_fn(), nn.Linear(hidden, out_features)
            )
            for _ in range(num_experts)
        ]
    )
