"""FLOPs of one forward pass: torch counts what dense parts do, and mixtures are counted by shapes.

What a mixture's routing needs of its experts is counted, whichever way the layer computes them.

Shapes: B samples, N tokens of each, E experts, I features of a token.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sb3_moe.layers import ExpertChoiceMoE, MoELayer, Routing, SoftMoE

# Layers of torch's with products of matrices that torch doesn't count.
UNCOUNTED = (nn.Bilinear, nn.MultiheadAttention)


class FlopCount:
    """Count what runs in a network while :func:`counting` it.

    :ivar by_part: FLOPs of each part in its last run: SB3's methods run an extractor once for each
        network that reads it
    :ivar share: of its experts that a token uses, by mixture
    :param parts: modules that are counted each by itself
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self.by_part: dict[nn.Module, int] = dict.fromkeys(parts, 0)
        self.share: dict[MoELayer, float] = {}
        self.mode = FlopCounterMode(display=False)
        # Of each module that runs, the innermost last: what torch had counted when it began, what
        # torch counted within it in modules that are done, and what counts for these.
        self._running = [[0, 0, 0]]

    @property
    def outside(self) -> int:
        """FLOPs of what is in no part."""
        return self.mode.get_total_flops() - self._running[0][1]

    def begin(self, module: nn.Module, args: Any) -> None:
        """Note that a module starts."""
        self._running.append([self.mode.get_total_flops(), 0, 0])

    def end(self, module: nn.Module, args: tuple[th.Tensor, ...], output: Any) -> None:
        """Note what a module that ends has done."""
        start, done, inside = self._running.pop()
        own = self.mode.get_total_flops() - start - done
        if isinstance(module, MoELayer):
            own = mixture_flops(module, args[0], output[1])
            self.share[module] = _num_chosen(module, output[1]) / module.num_experts
        elif isinstance(module, nn.RNNBase):
            own = _recurrent_flops(module, args[0])
        if module in self.by_part:
            self.by_part[module] = own + inside
        outer = self._running[-1]
        outer[1] += self.mode.get_total_flops() - start
        outer[2] += own + inside


@contextmanager
def counting(module: nn.Module, parts: Iterable[nn.Module] = ()) -> Iterator[FlopCount]:
    """Count while the block runs.

    :param module: a policy, or a part of one
    :param parts: modules in it that are counted each by itself
    """
    count = FlopCount(parts)
    watched = {*count.by_part}
    for each in module.modules():
        if isinstance(each, MoELayer):
            watched |= {each, *each.children()} - {each.experts}
        elif isinstance(each, nn.RNNBase):
            watched.add(each)
        elif isinstance(each, UNCOUNTED):
            name = type(each).__name__
            warnings.warn(f"FLOPs of {name} count as 0: a network with it has more", stacklevel=3)
    handles = [each.register_forward_pre_hook(count.begin) for each in watched]
    handles += [each.register_forward_hook(count.end) for each in watched]
    try:
        # Nothing sees into compiled code, and torch warns that its own hooks ask for it twice.
        with warnings.catch_warnings(), th.compiler.set_stance("force_eager"), count.mode:
            warnings.filterwarnings("ignore", "Using `torch.compile")
            yield count
    finally:
        for handle in handles:
            handle.remove()


def mixture_flops(layer: MoELayer, x: th.Tensor, routing: Routing) -> int:
    """Return the FLOPs of a mixture for a batch, without its router's modules.

    :param layer: of any router
    :param x: what its experts see, (B, I) or (B, N, I)
    :param routing: what the layer decided
    """
    batch, *tokens, width = x.shape
    num_tokens = math.prod(tokens)
    experts, out_features = layer.num_experts, layer.experts.out_features
    rows = _rows(layer, num_tokens, routing)
    with FlopCounterMode(display=False) as mode:
        layer.experts.expert(0)(x.new_zeros(1, width))
    flops = rows * mode.get_total_flops()
    if isinstance(layer, SoftMoE) and num_tokens > 1:  # tokens into slots, and back
        flops += 2 * num_tokens * rows * (width + out_features)
    if layer.experts.combination is not None:  # Gram-Schmidt: two products a pair, a norm for each
        flops += num_tokens * (2 * experts * (experts - 1) + 3 * experts) * out_features
    return batch * flops


def _num_chosen(layer: MoELayer, routing: Routing) -> int:
    """Return how many experts serve a token, on average."""
    if isinstance(layer, ExpertChoiceMoE):
        return layer.top_k
    chosen = routing.experts_BNk
    return layer.num_experts if chosen is None else chosen.shape[-1]


def _rows(layer: MoELayer, num_tokens: int, routing: Routing) -> int:
    """Return how many rows the experts run on together, for one sample."""
    if isinstance(layer, SoftMoE):
        # With one token every slot holds that token, and each expert runs once.
        return layer.num_experts * (layer.num_slots if num_tokens > 1 else 1)
    if isinstance(layer, ExpertChoiceMoE):
        return layer.num_experts * layer.capacity(num_tokens)
    return num_tokens * _num_chosen(layer, routing)


def _recurrent_flops(layer: nn.RNNBase, x: th.Tensor) -> int:
    """Count the products of a recurrent layer, which torch runs as one operation on some devices.

    :param x: (..., features)
    """
    weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
    return 2 * weights * x[..., 0].numel()
