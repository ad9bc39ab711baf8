"""Every hidden layer of a policy: the weights that lead into it, those that read it, its values.

Shapes: E experts (1 for a dense layer), T rows, H units (feature maps of a convolution), P
positions (1 without a convolution), O outputs, I inputs.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from sb3_moe.layers import Experts, LinearScores, MoELayer, SeparateNetworks, StackedNetwork
from sb3_moe.layers.activations import POINTWISE
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.evaluating import Call, evaluating, having, recording
from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.layers.stacked import StackedConv2d, StackedEach, StackedLinear, StackedResidual
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.networks import Network, networks_of
from sb3_moe.vec_env.observations import Obs

ACTIVATIONS = (nn.PReLU, *POINTWISE)

#: Layers with weights from each input to each output, dense or stacked.
WEIGHTED = (nn.Linear, nn.Conv2d, StackedLinear, StackedConv2d)
KNOWN = (*WEIGHTED, LinearScores)
# A block adds its input to its output: the values of units before it or inside it also reach what
# follows without weights, so no layer's weights hold all that leads out of these units.
BLOCKS = (Residual, StackedResidual)
# Packages whose modules run their submodules in the order in which they hold them.
IN_ORDER = ("stable_baselines3", "sb3_contrib", "sb3_moe")

# A function that views a tensor stored by a layer, or its Adam moments, by expert and unit.
View = Callable[[Tensor], Tensor]


def is_activation(module: nn.Module) -> bool:
    """Say whether a module is an activation, stacked or not: its output is a hidden layer's."""
    if isinstance(module, StackedEach):
        # A module of a user-defined class for each expert.
        return any(isinstance(part, ACTIVATIONS) for part in module.modules())
    return isinstance(module, ACTIVATIONS)


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight as it is stored."""
    names = ("weight_EOIhw", "weight_RK", "weight")
    return getattr(layer, next(name for name in names if hasattr(layer, name)))


def incoming(layer: nn.Module) -> View:
    """Return a function that views a layer's weight or bias by the units it feeds, (E, H, ...)."""
    return lambda tensor: _as_EOI(layer, tensor) if tensor.dim() > 1 else tensor.unsqueeze(0)


def outgoing(layer: nn.Module, num_experts: int, units: int, inputs: int) -> View:
    """Return a function that views a layer's weight by the units it reads, (E, H, ...).

    :param layer: the layer, whose inputs begin with the units, equally many inputs for each
    :param num_experts: E of the hidden layer; 1 for a dense one, even if every expert reads it
    :param units: H
    :param inputs: how many of the layer's inputs belong to the units; other inputs, such as a
        one-hot task id, come after them
    """

    def view(tensor: Tensor) -> Tensor:
        tensor_EOI = _as_EOI(layer, tensor)[:, :, :inputs]
        by_unit = tensor_EOI.unflatten(2, (units, -1)).movedim(2, 1)
        # A dense unit that every expert reads has outgoing weights in all experts.
        return by_unit if num_experts == len(by_unit) else by_unit.movedim(1, 0).unsqueeze(0)

    return view


def _as_EOI(layer: nn.Module, tensor: Tensor) -> Tensor:
    """Return a view of a weight with axes (E, O, I, ...); a stacked bias stays as it is."""
    match layer:
        case StackedLinear():
            return tensor.mT if layer.last and tensor.dim() == 3 else tensor
        case StackedConv2d():
            return tensor
        case LinearScores():
            return tensor.mT.unsqueeze(0)
    return tensor.unsqueeze(0)


class Reader(NamedTuple):
    """One layer that reads a hidden layer.

    :param layer: the layer, whose inputs begin with the units; within a unit they are its positions
    :param by_position: whether it reads one position of a feature map at a time, as a convolution
    """

    layer: nn.Module
    by_position: bool


class HiddenLayer(NamedTuple):
    """One hidden layer of a network.

    :param name: ``<network>.<index>``, counted from the input
    :param module: the activation module
    :param num_experts: E; 1 for a dense layer, or if it belongs to a single expert
    :param mixture: the mixture it is in, None for a dense layer
    :param expert: which of the mixture's experts it is in, None where it holds all of them
    :param feeder: the layer whose weights lead into it, maybe through a normalization; None if
        there is no such layer
    :param readers: every layer that reads it; empty where not all readers are known, or where a
        normalization stands before the activation
    :param norm: the normalization over the batch between the layer and its readers, if any
    """

    name: str
    module: nn.Module
    num_experts: int = 1
    mixture: MoELayer | None = None
    expert: int | None = None
    feeder: nn.Module | None = None
    readers: Sequence[Reader] = ()
    norm: nn.Module | None = None


def hidden_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List every hidden layer, one for each activation but the one that squashes actions.

    Those of routers are left out. ``readers`` is empty where not all of them are known:

    - next to a normalization (except CrossQ's batch normalization), a residual block or an LSTM
    - where feature maps are tokens of a mixture (``tokens="feature"``)
    - at the end of a features extractor that joins the outputs of several networks
    - in a user-defined class

    :param policy: of any algorithm
    """
    networks = networks_of(policy)
    found = {}
    numbers = defaultdict[str, Iterator[int]](itertools.count)

    def add(name: str, part: nn.Module, after: Sequence[Reader]) -> None:
        for layer in _along(_flat(part), after):
            if layer.module is not networks.squashing_module() and layer.module not in found:
                found[layer.module] = layer._replace(name=f"{name}.{next(numbers[name])}")

    for net in networks.networks():
        learned = _learned_heads(net)
        firsts = [first for head in learned for first in _next(_flat(head))]
        add(net.name, net.hidden, [reader for first in firsts for reader in _readers(first)])
        for head in net.heads:
            add(net.name, head, [])
    for name, extractor in networks.extractors().items():
        seen_by = [net for net in networks.networks() if net.extractor is extractor]
        read = []
        for net in seen_by:
            tokens = net.hidden.tokens if isinstance(net.hidden, MoENetwork) else "sample"
            read += [reader for first in _entries(net) for reader in _readers(first, tokens)]
        add(name, extractor, read)
    return list(found.values())


def heads(policy: BasePolicy) -> list[nn.Module]:
    """Return the last layer of every online network: a linear one, or a mixture of those.

    :param policy: of any algorithm
    """
    networks = networks_of(policy).networks()
    return [_last(part) for net in networks for part in _learned_heads(net) or [net.hidden]]


def _last(network: nn.Module) -> nn.Module:
    part = [leaf for leaf in _flat(network) if isinstance(leaf, KNOWN) or _mixture(leaf)][-1]
    mixture = _mixture(part)
    if mixture is None:
        return part
    # Whole-network experts have a head each.
    experts = mixture.experts
    return experts.last if isinstance(experts, StackedNetwork) and experts.spreads else mixture


def _learned_heads(net: Network) -> list[nn.Module]:
    """Return the heads that have weights; others take columns from whole-network experts."""
    return [head for head in net.heads if [*head.parameters()]]


def _entries(net: Network) -> list[nn.Module]:
    """Return the parts that read the features: an LSTM, else the first layer, else the heads."""
    if net.memory is not None:
        return [net.memory]
    first = _next(_flat(net.hidden))
    return first or [first for head in _learned_heads(net) for first in _next(_flat(head))]


def _mixture(part: nn.Module) -> MoELayer | None:
    """Return the mixture that a part is, or that it makes tokens for."""
    layer = part if isinstance(part, MoELayer) else getattr(part, "layer", None)
    return layer if isinstance(layer, MoELayer) else None


def _runs_in_order(module: nn.Module) -> bool:
    """Say whether a module runs its submodules one after the other, and does nothing else.

    A user-defined class may run its submodules in any way.
    """
    if isinstance(module, (*KNOWN, *BLOCKS, StackedEach)) or _mixture(module) is not None:
        return False
    if isinstance(module, nn.ModuleDict):  # of an extractor: several entries are joined
        return len(module) < 2
    if len(getattr(module, "convs", ())) > 1:  # TaskExtractor's encoders of several images
        return False
    forward = type(module).forward
    if forward.__module__.partition(".")[0] in IN_ORDER or forward is nn.Sequential.forward:
        return True
    # A user-defined wrapper of a single module, such as an activation.
    return len([*module.children()]) == 1 and not [*module.parameters()]


def _flat(module: nn.Module) -> list[nn.Module]:
    """List a module's parts in the order in which they run.

    A mixture is one part, together with the module that makes its tokens. So is a module whose
    order is not known. A task embedding is no part: it isn't on the way from features to outputs.
    """
    if isinstance(module, TaskEmbedding):
        return []
    children = [*module.children()]
    if not children or not _runs_in_order(module):
        return [module]
    lists = [each if isinstance(each, nn.ModuleList) else [each] for each in children]
    return [leaf for each in lists for child in each for leaf in _flat(child)]


def _along(chain: Sequence[nn.Module], after: Sequence[Reader]) -> Iterator[HiddenLayer]:
    """Find the hidden layers along a chain, and within its mixtures and blocks.

    :param chain: parts in the order in which they run
    :param after: the layers that read the last part
    """
    for i, part in enumerate(chain):
        mixture = _mixture(part)
        if mixture is not None:
            yield from _in_mixture(mixture)
        elif is_activation(part):
            before = chain[:i]
            rest = chain[i + 1 :]
            norm = next((each for each in _next(rest) if _is_unit_norm(each)), None)
            if norm is not None:
                rest = rest[rest.index(norm) + 1 :]
            found = [reader for each in _next(rest) for reader in _readers(each)] or after
            layers = [*before[-1:], *(reader.layer for reader in found)]
            known = before and all(isinstance(each, KNOWN) for each in layers)
            readers = found if known else ()
            yield HiddenLayer("", part, feeder=_feeder(before), readers=readers, norm=norm)
        elif not isinstance(part, KNOWN):
            for child in part.children():
                yield from _along(_flat(child), [])


def _feeder(chain: Sequence[nn.Module]) -> nn.Module | None:
    """Return the layer whose weights lead into what follows a chain, or None."""
    for part in reversed(chain):
        if isinstance(part, WEIGHTED):
            return part
        if is_activation(part) or _mixture(part) or [*part.children()]:
            return None
    return None


def _in_mixture(mixture: MoELayer) -> Iterator[HiddenLayer]:
    experts = mixture.experts
    stacked = experts.num_experts if isinstance(experts, StackedNetwork) else 1
    for k, network in enumerate(_networks_of(experts)):
        expert = k if isinstance(experts, SeparateNetworks) else None
        for layer in _along(_flat(network), []):
            yield layer._replace(num_experts=stacked, mixture=mixture, expert=expert)


def _is_unit_norm(part: nn.Module) -> bool:
    # The names of the running variance of each unit in torch's and sb3-contrib's normalizations.
    return hasattr(part, "running_var") or hasattr(part, "ra_var")


def _next(rest: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the next part that does more than reshape, as a list; empty if there is none."""
    for part in rest:
        if isinstance(part, KNOWN) or is_activation(part) or [*part.parameters()]:
            return [part]
    return []


def _readers(part: nn.Module, tokens: str = "sample") -> list[Reader]:
    """Return the layers by which a part reads its input; the part itself if they are unknown."""
    mixture = _mixture(part)
    # With one token for each feature map every unit is a token, and the same weights read them all.
    if mixture is None or tokens == "feature":
        return [Reader(part, isinstance(part, nn.Conv2d | StackedConv2d))]
    networks = [*_networks_of(mixture.experts), *_readers_of(mixture)]
    layers = [first for network in networks for first in _next(_flat(network))]
    return [Reader(each, tokens == "conv" or isinstance(each, StackedConv2d)) for each in layers]


def _readers_of(mixture: MoELayer) -> list[nn.Module]:
    """Return the modules by which a router reads tokens; the mixture itself if unknown."""
    if mixture.sees != "tokens":
        return []
    parts = [part for part in mixture.children() if part is not mixture.experts]
    if len(parts) != 1 or [*mixture.parameters(recurse=False)]:
        return [mixture]
    linears = [m for m in mixture.experts.modules() if isinstance(m, nn.Linear | StackedLinear)]
    # A narrower layer of a user-defined router reads only some features, and nothing tells which.
    if linears and isinstance(parts[0], nn.Linear):
        return parts if parts[0].in_features >= linears[0].in_features else [mixture]
    return parts


def _networks_of(experts: Experts) -> list[nn.Module]:
    """Return the experts as one network where they are stacked, else each by itself."""
    return list(experts.each) if isinstance(experts, SeparateNetworks) else [experts]


# What hidden layers compute, read by forward hooks that are removed afterwards.


class Activations(NamedTuple):
    """The post-activation values of one hidden layer on one batch.

    :param values_ETHP: one row per sample, token or slot that reached the layer; zeros where it was
        not sent to an expert
    :param rows_E: how many rows were sent to each expert; None: all
    """

    values_ETHP: Tensor
    rows_E: Tensor | None = None

    @property
    def activity_EH(self) -> Tensor:
        """Mean absolute activation of each unit over its expert's own rows (0 without any)."""
        _, rows, _, positions = self.values_ETHP.shape
        count = max(rows * positions, 1)
        mean_EH = self.values_ETHP.abs().sum(dim=(1, 3)) / count
        if self.rows_E is None:
            return mean_EH
        return mean_EH * (rows / self.rows_E.clamp(min=1)).unsqueeze(1)

    @property
    def features_TF(self) -> Tensor:
        """One row per sample with the units of all experts side by side."""
        return self.values_ETHP.transpose(0, 1).flatten(1)


def joined(batches: Sequence[Activations]) -> Activations:
    """Return the activations of a layer on several batches as those on one."""
    values, rows = zip(*batches, strict=True)
    rows_E = None if rows[0] is None else th.stack(rows).sum(0)
    return Activations(th.cat(values, 1), rows_E)


def as_ETHP(values: Tensor, num_experts: int = 1) -> Tensor:
    """Return the output of an activation module as (E, T, H, P).

    :param values: (T, H) or (T, C, height, width) of a dense layer, (E, T, H) or
        (E, T, C, height, width) of a stacked one, or (T, E*C, height, width) of grouped
        convolutions
    :param num_experts: E of the stacked network that the module belongs to, 1 for a dense layer
    :raises ValueError: if the shape is none of these
    """
    if values.dim() == 4:
        num_rows, _, *sides = values.shape
        values = values.reshape(num_rows, num_experts, -1, *sides).transpose(0, 1)
    elif values.dim() == 2 and num_experts == 1:
        values = values.unsqueeze(0)
    if values.dim() not in (3, 5) or values.shape[0] != num_experts:
        raise ValueError(f"activations must be (T, H) or (T, C, h, w), got {tuple(values.shape)}")
    return values.flatten(3) if values.dim() == 5 else values.unsqueeze(-1)


def online_parameters(policy: BasePolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every network, without those of target networks and temperatures.

    :param policy: of any algorithm
    """
    owners = networks_of(policy).owners()
    temperatures = temperatures_in(policy)
    found = defaultdict(list)
    for parameter in policy.parameters():
        if parameter in owners and parameter not in temperatures:
            found[owners[parameter]].append(parameter)
    return found


@th.no_grad()
def policy_activations(policy: BasePolicy, obs: Obs) -> dict[str, Activations]:
    """Return what each hidden layer computes on a batch, by ``<network>.<index>``.

    An expert's rows are zeros for tokens that a sparse router did not send to it. Layers of
    user-defined classes whose values have three axes are left out: which axis is that of the units
    isn't known.

    :param policy: of any algorithm; its mode is left as it was
    :param obs: a batch of observations, as the environment gives them
    """
    layers = hidden_layers(policy)
    watched = {layer.name: layer.module for layer in layers}
    watched |= {f"{la.name} mixture": la.mixture for la in layers if la.mixture is not None}
    # Sparse layers run every expert on every row, so that hooks see one tensor per layer.
    experts = [module for module in policy.modules() if isinstance(module, Experts)]
    all_rows = having(experts, "needs_all_rows", True)
    with evaluating(policy), all_rows, recording(watched) as calls:
        networks_of(policy).run(policy.obs_to_tensor(obs)[0])
    found = {layer.name: _activations(layer, calls) for layer in layers}
    return {name: each for name, each in found.items() if each is not None}


def _activations(layer: HiddenLayer, calls: Mapping[str, list[Call]]) -> Activations | None:
    """Return what a layer computed; None if it didn't run, or the axis of its units is unknown.

    With three axes it is unknown: a convolution over time has its units before the positions, a
    layer that is applied to each of several items has them last.
    """
    try:
        values_ETHP = as_ETHP(calls[layer.name][-1].output, layer.num_experts)
    except (IndexError, ValueError):
        return None
    if layer.mixture is None:
        return Activations(values_ETHP)
    routing = calls[f"{layer.name} mixture"][-1].output[1]
    # An expert that is not stacked with the others has layers of its own.
    mine = slice(None) if layer.expert is None else slice(layer.expert, layer.expert + 1)
    gates_TE = routing.gates_BNE.flatten(0, 1)
    if routing.experts_BNk is not None:
        chosen_TE = th.zeros_like(gates_TE).scatter(-1, routing.experts_BNk.flatten(0, 1), 1.0)
    elif layer.mixture.edit_gates is not None:  # all run, even experts that are off
        on_E = (gates_TE != 0).any(0).to(gates_TE.dtype)
        chosen_TE = on_E.expand(values_ETHP.shape[1], -1)
    else:
        return Activations(values_ETHP)
    chosen_TE = chosen_TE[:, mine]
    values_ETHP = values_ETHP * chosen_TE.T[:, :, None, None]
    return Activations(values_ETHP, chosen_TE.sum(0))


@th.no_grad()
def expert_outputs(policy: Any, obs: Obs) -> dict[str, Tensor]:
    """Return the output of every expert for every token, (E, T, O), by mixture.

    :param policy: one of this package's policies
    :param obs: a batch of observations
    """
    layers = policy.moe_layers()
    with evaluating(policy), recording(layers) as calls:
        networks_of(policy).run(policy.obs_to_tensor(obs)[0])
        return {
            name: layers[name].experts(each[-1].args[0].flatten(0, -2))
            for name, each in calls.items()
            if each
        }
