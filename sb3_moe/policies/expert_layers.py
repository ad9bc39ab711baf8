"""The layers of a network that become experts, each built as the dense layers it stands for."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import (
    AuxCoefs,
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
from sb3_moe.policies.dense_layers import Init, Stage, fitted
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.start_scale import own_generator

# Rows that classes of the user's own are tried on.
TRIAL_ROWS = 2
# The size of dense layers is measured on so many draws of them, each with so many outputs.
DRAWS, MEASURED_WIDTH = 16, 128


def image_encoder(layout: Layout, init: Init) -> tuple[ImageEncoder, Layout]:
    """Return an encoder of the image that x starts with, and what the input holds behind it.

    :param layout: of an input with an image
    :param init: initializes the encoder in place
    """
    assert layout.image_shape is not None
    encoder = ImageEncoder(make_convs(layout.encoder, layout.image_shape), layout.image_shape)
    init(encoder)
    map_shape = map_shape_of(layout.encoder, layout.image_shape)
    rest = layout.x_dim - math.prod(layout.image_shape)
    x_dim = math.prod(map_shape) + rest
    return encoder, replace(layout, x_dim=x_dim, map_shape=None if rest else map_shape)


class ExpertLayers:
    """Makes a network's layers of experts, and remembers what each stands for.

    :param options: what the network is to be
    :param layout: what its first layer is given
    :param seen: how many features the first layer sees beside x
    :param init_hidden: initializes hidden layers in place, as SB3 would
    :param init_head: initializes a head in place, as SB3 would
    """

    def __init__(
        self, options: MoEOptions, layout: Layout, seen: int, init_hidden: Init, init_head: Init
    ) -> None:
        self.options, self.layout, self.seen = options, layout, seen
        self.init_hidden, self.init_head = init_hidden, init_head
        self.num_experts = options.resolve_num_experts(layout.num_tasks) if options.is_moe else 0
        # Experts of a kind that options name may hold the activation; others may leave it out.
        self.is_named = options.is_given("expert")
        self.kind_activates = bool(getattr(options.expert_class, "activates", True))
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
        seen = self.seen if first else 0
        tokens: TokenKind = self.options.tokens if first else "sample"
        num_tokens, bare, out = 1, width, stage.width
        if tokens != "sample" and self.layout.map_shape is not None:
            num_tokens, bare = token_shape(tokens, self.layout.map_shape)
            out = bare
        made = [self._named(stage, bare + seen, out) for _ in range(self.num_experts)]
        experts = self._together(made, out)
        layer = self._routed(experts, bare, num_tokens=num_tokens, first=first)
        # What the experts don't hold follows their sum: CrossQ's last norm, or the activation too.
        after = stage.last_norms if self.kind_activates else stage.after
        self._remember(layer, [stage], num_tokens * bare + seen, left=len(after))
        total = num_tokens * out
        norms = [] if first else stage.norms_for(width)
        return [*norms, layer, *(fitted(m, total) for m in after)]

    def head(self, hidden: Sequence[Stage], stage: Stage, width: int, *, first: bool) -> MoELayer:
        """Return experts in place of the head.

        :param hidden: the dense hidden layers before it
        :param stage: the dense head
        :param width: of the rows, but for what the first layer sees beside them
        :param first: whether it sees what the first layer does
        """
        in_features = width + (self.seen if first else 0)
        router = self.options.head_router_class
        number = self.num_experts if router is None else self.layout.num_tasks
        if self.is_named and router is None and self.options.place.hidden is None:
            like = _like(hidden[-1:], in_features)
            made = [self._named(like, in_features, stage.width, stage) for _ in range(number)]
            experts = self._together(made, stage.width)
        else:
            experts = StackedNetwork([self._last(in_features, stage.width) for _ in range(number)])
        layer = self._routed(experts, width, first=first, router=router)
        self._remember(layer, [], in_features, stage)
        return layer

    def span(self, hidden: Sequence[Stage], head: Stage | None = None) -> list[nn.Module]:
        """Return experts that are all hidden layers each, and what follows their sum.

        :param hidden: the hidden layers
        :param head: then each is a whole network, which ends in it and begins with the image's
            encoder
        """
        dim = self.layout.x_dim + self.seen
        last = hidden[-1] if head is None else head
        if head is not None:
            left = []
        elif self.options.block == "simba" or (self.is_named and self.kind_activates):
            left = last.last_norms
        else:
            left = last.after
        made = [self._deep(hidden, head, dim, len(left)) for _ in range(self.num_experts)]
        experts = self._together(made, last.width)
        layer = self._routed(experts, self.layout.x_dim, first=True)
        self._remember(layer, hidden, dim, head, left=len(left))
        return [layer, *(fitted(m, experts.out_features) for m in left)]

    # Single experts.

    def _deep(self, hidden: Sequence[Stage], head: Stage | None, dim: int, left: int) -> nn.Module:
        """Return one expert that is all hidden layers, or with the head a whole network.

        :param hidden: the hidden layers
        :param head: what follows them, if the expert holds it
        :param dim: features that the expert sees
        :param left: how many of the last modules are not its own
        """
        if self.is_named:
            layers, dim = self._encoder(dim)
            out = hidden[-1].width if head is None else head.width
            layers.append(self._named(_like(hidden, dim), dim, out, head))
        else:
            layers = self._plain(hidden, dim, head, width=self.options.expert_width, left=left)
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def _plain(
        self,
        hidden: Sequence[Stage],
        dim: int,
        head: Stage | None,
        *,
        width: int | None = None,
        left: int = 0,
        at_least: int = 0,
    ) -> list[nn.Module]:
        """Return layers like the dense ones.

        :param hidden: the dense hidden layers
        :param dim: features that the first of all sees
        :param head: what follows them, if it does
        :param width: of hidden layers; None: as the dense ones
        :param left: how many of the last modules are left out
        :param at_least: outputs that the head is to have, if it sees as many features
        """
        encoder, dim = self._encoder(dim)
        layers: list[nn.Module] = []
        for i, stage in enumerate(hidden):
            out = width or stage.width
            layers += stage.norms_for(dim) if i else []
            if self.options.block == "simba":
                layers += stage.simba(dim, out, first=i == 0, last=i + 1 == len(hidden))
            else:
                layers += [nn.Linear(dim, out), *(fitted(m, out) for m in stage.after)]
            dim = out
        layers = layers[: len(layers) - left]
        for layer in layers:
            self.init_hidden(layer)
        if head is not None:
            out = max(head.width, min(dim, at_least))
            layers += [*(head.norms_for(dim) if hidden else []), self._last(dim, out)]
        return [*encoder, *layers]

    def _encoder(self, dim: int) -> tuple[list[nn.Module], int]:
        """Return what encodes an image first in a whole network, and how wide rows are then.

        :param dim: width of the rows before it
        """
        if self.layout.image_shape is None or not self.options.place.whole:
            return [], dim
        encoder, after = image_encoder(self.layout, self.init_hidden)
        return [encoder], dim + after.x_dim - self.layout.x_dim

    def _named(
        self, stage: Stage, in_features: int, out: int, head: Stage | None = None
    ) -> nn.Module:
        """Return one expert of the kind that options name.

        :param stage: the dense layer whose width and activation it has
        :param in_features: of its rows
        :param out: features of its output
        :param head: if its last linear layer is one
        """
        kind, kwargs = self.options.expert_class, self.options.expert_kwargs or {}
        hidden = self.options.expert_width or stage.width
        # Others have norms of their own, or none.
        activation = stage.activation(hidden if kind is MLPExpert else None)
        module = kind(in_features, hidden, out, activation, **kwargs)
        self.init_hidden(module)
        linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
        if head is not None and linears:
            self.init_head(linears[-1])
        return module

    def _last(self, in_features: int, out: int) -> nn.Linear:
        linear = nn.Linear(in_features, out)
        self.init_head(linear)
        return linear

    # Their layers.

    def _together(self, made: list[nn.Module], out: int) -> Experts:
        """Stack experts of torch's own layers; a class of the user's own may do anything."""
        # Not what a subclass inherits.
        if self.is_named and not vars(self.options.expert_class).get("stacks", False):
            return SeparateNetworks(made, out)
        return StackedNetwork(made)

    def _remember(
        self,
        layer: MoELayer,
        hidden: Sequence[Stage],
        dim: int,
        head: Stage | None = None,
        *,
        left: int = 0,
    ) -> None:
        """Keep the dense layers that experts stand for, drawn anew, if they are to start alike.

        :param layer: of experts
        :param hidden: the hidden layers
        :param dim: features that the first of all sees
        :param head: what follows them, if experts stand for it too
        :param left: how many of the last modules experts don't stand for
        """
        if not self.options.match_scale:
            return
        with own_generator():
            # One output says little about the size of others. More outputs than inputs start
            # smaller.
            spans = [
                self._plain(hidden, dim, head, left=left, at_least=MEASURED_WIDTH)
                for _ in range(DRAWS)
            ]
            self.dense_spans[layer] = [nn.Sequential(*each).eval() for each in spans]

    def _routed(
        self,
        experts: Experts,
        bare: int,
        *,
        first: bool,
        num_tokens: int = 1,
        router: type[MoELayer] | None = None,
    ) -> MoELayer:
        """Return experts with a router before them.

        :param experts: the experts
        :param bare: width of a token before anything is appended
        :param first: whether the router sees what the first layer does
        :param num_tokens: tokens per sample
        :param router: the head's own; None: that of the options, with its own options
        """
        options, num_tasks = self.options, self.layout.num_tasks
        seen = bare + (options.task_embedding or num_tasks) * options.router_sees_task
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
            coefs = AuxCoefs(options.balance_coef, options.importance_coef, options.z_coef)
            layer.aux = coefs if any(coefs) else None
            if options.combine == "orthogonal":
                check_orthogonal(experts.num_experts, experts.out_features)
                experts.combination = gram_schmidt
        if not of_this_package(kind):
            for module in {*layer.modules()} - {*experts.modules()}:
                module.keeps_start = True  # type: ignore[assignment]  # a plain attribute
        if not of_this_package(kind) or isinstance(experts, SeparateNetworks):
            _try_out(layer, bare + (self.seen if first else 0), router_input)
        if isinstance(layer, EmbeddingMoE) and layer.shared:
            self.shared = self.shared or layer
            layer.task_weights = self.shared.task_weights
        return layer


def _like(hidden: Sequence[Stage], dim: int) -> Stage:
    """Return what an expert of a kind is made like; without hidden layers it is as its input."""
    return hidden[0] if hidden else Stage(nn.Linear(dim, dim, device="meta"))


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
