"""Sparse training: most weights of a network are zero, from the start to the end.

Shapes: E experts (1 for a dense layer), H units, W weights of one expert's layer.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from sb3_moe.callbacks.periodic import CheckedCallback, refuse_trpo, same_training
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import one_of, positive, whole
from sb3_moe.layers.moe import router_parameters
from sb3_moe.layers.stacked import StackedConv2d, StackedLinear
from sb3_moe.measures.hidden import WEIGHTED, incoming, weight_of
from sb3_moe.policies.masks import (
    SEED,
    UPDATES,
    MaskedSteps,
    apply_masks,
    mask_targets,
    masks_in,
    moments_in,
    set_masks,
)
from sb3_moe.policies.networks import networks_of, uncompiled

Method = Literal["static", "set", "rigl"]
Shape = Sequence[int]


class SparseTrainingCallback(CheckedCallback):
    """Keep most weights of every network at zero while it learns (arXiv 2206.10369).

    For any algorithm that has optimizers, with SB3's policies or this package's. Masks are drawn
    before the first step, for each network separately, and applied after every step of the
    optimizer to weights, their moments and target networks. As in the authors' code, all linear and
    convolutional layers are sparse, those of the output too; biases, normalizations, LSTMs and a
    mixture's routers are dense. Each expert's part of a layer counts as a layer of its own. For
    ``"set"`` and ``"rigl"`` ``sparsity/changed`` is logged: how many connections the last change
    added.

    Masks are saved with the optimizer, and a model that has masks keeps them until
    :func:`sb3_moe.growing.drop_masks` is called. After training the weights stay sparse, but a
    later training without this callback makes them dense.

    :param sparsity: share of the weights of each network that are zero, in [0, 1)
    :param method: ``"static"``: the masks stay; ``"set"``: the smallest weights are dropped and
        others, at random, grow from zero (arXiv 1707.04780); ``"rigl"``: instead of random ones,
        those with the largest gradients grow (arXiv 1911.11134)
    :param densities: ``"erk"``: layers with few weights are denser (Erdos-Renyi-Kernel);
        ``"uniform"``: all layers are equally dense
    :param drop_fraction: share of a layer's connections that change, at the beginning; it falls to
        0 along half a cosine. The defaults are those with which the authors train DQN and SAC
    :param interval: steps of the optimizer between changes (the authors' PPO: 250)
    :param end_fraction: share of training after which connections no longer change
    :param rescale: whether weights that are alive start larger, so that the pre-activations of
        units are as large as in the dense network. ReDo and other callbacks draw weights anew as
        for a dense network
    :param seed: of the masks; None: the model's
    :param verbose: 1 prints how many weights are alive
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range, or the algorithm is TRPO and the method is
        not ``"static"``
    """

    def __init__(
        self,
        sparsity: float,
        method: Method = "static",
        *,
        densities: str = "erk",
        drop_fraction: float = 0.3,
        interval: int = 1000,
        end_fraction: float = 0.8,
        rescale: bool = True,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if not 0 <= sparsity < 1:
            raise ValueError(f"`sparsity` must be in [0, 1), got {sparsity}")
        one_of("method", method, get_args(Method))
        one_of("densities", densities, list(DENSITIES))
        whole("interval", interval)
        positive("drop_fraction", drop_fraction, at_most=1.0)
        positive("end_fraction", end_fraction, at_most=1.0)
        self.sparsity = sparsity
        self.method = method
        self.densities = densities
        self.drop_fraction = drop_fraction
        self.interval = interval
        self.end_fraction = end_fraction
        self.rescale = rescale
        self.seed = seed

    def init_callback(self, model: BaseAlgorithm) -> None:
        """List the layers that are to be sparse."""
        super().init_callback(model)
        self.policy = uncompiled(model.policy)
        self.layers = sparse_layers(self.policy)
        self.optimizers = networks_of(self.policy).every_optimizer()

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError for TRPO, unless the method is ``"static"``."""
        if self.method != "static":  # TRPO's actor makes no optimizer steps
            refuse_trpo(model, f"{type(self).__name__}(method={self.method!r})")

    def _on_training_start(self) -> None:
        self._changed: dict[th.optim.Optimizer, int] = {}
        counts = counts_of(self.layers, self.sparsity, self.densities)
        alive = [n * layer.num_experts for layer, n in zip(self.layers, counts, strict=True)]
        masks = self._masks()
        own = [masks[layer.weight] for layer in self.layers if layer.weight in masks]
        changes = not masks or self.method != "static"
        if changes and any(getattr(module, "frozen", ()) for module in self.policy.modules()):
            raise ValueError("`model` must have no frozen experts where masks are drawn or change")
        if not masks:
            self._draw(counts)
        elif [int(mask.sum()) for mask in own] != alive:
            # The masks are those of an earlier run.
            raise ValueError("`sparsity` and `densities` must be those of the masks in the model")
        lasts = same_training(self.model)
        self._steps = [
            MaskedSteps(optimizer, self._is_due, self._regrow, lasts)
            for optimizer in self.optimizers
            if masks_in(optimizer)
        ]
        mask_targets(self.policy, self._masks())
        total = sum(layer.weight.numel() for layer in self.layers)
        self.say(f"{sum(alive):,} of {total:,} weights are alive")

    def _masks(self) -> Mapping[Tensor, Tensor]:
        return {p: mask for each in self.optimizers for p, mask in masks_in(each).items()}

    def _draw(self, counts: Sequence[int]) -> None:
        """Draw masks that leave a given number of weights alive.

        :param counts: how many weights of each expert are alive, by layer
        """
        fresh = np.random.SeedSequence().generate_state(1)[0]
        seeds = (self.seed, self.model.seed, fresh)
        seed = next(int(each) for each in seeds if each is not None)
        generator = generator_of(seed)
        masks = dict[Tensor, Tensor]()
        targets = networks_of(self.policy).followers()
        for layer, count in zip(self.layers, counts, strict=True):
            size = math.prod(layer.shape)
            rows = [drawn(size, count, generator) for _ in range(layer.num_experts)]
            mask = th.stack(rows).view_as(layer.weight).to(layer.weight.device)
            masks[layer.weight] = mask
            if self.rescale:
                followed = [targets[layer.weight]] if layer.weight in targets else []
                _rescale(layer, mask, [layer.weight, *followed])
        for optimizer in self.optimizers:
            set_masks(optimizer, masks)
            for group in optimizer.param_groups:
                group[UPDATES] = 0
                group[SEED] = seed

    def _fraction(self) -> float:
        """Return the share of connections that change, which falls to 0 along half a cosine."""
        progress = self.model.num_timesteps / max(self.model._total_timesteps, 1)
        angle = min(math.pi * progress / self.end_fraction, math.pi)
        return self.drop_fraction * (1.0 + math.cos(angle)) / 2.0

    def _is_due(self, update: int) -> bool:
        return self.method != "static" and update % self.interval == 0 and self._fraction() > 0

    @th.no_grad()
    def _regrow(self, optimizer: th.optim.Optimizer) -> None:
        """Drop the smallest weights of each layer and let as many others grow, from zero.

        An expert that got no gradient in the last step keeps its connections: nothing tells which
        it needs, and ``freeze_idle`` promises that it stays as it is.

        :param optimizer: the one that has just stepped
        """
        masks = masks_in(optimizer)
        moments = moments_in(optimizer)
        group = optimizer.param_groups[0]
        place = self.optimizers.index(optimizer) + 1
        generator = generator_of(group[SEED], place, group[UPDATES])
        fraction = self._fraction()
        changed = 0
        for layer in self.layers:
            mask = masks.get(layer.weight)
            gradient = layer.weight.grad
            if mask is None or gradient is None:
                continue
            before = mask.clone()
            each_EW = (t.reshape(layer.num_experts, -1) for t in (layer.weight, mask, gradient))
            for weight_W, mask_W, gradient_W in zip(*each_EW, strict=True):
                if gradient_W.any():
                    scores_W = gradient_W.abs()
                    if self.method == "set":
                        scores_W = th.rand(len(scores_W), generator=generator).to(scores_W)
                    some = int(fraction * int(mask_W.sum()))
                    mask_W.copy_(regrown(weight_W, mask_W, some, scores_W))
            born = mask & ~before
            for tensor in (layer.weight, *moments.get(layer.weight, ())):
                tensor.masked_fill_(born, 0.0)
            changed += int(born.sum())
        # Leave weights of other optimizers alone: when SAC's critics step, the actor's forward pass
        # is done, but not yet its backward pass.
        apply_masks(optimizer)
        mask_targets(self.policy, masks)
        self._changed[optimizer] = changed

    def _on_rollout_end(self) -> None:
        if self._changed:
            self.logger.record("sparsity/changed", sum(self._changed.values()))

    def _on_training_end(self) -> None:
        for steps in self._steps:
            steps.detach()


# Layers.


class SparseLayer(NamedTuple):
    """A layer that can be sparse; each expert's part of it counts as a layer of its own.

    :param network: name of the network that has the layer
    :param layer: the module
    :param weight: the layer's weight
    :param num_experts: E, the number of experts whose weights it stacks
    """

    network: str
    layer: nn.Module
    weight: Tensor
    num_experts: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one expert's weight."""
        is_stacked = isinstance(self.layer, StackedLinear | StackedConv2d)
        return tuple(self.weight.shape[1:] if is_stacked else self.weight.shape)


def sparse_layers(policy: BaseModel) -> list[SparseLayer]:
    """List the linear and convolutional layers of every online network, the last ones too.

    Routers, biases, normalizations, LSTMs and weights that no optimizer learns are left out.

    :param policy: of any algorithm
    """
    networks = networks_of(policy)
    groups = [group for each in networks.every_optimizer() for group in each.param_groups]
    learned = {p for group in groups for p in group["params"] if p.requires_grad}
    mixtures = [module for module in policy.modules() if isinstance(module, MoELayer)]
    learned -= {p for layer in mixtures for p in router_parameters(layer)}
    found = {}
    for net in networks.networks():
        # Leave out parts that are None or empty.
        every = (net.extractor, net.memory, net.hidden, *net.heads)
        parts = nn.ModuleList(filter(None, every))
        for layer in (each for each in parts.modules() if isinstance(each, WEIGHTED)):
            weight = weight_of(layer)
            if weight in learned and weight not in found:
                experts = getattr(layer, "num_experts", 1)
                found[weight] = SparseLayer(net.name, layer, weight, experts)
    return list(found.values())


@th.no_grad()
def _rescale(layer: SparseLayer, mask: Tensor, weights: Sequence[Tensor]) -> None:
    """Make up for the inputs that each unit loses (Evci et al. 2022, arXiv 2010.03533).

    :param weights: the layer's weight, and that of the target network, if any
    """
    by_unit = incoming(layer.layer)
    alive = by_unit(mask).flatten(2)
    factors = (alive.shape[2] / alive.sum(2).clamp(min=1)).sqrt()
    for weight in map(by_unit, weights):
        ones = [1] * (weight.dim() - 2)
        weight.mul_(factors.view(*factors.shape, *ones))


# Densities.


def erk(shapes: Sequence[Shape], sparsity: float) -> Sequence[float]:
    """Make layers with few weights denser (Erdos-Renyi-Kernel; arXiv 1911.11134, section 3).

    A layer's density is proportional to the sum of its axes' lengths over their product. Where that
    would be more than 1 the layer is dense, and the others share the remaining weights.

    :param shapes: of each layer's weight, such as (out, in) or (out, in, height, width)
    :param sparsity: share of all weights that are zero, in [0, 1)
    :return: share of weights that are alive, by layer
    """
    sizes = np.array([math.prod(shape) for shape in shapes])
    sums = np.array([sum(shape) for shape in shapes])
    raw = sums / sizes
    dense = np.zeros(len(shapes), bool)
    while True:
        wanted = (1.0 - sparsity) * sizes.sum() - sizes[dense].sum()
        densities = raw * wanted / (sums[~dense].sum() or 1.0)
        densities[dense] = 1.0
        full = densities > 1.0
        if not full.any():
            return densities.tolist()
        dense |= full & (raw == raw[full].max())


DENSITIES: Mapping[str, Callable[[Sequence[Shape], float], Sequence[float]]] = {
    "erk": erk,
    "uniform": lambda shapes, sparsity: [1.0 - sparsity] * len(shapes),
}


def counts_of(layers: Sequence[SparseLayer], sparsity: float, densities: str) -> list[int]:
    """Return how many weights of one expert are alive in each layer, at least 1.

    :param layers: of a policy, network by network; networks are equally sparse
    :param sparsity: share of a network's weights that are zero
    :param densities: ``"erk"`` or ``"uniform"``
    """
    counts = []
    for _, each in itertools.groupby(layers, lambda layer: layer.network):
        own = list(each)
        shapes = [layer.shape for layer in own for _ in range(layer.num_experts)]
        # Parts of one shape are equally dense.
        found = dict(zip(shapes, DENSITIES[densities](shapes, sparsity), strict=True))
        counts += [max(1, round(found[layer.shape] * math.prod(layer.shape))) for layer in own]
    return counts


# Masks.


def generator_of(*numbers: int) -> th.Generator:
    """Return a generator that is seeded by numbers alone, so that its state need not be saved."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return th.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def drawn(size: int, alive: int, generator: th.Generator) -> Tensor:
    """Return a random mask (W,) with a given number of True entries.

    :param size: W
    :param alive: how many entries are True, at most W
    :param generator: on the CPU
    """
    mask_W = th.zeros(size, dtype=th.bool)
    mask_W[th.randperm(size, generator=generator)[:alive]] = True
    return mask_W


def regrown(weight_W: Tensor, mask_W: Tensor, number: int, scores_W: Tensor) -> Tensor:
    """Return the mask without the smallest weights, and with as many others in their place.

    A weight that is dropped may grow again, as in the authors' code of RigL (arXiv 1911.11134).

    :param weight_W: the layer's weights
    :param mask_W: True for weights that are alive now
    :param number: how many change, at most as many as are alive
    :param scores_W: weights with the largest scores grow, among those that aren't kept
    """
    kept = int(mask_W.sum()) - number
    sizes_W = weight_W.abs().masked_fill(~mask_W, -1.0)
    new_W = th.zeros_like(mask_W)
    new_W[sizes_W.topk(kept).indices] = True
    lowest = scores_W.masked_fill(new_W, -math.inf)
    new_W[lowest.topk(number).indices] = True
    return new_W
