"""The layers of experts in a network, each modeled on the dense layers that it replaces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers import (
    AuxCoefs,
    BeliefMoE,
    EmbeddingMoE,
    Experts,
    MLPExpert,
    MoELayer,
    RouterInput,
    Routing,
    SeparateNetworks,
    StackedNetwork,
    TaskMoE,
)
from sb3_moe.layers.classes import of_this_package
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.orthonormal import check_orthogonal, gram_schmidt
from sb3_moe.layers.tokens import token_shape
from sb3_moe.policies.dense_layers import Init, Stage, fitted
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.start_scale import own_generator

# A user's own classes are tried on this many rows.
TRIAL_ROWS = 2
# For `match_scale`, the size of dense layers' outputs is measured over this many random
# initializations, with this many outputs where a head has fewer.
DRAWS = 16
MEASURED_WIDTH = 128


def image_encoder(layout: Layout, init: Init) -> tuple[ImageEncoder, Layout]:
    """Return an encoder of the image that x starts with, and the layout of the encoded input.

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


class Span(NamedTuple):
    """The dense layers that an expert stands for.

    :param hidden: hidden layers
    :param head: the head behind them, if the expert holds it
    :param left: how many of the last modules the expert leaves out
    """

    hidden: Sequence[Stage]
    head: Stage | None = None
    left: int = 0


@dataclass
class ExpertLayers:
    """Builds a network's layers of experts, and remembers the dense layers that each replaces.

    :param options: the network's options
    :param layout: what the input of its first layer holds
    :param seen: how many features the first layer sees beside x
    :param init_hidden: initializes hidden layers in place, as SB3 would
    :param init_head: initializes a head in place, as SB3 would
    """

    options: MoEOptions
    layout: Layout
    seen: int
    init_hidden: Init
    init_head: Init
    #: For ``match_scale``: random initializations of the dense layers that each layer of experts
    #: replaces.
    dense_spans: dict[MoELayer, list[nn.Sequential]] = field(default_factory=dict)
    #: The first of a network's layers that share one task embedding; None before there is one.
    shared: EmbeddingMoE | None = None

    def __post_init__(self) -> None:
        options = self.options
        num_tasks = self.layout.num_tasks
        self.num_experts = options.resolve_num_experts(num_tasks) if options.is_moe else 0
        # Whether `expert` was given, and whether its class holds the activation. If the class does
        # not, the activation follows the sum over experts.
        self.expert_is_given = options.is_given("expert")
        self.kind_activates = bool(getattr(options.expert_class, "activates", True))

    def hidden(self, stage: Stage, width: int, *, first: bool) -> list[nn.Module]:
        """Return experts in place of a hidden layer, and the modules that follow their sum.

        :param stage: the dense layer
        :param width: of the rows, without the features that the first layer sees beside x
        :param first: whether it is the first hidden layer, which tokens are for
        """
        seen = self.seen if first else 0
        num_tokens = 1
        bare = width
        out = stage.width
        if first and self.options.is_tokenized:
            assert self.layout.map_shape is not None
            num_tokens, bare = token_shape(self.options.tokens, self.layout.map_shape)
            out = bare
        made = [self._named(stage, bare + seen, out) for _ in range(self.num_experts)]
        experts = self._together(made, out)
        layer = self._routed(experts, bare, num_tokens=num_tokens, first=first)
        # What follows the sum is not in the experts: CrossQ's last norm, and maybe the activation.
        after = stage.last_norms if self.kind_activates else stage.after
        self._remember(layer, Span([stage], left=len(after)), num_tokens * bare + seen)
        total = num_tokens * out
        return [*stage.norms_for(width), layer, *(fitted(m, total) for m in after)]

    def head(self, hidden: Sequence[Stage], stage: Stage, width: int, *, first: bool) -> MoELayer:
        """Return experts in place of the head.

        :param hidden: the dense hidden layers before it
        :param stage: the dense head
        :param width: of the rows, without the features that the first layer sees beside x
        :param first: whether the head is the first layer, and so sees those features
        """
        in_features = width + (self.seen if first else 0)
        by_task = TaskMoE if self.layout.tells_task else BeliefMoE
        router = None if self.options.head_router is None else by_task
        number = self.num_experts if router is None else self.layout.num_tasks
        if self.expert_is_given and router is None and self.options.place.hidden is None:
            like = _like(hidden[-1:], in_features)
            made = [self._named(like, in_features, stage.width, stage) for _ in range(number)]
            experts = self._together(made, stage.width)
        else:
            experts = StackedNetwork([self._last(in_features, stage.width) for _ in range(number)])
        layer = self._routed(experts, width, first=first, router=router)
        self._remember(layer, Span([], stage), in_features)
        return layer

    def span(self, hidden: Sequence[Stage], head: Stage | None = None) -> list[nn.Module]:
        """Return experts that each hold all hidden layers, and the modules that follow their sum.

        :param hidden: the hidden layers
        :param head: the head, if each expert is a whole network, with a head at its end and the
            image encoder at its beginning
        """
        dim = self.layout.x_dim + self.seen
        last = hidden[-1] if head is None else head
        if head is not None:
            left = []
        elif self.options.block == "simba" or (self.expert_is_given and self.kind_activates):
            left = last.last_norms
        else:
            left = last.after
        span = Span(hidden, head, len(left))
        made = [self._deep(span, dim) for _ in range(self.num_experts)]
        experts = self._together(made, last.width)
        layer = self._routed(experts, self.layout.x_dim, first=True)
        self._remember(layer, span, dim)
        return [layer, *(fitted(m, experts.out_features) for m in left)]

    # Single experts.

    def _deep(self, span: Span, dim: int) -> nn.Module:
        """Return one expert that holds all hidden layers, or with the head is a whole network.

        :param span: these layers
        :param dim: features that the expert sees
        """
        hidden, head, _ = span
        if self.expert_is_given:
            layers, dim = self._encoder(dim)
            out = hidden[-1].width if head is None else head.width
            layers.append(self._named(_like(hidden, dim), dim, out, head))
        else:
            layers = self._plain(span, dim, width=self.options.expert_width)
        return layers[0] if len(layers) == 1 else nn.Sequential(*layers)

    def _plain(
        self, span: Span, dim: int, *, width: int | None = None, at_least: int = 0
    ) -> list[nn.Module]:
        """Return new layers like the dense ones.

        :param span: the dense layers
        :param dim: features that the first layer sees
        :param width: of hidden layers; None: that of the dense ones
        :param at_least: least number of outputs of the head, unless it has fewer inputs
        """
        hidden, head, left = span
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
        """Return the image encoder, if a whole network has one, and the width of rows behind it.

        :param dim: width of the rows before it
        """
        if self.layout.image_shape is None or not self.options.place.whole:
            return [], dim
        encoder, after = image_encoder(self.layout, self.init_hidden)
        return [encoder], dim + after.x_dim - self.layout.x_dim

    def _named(
        self, stage: Stage, in_features: int, out: int, head: Stage | None = None
    ) -> nn.Module:
        """Return one expert of the class that the option ``expert`` names.

        :param stage: the dense layer whose width and activation the expert gets
        :param in_features: features of its input
        :param out: features of its output
        :param head: the dense head, if the expert's last linear layer is a head
        """
        kind = self.options.expert_class
        kwargs = self.options.expert_kwargs or {}
        hidden = self.options.expert_width or stage.width
        # Only an MLPExpert gets the dense layer's norm. Others have norms of their own, or none.
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

    # Layers of experts.

    def _together(self, made: list[nn.Module], out: int) -> Experts:
        """Stack experts of torch's own layers; keep those of a user's class apart."""
        # vars() ignores inherited attributes: a subclass must declare `stacks` itself.
        if self.expert_is_given and not vars(self.options.expert_class).get("stacks", False):
            return SeparateNetworks(made, out)
        return StackedNetwork(made)

    def _remember(self, layer: MoELayer, span: Span, dim: int) -> None:
        """With ``match_scale``, keep random draws of the dense layers that experts replace.

        :param layer: of experts
        :param span: the dense layers
        :param dim: features that the first layer sees
        """
        if not self.options.match_scale:
            return
        with own_generator():
            # A single output of a head says little about the size of outputs. But if there were
            # more outputs than inputs, orthogonal initialization would make them smaller.
            spans = [self._plain(span, dim, at_least=MEASURED_WIDTH) for _ in range(DRAWS)]
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
        :param first: whether this is the network's first layer, whose router sees actions too
        :param num_tokens: tokens per sample
        :param router: the class of the head's own router; None: that of the options, with the
            router's options
        """
        options = self.options
        num_tasks = self.layout.num_tasks
        seen = bare + (options.task_embedding or num_tasks) * options.router_sees_task
        seen += self.layout.action_dim if first else 0
        kind = options.router_class if router is None else router
        router_input = RouterInput(
            features=num_tasks if kind.sees in ("task", "belief") else seen,
            num_experts=experts.num_experts,
            num_tokens=num_tokens,
            num_tasks=num_tasks,
            tells_task=self.layout.tells_task,
        )
        layer = kind(experts, router_input, **({} if router else options.router_options))
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
    """Return the dense layer whose width and activation an expert of a named class gets.

    Without hidden layers it is a stand-in of the width ``dim``, without an activation.
    """
    return hidden[0] if hidden else Stage(nn.Linear(dim, dim, device="meta"))


@th.no_grad()
def _try_out(layer: MoELayer, in_features: int, router_input: RouterInput) -> None:
    """Run a mixture with a user's own router or experts once, so that errors show when it is built.

    :raises TypeError: if the router doesn't return an output and a routing
    :raises ValueError: if the output or the gates have the wrong shape
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
