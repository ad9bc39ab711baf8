"""Layers of experts in place of one dense layer, of several, or of the whole network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from sb3_moe.layers import MoELayer, RouterInput
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.experts import Experts, StackedNetwork, together
from sb3_moe.layers.tokens import TokenKind, token_shape
from sb3_moe.policies.architect_checks import built_layer, check_rows
from sb3_moe.policies.dense_layers import DenseLayers, Init
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.option_checks import called
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.stages import Stage, fitted
from sb3_moe.policies.start_scale import Stand
from sb3_moe.policies.towers import Layout, MoEBlock


class ExpertLayers:
    """Makes a tower's layers of experts, and remembers what each stands for.

    :param options: what the tower is to be
    :param layout: what its first layer is given
    :param dense: makes what stands around experts, and inside those with several layers
    :param init_head: initialises a head in place, as SB3 would
    """

    def __init__(
        self, options: MoEOptions, layout: Layout, dense: DenseLayers, init_head: Init
    ) -> None:
        self.options, self.layout, self.dense = options, layout, dense
        self.init_hidden, self.init_head = dense.init_hidden, init_head
        self.num_experts = options.resolve_num_experts(layout.num_tasks) if options.is_moe else 0
        #: Which of the dense network's linear layers each layer of experts stands for.
        self.stands_for: dict[MoELayer, Stand] = {}
        #: What the parts of one network have together: the first layer of each kind.
        self.firsts: dict[type[MoELayer], MoELayer] = {}

    def hidden(self, stage: Stage, width: int, number: int) -> list[nn.Module]:
        """Return experts in place of a hidden layer, and what follows their sum.

        :param stage: the dense layer
        :param width: of the rows, but for what the first layer sees beside them
        :param number: which hidden layer it is, from 0
        """
        first = number == 0
        norms = [] if first else self.dense.norms(stage, width)
        block = self._hidden_block(stage, width, first=first)
        # What the experts don't hold follows their sum: CrossQ's last norm, or the activation too.
        inside = bool(getattr(self.options.expert_class, "activates", True))
        after = [fitted(m, block.out_features) for m in stage.after if is_norm(m) or not inside]
        self.stands_for[block.layer] = Stand(number, inside=inside, then=after)
        return [*norms, block, *after]

    def _hidden_block(self, stage: Stage, width: int, *, first: bool) -> MoEBlock:
        tokens: TokenKind = self.options.tokens if first else "sample"
        num_tokens, bare, out = 1, width, stage.width
        if tokens != "sample" and self.layout.map_shape is not None:
            num_tokens, bare = token_shape(tokens, self.layout.map_shape)
            out = bare
        in_features = bare + (self.dense.seen if first else 0)
        made = [self._layer_expert(stage, in_features, out) for _ in range(self.num_experts)]
        kind = self.options.expert_class
        stacks = vars(kind).get("stacks", False)  # not what a subclass inherits
        experts = StackedNetwork(made) if stacks else together(made, out)
        if not stacks:
            check_rows(experts, in_features, out, called(kind))
        layer = self._routed(experts, bare, num_tokens, first=first)
        return MoEBlock(layer, tokens=tokens, map_shape=self.layout.map_shape)

    def _layer_expert(self, stage: Stage, in_features: int, out: int) -> nn.Module:
        """Return one expert in place of a hidden layer."""
        kind, kwargs = self.options.expert_class, dict(self.options.expert_kwargs or {})
        hidden = self.options.expert_width or stage.width
        activation = self.dense.activation(stage, hidden)
        try:
            module = kind(in_features, hidden, out, activation, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"`expert`={called(kind)!r} must be made from (in_features, width, "
                f"out_features, activation) and its options; it failed with: {error}"
            ) from error
        self.init_hidden(module)
        return module

    def head(self, stage: Stage, width: int, *, depth: int, first: bool) -> MoEBlock:
        """Return experts in place of the head.

        :param stage: the dense head
        :param width: of the rows, but for what the first layer sees beside them
        :param depth: hidden layers before it
        :param first: whether it sees what the first layer does
        """
        in_features = width + (self.dense.seen if first else 0)
        router = self.options.head_router_class
        num_experts = self.num_experts if router is None else self.layout.num_tasks
        experts = StackedNetwork([self._last(in_features, stage) for _ in range(num_experts)])
        block = MoEBlock(self._routed(experts, width, 1, first=first, router=router))
        self.stands_for[block.layer] = Stand(depth)
        return block

    def body(self, stages: Sequence[Stage]) -> list[nn.Module]:
        """Return experts that are all hidden layers each, and what follows the last of those."""
        experts = StackedNetwork([self._body_expert(stages) for _ in range(self.num_experts)])
        block = MoEBlock(self._routed(experts, self.layout.x_dim, 1, first=True))
        after = [fitted(m, block.out_features) for m in stages[-1].after]
        self.stands_for[block.layer] = Stand(len(stages) - 1, then=after)
        return [block, *after]

    def _body_expert(self, stages: Sequence[Stage]) -> nn.Module:
        """Return one expert that is all hidden layers, but for what follows the sum."""
        layers, _ = self._hidden_layers(stages, self.layout.x_dim + self.dense.seen)
        own = layers[: len(layers) - len(stages[-1].after)]
        for layer in own:
            self.init_hidden(layer)
        return nn.Sequential(*own)

    def big(self, hidden: Sequence[Stage], head: Stage) -> MoEBlock:
        """Return experts that are a whole network each, the image's encoder included."""
        experts = StackedNetwork(
            [self._network_expert(hidden, head) for _ in range(self.num_experts)]
        )
        block = MoEBlock(self._routed(experts, self.layout.x_dim, 1, first=True))
        self.stands_for[block.layer] = Stand(len(hidden))
        return block

    def _network_expert(self, hidden: Sequence[Stage], head: Stage) -> nn.Module:
        """Return one expert that is a whole network."""
        layers: list[nn.Module] = []
        dim = self.layout.x_dim + self.dense.seen
        shape = self.layout.image_shape
        if shape is not None:
            encoder = self.layout.encoder
            layers.append(ImageEncoder(make_convs(encoder, shape), shape))
            dim += math.prod(map_shape_of(encoder, shape)) - math.prod(shape)
        deep, dim = self._hidden_layers(hidden, dim)
        layers += deep
        for layer in layers:
            self.init_hidden(layer)
        last = self._last(dim, head)
        norms = self.dense.norms(head, dim) if hidden else []
        return nn.Sequential(*layers, *norms, last)

    def _hidden_layers(self, stages: Sequence[Stage], dim: int) -> tuple[list[nn.Module], int]:
        """Return the hidden layers of an expert that has them all, as they come from torch.

        :param stages: the dense hidden layers
        :param dim: features that the expert sees
        :return: its layers, and the width of the last
        """
        layers: list[nn.Module] = []
        for i, stage in enumerate(stages):
            width = self.options.expert_width or stage.width
            norms = self.dense.norms(stage, dim) if i else []
            if self.options.block == "simba":
                last = i + 1 == len(stages)
                made = self.dense.simba_layers(stage, dim, width, first=i == 0, last=last)
                after = [fitted(m, width) for m in stage.after if is_norm(m)]
            else:
                made = [nn.Linear(dim, width)]
                after = [fitted(m, width) for m in stage.after]
            layers += [*norms, *made, *after]
            dim = width
        return layers, dim

    def _last(self, in_features: int, head: Stage) -> nn.Linear:
        linear = nn.Linear(in_features, head.width)
        self.init_head(linear)
        return linear

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
        sees = RouterInput(
            features=num_tasks if kind.sees_task else seen,
            num_experts=experts.num_experts,
            num_tokens=num_tokens,
            num_tasks=num_tasks,
        )
        layer = built_layer(kind, experts, sees, {} if router else options.router_options)
        if router is None:
            layer.aux = options.aux
            if options.combination is not None:
                options.combination.check(experts.num_experts, experts.out_features)
            experts.combination = options.combination
        first_of_kind = self.firsts.setdefault(kind, layer)
        if first_of_kind is not layer:
            layer.join(first_of_kind)
        return layer
