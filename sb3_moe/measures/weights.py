"""Which weights lead into a hidden layer and out of it, seen by expert and unit.

Shapes: E experts (1 for a dense layer), H units, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import NatureCNN
from torch import nn

from sb3_moe.layers import (
    Experts,
    LinearRouter,
    MLPRouter,
    MoELayer,
    SeparateNetworks,
    StackedNetwork,
)
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.layers.stacked import StackedConv2d, StackedEach, StackedLinear, StackedResidual
from sb3_moe.measures.activations import is_activation
from sb3_moe.policies.networks import Network, networks_of
from sb3_moe.vec_env.task_ids import OneHotBehind

#: Layers with weights from each input to each output, dense or stacked.
WEIGHTED = (nn.Linear, nn.Conv2d, StackedLinear, StackedConv2d)

# A view of a tensor that a layer stores, or of Adam's moments of it, by expert and unit.
View = Callable[[th.Tensor], th.Tensor]


def bias_of(layer: nn.Module) -> th.Tensor | None:
    """Return a layer's bias as it is stored, None where it has none."""
    bias = getattr(layer, "bias_EO" if hasattr(layer, "bias_EO") else "bias", None)
    assert isinstance(bias, th.Tensor | None)
    return bias


def weight_of(layer: nn.Module) -> th.Tensor:
    """Return a layer's weight as it is stored."""
    match layer:
        case StackedConv2d():
            return layer.weight_EOIhw
        case LinearRouter():
            return layer.weight_RK
    assert isinstance(layer.weight, th.Tensor)
    return layer.weight


def incoming(layer: nn.Module) -> View:
    """Return the view (E, H, ...) of a layer's weight or bias by the unit that it leads into."""
    if isinstance(layer, StackedLinear):
        return lambda tensor: tensor.mT if layer.last and tensor.dim() == 3 else tensor
    if isinstance(layer, StackedConv2d):
        return lambda tensor: tensor
    return lambda tensor: tensor.unsqueeze(0)


def outgoing(layer: nn.Module, num_experts: int, units: int, inputs: int) -> View:
    """Return the view (E, H, ...) of a layer's weight by the unit that it leads out of.

    :param layer: whose inputs begin with the units, equally many inputs for each
    :param num_experts: E of the hidden layer; 1 where a dense one is read by every expert
    :param units: H
    :param inputs: how many of the layer's inputs belong to the units; others, such as a one-hot
        task id, come after them
    """

    def view(tensor: th.Tensor) -> th.Tensor:
        tensor_EOI = _as_EOI(layer, tensor)[:, :, :inputs]
        by_unit = tensor_EOI.unflatten(2, (units, -1)).movedim(2, 1)
        # A dense unit that every expert reads has outgoing weights in all of them.
        return by_unit if num_experts == len(by_unit) else by_unit.movedim(1, 0).unsqueeze(0)

    return view


def _as_EOI(layer: nn.Module, tensor: th.Tensor) -> th.Tensor:
    match layer:
        case StackedLinear():
            return tensor.mT if layer.last else tensor
        case StackedConv2d():
            return tensor
        case LinearRouter():
            return tensor.mT.unsqueeze(0)
    return tensor.unsqueeze(0)


KNOWN = (*WEIGHTED, LinearRouter)
# A unit inside a block, or before it, also goes around it: no weights hold all that leads out.
BLOCKS = (Residual, StackedResidual)


class Reader(NamedTuple):
    """One layer that reads a hidden layer.

    :param layer: with weights whose inputs begin with the units, position by position within each
    :param by_position: it sees one position of a feature map at a time, as a convolution does
    """

    layer: nn.Module
    by_position: bool


class Wiring(NamedTuple):
    """One hidden layer between the layers before and after it.

    :param activation: the hidden layer's activation
    :param before: what leads into it
    :param after: every layer that reads it
    :param norm: normalizes each unit on the way there, over the batch, if anything does
    """

    activation: nn.Module
    before: nn.Module
    after: list[Reader]
    norm: nn.Module | None = None


def wirings(policy: BasePolicy) -> list[Wiring]:
    """Return every hidden layer whose weights on both sides are known.

    Left out are layers next to a normalization (but CrossQ's, which is over the batch and behind
    the activation), a residual block or an LSTM, those whose feature maps are tokens of a mixture
    (``tokens="feature"``), and features extractors that join several networks.

    :param policy: of any algorithm
    """
    found: list[Wiring] = []
    behind: dict[nn.Module, list[nn.Module]] = {}
    for net in networks_of(policy).networks():
        learned = _learned_heads(net)
        found += _along(_leaves(net.hidden), _readers(learned))
        found += [wiring for head in learned for wiring in _along(_leaves(head), [])]
        behind.setdefault(net.extractor, []).extend(_entries(net))
    for extractor, parts in behind.items():
        if _is_one_network(extractor):
            found += _along(_leaves(extractor), _readers(parts))
    return found


def heads(policy: BasePolicy) -> list[nn.Module]:
    """Return the last layer of every online network: a linear one, or a mixture of those.

    :param policy: of any algorithm
    """
    networks = networks_of(policy).networks()
    return [_last(part) for net in networks for part in _learned_heads(net) or [net.hidden]]


def _learned_heads(net: Network) -> list[nn.Module]:
    """Leave out heads that only take columns of what big experts give."""
    return [head for head in net.heads if any(True for _ in head.parameters())]


def _entries(net: Network) -> list[nn.Module]:
    """Return what reads the features: the first hidden layer, or else the heads do."""
    if net.memory is not None:
        return [net.memory]
    return _next(_leaves(net.hidden)) or _learned_heads(net)


def _last(network: nn.Module) -> nn.Module:
    part = [leaf for leaf in _leaves(network) if isinstance(leaf, KNOWN) or _mixture(leaf)][-1]
    mixture = _mixture(part)
    if mixture is None:
        return part
    # The experts of "big" are whole networks, each with a head of its own.
    experts = mixture.experts
    return experts.last if isinstance(experts, StackedNetwork) and experts.spreads else mixture


def _is_one_network(extractor: nn.Module) -> bool:
    # Ours has one entry in `convs` for each image.
    # A user's own may mean anything by an attribute of that name.
    is_ours = isinstance(extractor, OneHotBehind) and len(getattr(extractor, "convs", ())) == 1
    return isinstance(extractor, NatureCNN) or is_ours


def _mixture(part: nn.Module) -> MoELayer | None:
    """Return the mixture that a part is, or that it makes tokens for."""
    layer = part if isinstance(part, MoELayer) else getattr(part, "layer", None)
    return layer if isinstance(layer, MoELayer) else None


def _leaves(module: nn.Module) -> list[nn.Module]:
    """List a module's parts in the order in which they run.

    A mixture is one part, with what makes its tokens, and so are a residual block and activations
    of which each expert has its own. What a tower makes of task ids is none.
    """
    children = list(module.children())
    if isinstance(module, TaskEmbedding) or (isinstance(module, nn.Sequential) and not children):
        return []
    whole = isinstance(module, (*KNOWN, *BLOCKS, StackedEach)) or _mixture(module) is not None
    if whole or not children:
        return [module]
    return [leaf for child in children for leaf in _leaves(child)]


def _along(chain: Sequence[nn.Module], heads: list[Reader]) -> Iterator[Wiring]:
    """Find the hidden layers along a chain, and within its mixtures.

    :param chain: parts in the order in which they run
    :param heads: what reads the last of them
    """
    for i, part in enumerate(chain):
        mixture = _mixture(part)
        if mixture is not None:
            for network in _networks_of(mixture.experts):
                if _runs_in_order(network):
                    yield from _along(_leaves(network), [])
        elif is_activation(part) and i > 0 and isinstance(chain[i - 1], KNOWN):
            rest = list(chain[i + 1 :])
            norm = next((n for n in _next(rest) if _is_unit_norm(n)), None)
            after = _readers(_next(rest[rest.index(norm) + 1 :] if norm else rest)) or heads
            if after and all(isinstance(reader.layer, KNOWN) for reader in after):
                yield Wiring(part, chain[i - 1], after, norm)


def _is_unit_norm(part: nn.Module) -> bool:
    # As torch's and sb3-contrib's call the running variance of each unit over batches.
    return hasattr(part, "running_var") or hasattr(part, "ra_var")


def _next(rest: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the next part that does more than reshape."""
    for part in rest:
        weighted = isinstance(part, KNOWN) or any(True for _ in part.parameters())
        if weighted or is_activation(part):
            return [part]
    return []


def _readers(parts: Sequence[nn.Module]) -> list[Reader]:
    """Return the layers by which parts read their input."""
    firsts = [first for part in parts for first in _next(_leaves(part))]
    return [reader for first in firsts for reader in _readers_in(first)]


def _readers_in(part: nn.Module) -> list[Reader]:
    mixture, tokens = _mixture(part), getattr(part, "tokens", "sample")
    # With a token per feature map each unit comes alone, and the same weights read all of them.
    if mixture is None or tokens == "feature":
        return [Reader(part, isinstance(part, nn.Conv2d | StackedConv2d))]
    networks = [*_networks_of(mixture.experts), *_readers_of(mixture)]
    layers = [first for network in networks for first in _firsts(network)]
    return [Reader(each, tokens == "conv" or isinstance(each, StackedConv2d)) for each in layers]


def _readers_of(mixture: MoELayer) -> list[nn.Module]:
    """Return the modules by which a router reads tokens; the layer itself where nothing tells."""
    if mixture.sees != "tokens":
        return []
    parts = [part for part in mixture.children() if part is not mixture.experts]
    linears = [m for m in mixture.experts.modules() if isinstance(m, nn.Linear | StackedLinear)]
    # A narrower layer of the user's own reads some of what there is, and nothing tells which.
    narrow = any(
        isinstance(part, nn.Linear) and linears and part.in_features < linears[0].in_features
        for part in parts
    )
    tells = len(parts) == 1 and not narrow and not [*mixture.parameters(recurse=False)]
    return parts if tells else [mixture]


def _networks_of(experts: Experts) -> list[nn.Module]:
    """Return the experts as one network where they are stacked, else each by itself."""
    return list(experts.each) if isinstance(experts, SeparateNetworks) else [experts]


def _firsts(network: nn.Module) -> list[nn.Module]:
    """Return what reads a network's input; the network itself where its order is not known."""
    return _next(_leaves(network)) if _runs_in_order(network) else [network]


def _runs_in_order(network: nn.Module) -> bool:
    """Say whether a network is known to run its parts one after the other.

    A class of the user's own may run them in any way: around a block, or twice.
    """
    if isinstance(network, (*KNOWN, StackedNetwork, MLPRouter)):
        return True
    rows = [part for part in network.modules() if next(part.children(), None) is not None]
    return all(type(row).forward is nn.Sequential.forward for row in rows)
