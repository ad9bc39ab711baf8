"""The layers of a network that become experts, each built as the dense layers it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import (
    Experts,
    MLPExpert,
    MoELayer,
    RouterInput,
    SeparateNetworks,
    StackedNetwork,
)
from sb3_moe.layers.classes import of_this_package
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.fixed_moe import EmbeddingMoE
from sb3_moe.layers.orthonormal import check_orthogonal, gram_schmidt
from sb3_moe.layers.routing import Routing
from sb3_moe.layers.tokens import TokenKind, token_shape
from sb3_moe.policies.dense_layers import DenseLayers, Init, Stage, fitted
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.start_scale import own_generator

# Rows that classes of the user's own are tried on.
TRIAL_ROWS = 2
# The size of dense layers is measured on so many draws of them, each with so many outputs.
DRAWS, MEASURED_WIDTH = 16, 128


class ExpertLayers:
    """Makes a network's layers of experts, and remembers what each stands for.

    :param options: what the network is to be
    :param layout: what its first layer is given
    :param dense: makes what stands around experts, and inside those with several layers
    :param init_head: initializes a head in place, as SB3 would
    """

    def __init__(
        self, options: MoEOptions, layout: Layout, dense: DenseLayers, init_head: Init
    ) -> None:
        self.options, self.layout, self.dense = options, layout, dense
        self.init_hidden, self.init_head = dense.init_hidden, init_head
        self.num_experts = options.resolve_num_experts(layout.num_tasks) if options.is_moe else 0
        #: Draws of the dense layers that each layer of experts stands for, where both are to start
        #: as strong.
        self.dense_spans: dict[MoELayer, list[nn.Sequential]] = {}
        #: The first layer of one network that shares its task embedding with the others.
        self.shared: EmbeddingMoE | None = None

    def hidden(self, stage: Stage, width: int, number: int) -> list[nn.Module]:
        """Return experts in place of a hidden layer, and what follows their sum.

        :param stage: the dense layer
        :param width: of the rows, but for what the first layer sees beside them
        :param number: which hidden layer it is, from 0
        """
        first = number == 0
        tokens: TokenKind = self.options.tokens if first else "sample"
        num_tokens, bare, out = 1, width, stage.width
        if tokens != "sample" and self.layout.map_shape is not None:
            num_tokens, bare = token_shape(tokens, self.layout.map_shape)
            out = bare
        experts = self._of_kind(stage, bare + (self.dense.seen if first else 0), out)
        layer = self._routed(experts, bare, num_tokens, first=first)
        # What the experts don't hold follows their sum: CrossQ's last norm, or the activation too.
        inside = self._kind_activates
        total = num_tokens * experts.out_features
        after = [fitted(m, total) for m in (stage.last_norms if inside else stage.after)]
        dim = num_tokens * bare + (self.dense.seen if first else 0)
        self._remember(layer, [stage], dim, activated=inside)
        return [*([] if first else self.dense.norms(stage, width)), layer, *after]

    def head(self, hidden: Sequence[Stage], stage: Stage, width: int, *, first: bool) -> MoELayer:
        """Return experts in place of the head.

        :param hidden: the dense hidden layers before it
        :param stage: the dense head
        :param width: of the rows, but for what the first layer sees beside them
        :param first: whether it sees what the first layer does
        """
        in_features = width + (self.dense.seen if first else 0)
        router = self.options.head_router_class
        experts: Experts
        only_head = router is None and self.options.place.hidden is None
        if only_head and self.options.names_expert:
            like = _like(hidden[-1:], in_features)
            experts = self._of_kind(like, in_features, stage.width, is_head=True)
        else:
            num_experts = self.num_experts if router is None else self.layout.num_tasks
            experts = StackedNetwork([self._last(in_features, stage) for _ in range(num_experts)])
        layer = self._routed(experts, width, 1, first=first, router=router)
        self._remember(layer, [], in_features, stage)
        return layer

    def span(self, hidden: Sequence[Stage], head: Stage | None = None) -> list[nn.Module]:
        """Return experts that are all hidden layers each, and what follows their sum.

        :param hidden: the hidden layers
        :param head: then each is a whole network, which ends in it and begins with the image's
            encoder
        """
        dim, last = self.layout.x_dim + self.dense.seen, hidden[-1] if head is None else head
        activates = self.options.names_expert and self._kind_activates
        if head is not None:
            left = []
        elif activates or self.options.block == "simba":
            left = last.last_norms
        else:
            left = last.after
        made = [self._deep_expert(hidden, head, dim, len(left)) for _ in range(self.num_experts)]
        experts = self._together(made, last.width)
        layer = self._routed(experts, self.layout.x_dim, 1, first=True)
        self._remember(layer, hidden, dim, head, activated=activates)
        return [layer, *(fitted(m, experts.out_features) for m in left)]

    @property
    def _kind_activates(self) -> bool:
        """Whether experts of a kind that options name hold the activation."""
        return bool(getattr(self.options.expert_class, "activates", True))

    def _deep_expert(
        self, hidden: Sequence[Stage], head: Stage | None, dim: int, left: int
    ) -> nn.Module:
        """Return one expert that is all hidden layers, or with the head a whole network.

        :param dim: features that it sees
        :param left: how many of the last modules are not its own
        """
        encoder, dim = ([], dim) if head is None else self._encoder(dim)
        if self.options.names_expert:
            out = hidden[-1].width if head is None else head.width
            like = _like(hidden, dim)
            own: list[nn.Module] = [self._one(like, dim, out, is_head=head is not None)]
        else:
            layers, dim = self._hidden_layers(hidden, dim)
            own = layers[: len(layers) - left]
            for layer in own:
                self.init_hidden(layer)
            if head is not None:
                own += [*(self.dense.norms(head, dim) if hidden else []), self._last(dim, head)]
        layers = [*encoder, *own]
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def _encoder(self, dim: int) -> tuple[list[nn.Module], int]:
        """Return what encodes an image before all else, and the width of rows behind it.

        :param dim: width of the rows before it
        """
        shape, name = self.layout.image_shape, self.layout.encoder
        if shape is None:
            return [], dim
        encoder = ImageEncoder(make_convs(name, shape), shape)
        self.init_hidden(encoder)
        return [encoder], dim + math.prod(map_shape_of(name, shape)) - math.prod(shape)

    def _remember(
        self,
        layer: MoELayer,
        hidden: Sequence[Stage],
        dim: int,
        head: Stage | None = None,
        *,
        activated: bool = True,
    ) -> None:
        """Keep the dense layers that experts stand for, drawn anew, if they are to start alike.

        :param layer: of experts
        :param hidden: the hidden layers
        :param dim: features that the first of all sees
        :param head: what follows them, if experts stand for it too
        :param activated: whether experts hold the last activation
        """
        if not self.options.match_scale:
            return
        with own_generator():
            self.dense_spans[layer] = [
                self._dense_span(hidden, dim, head, activated) for _ in range(DRAWS)
            ]

    def _dense_span(
        self, hidden: Sequence[Stage], dim: int, head: Stage | None, activated: bool
    ) -> nn.Sequential:
        layers: list[nn.Module] = []
        if self.options.place.whole:
            layers, dim = self._encoder(dim)
        for stage in hidden:
            linear = nn.Linear(dim, stage.width)
            self.init_hidden(linear)
            layers += [linear, stage.activation()]
            dim = stage.width
        if head is not None:
            # One output says little about the size of others. More outputs than inputs start
            # smaller.
            wide = nn.Linear(dim, max(head.width, min(dim, MEASURED_WIDTH)))
            self.init_head(wide)
            layers.append(wide)
        elif not activated:
            layers.pop()
        return nn.Sequential(*layers)

    def _hidden_layers(self, stages: Sequence[Stage], dim: int) -> tuple[list[nn.Module], int]:
        """Return the hidden layers of an expert that has them all, as they come from torch.

        :param stages: the dense hidden layers
        :param dim: features that the expert sees
        :return: its layers, and the width of the last
        """
        layers: list[nn.Module] = []
        for i, stage in enumerate(stages):
            width = self.options.expert_width or stage.width
            layers += self.dense.norms(stage, dim) if i else []
            if self.options.block == "simba":
                last = i + 1 == len(stages)
                layers += self.dense.simba_layers(stage, dim, width, first=i == 0, last=last)
                layers += [fitted(m, width) for m in stage.last_norms]
            else:
                layers += [nn.Linear(dim, width), *(fitted(m, width) for m in stage.after)]
            dim = width
        return layers, dim

    def _last(self, in_features: int, head: Stage) -> nn.Linear:
        linear = nn.Linear(in_features, head.width)
        self.init_head(linear)
        return linear

    # Experts of a kind that options name.

    def _of_kind(
        self, stage: Stage, in_features: int, out: int, *, is_head: bool = False
    ) -> Experts:
        made = [
            self._one(stage, in_features, out, is_head=is_head) for _ in range(self.num_experts)
        ]
        return self._together(made, out)

    def _one(self, stage: Stage, in_features: int, out: int, *, is_head: bool) -> nn.Module:
        """Return one expert of the kind that is asked for.

        :param stage: the dense layer whose width and activation it has
        :param in_features: of its rows
        :param out: features of its output
        :param is_head: whether its last linear layer is a head
        """
        kind, kwargs = self.options.expert_class, dict(self.options.expert_kwargs or {})
        hidden = self.options.expert_width or stage.width
        # Others have norms of their own, or none.
        activation = stage.activation(hidden if kind is MLPExpert else None)
        module = kind(in_features, hidden, out, activation, **kwargs)
        self.init_hidden(module)
        linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
        if is_head and linears:
            self.init_head(linears[-1])
        return module

    def _together(self, made: list[nn.Module], out: int) -> Experts:
        """Stack experts of torch's own layers; a class of the user's own may do anything."""
        if self.options.names_expert and not _stacks(self.options.expert_class):
            return SeparateNetworks(made, out)
        return StackedNetwork(made)

    def _routed(
        self,
        experts: Experts,
        bare: int,
        num_tokens: int,
        *,
        first: bool,
        router: type[MoELayer] | None = None,
    ) -> MoELayer:
        """Return experts with a router before them.

        :param experts: the experts
        :param bare: width of a token before anything is appended
        :param num_tokens: tokens per sample
        :param first: whether the router sees what the first layer does
        :param router: the head's own; None: that of the options, with its own options
        """
        options, num_tasks = self.options, self.layout.num_tasks
        seen = bare + options.task_width(num_tasks) * options.router_sees_task
        seen += self.layout.action_dim if first else 0
        kind = options.router_class if router is None else router
        router_input = RouterInput(
            features=num_tasks if kind.sees in ("task", "belief") else seen,
            num_experts=experts.num_experts,
            num_tokens=num_tokens,
            num_tasks=num_tasks,
        )
        layer: MoELayer = kind(experts, router_input, **({} if router else options.router_options))  # type: ignore[call-arg]
        if router is None:
            layer.aux = options.aux
            if options.combine == "orthogonal":
                check_orthogonal(experts.num_experts, experts.out_features)
                experts.combination = gram_schmidt
        if not of_this_package(kind):
            for module in {*layer.modules()} - {*experts.modules()}:
                module.keeps_start = True  # type: ignore[assignment]  # a plain attribute
        if not of_this_package(kind) or isinstance(experts, SeparateNetworks):
            _try_out(layer, bare + (self.dense.seen if first else 0), router_input)
        if isinstance(layer, EmbeddingMoE) and layer.shared:
            self.shared = self.shared or layer
            layer.task_weights = self.shared.task_weights
        return layer


def _like(hidden: Sequence[Stage], dim: int) -> Stage:
    """Return what an expert of a kind is made like; without hidden layers it is as its input."""
    return hidden[0] if hidden else Stage(nn.Linear(dim, dim, device="meta"))


def _stacks(kind: type[nn.Module]) -> bool:
    return bool(vars(kind).get("stacks", False))  # not what a subclass inherits


@th.no_grad()
def _try_out(layer: MoELayer, in_features: int, router_input: RouterInput) -> None:
    """Run a mixture with parts of the user's own once, for what is wrong to be told at once.

    :raises TypeError: if the router doesn't return an output and a routing
    :raises ValueError: if these have other shapes than they should
    """
    shape = (TRIAL_ROWS,) if router_input.num_tokens == 1 else (TRIAL_ROWS, router_input.num_tokens)
    rows, seen = (th.zeros(*shape, width) for width in (in_features, router_input.features))
    with evaluating(layer), th.random.fork_rng(devices=[]):
        returned: Any = layer.route(rows, seen)
    if not (isinstance(returned, tuple) and isinstance(returned[-1], Routing)):
        raise TypeError(
            f"`route` of the router {layer.name!r} must return an output and a Routing, as "
            f"`self.combine(x, gates)` gives them, got {type(returned).__name__}"
        )
    y, routing = returned
    wanted = (
        (*shape, layer.experts.out_features),
        (TRIAL_ROWS, router_input.num_tokens, router_input.num_experts),
    )
    got = tuple(y.shape), tuple(routing.gates_BNE.shape)
    if got != wanted:
        raise ValueError(
            f"with `router`={layer.name!r} and these experts, the output of {shape} rows must have "
            f"the shape {wanted[0]} and their gates {wanted[1]}, got {got[0]} and {got[1]}"
        )
