"""From the dense network that SB3 built to a tower with experts in some of its layers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import nn

from sb3_moe.layers import MoELayer, RouterInput
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.experts import Experts, StackedNetwork, together
from sb3_moe.layers.simba import INSIDE, simba_layer
from sb3_moe.layers.task_embedding import TaskEmbedding
from sb3_moe.layers.tokens import TokenKind, token_shape
from sb3_moe.policies.architect_checks import (
    built_layer,
    check_blocks,
    check_depth,
    check_rows,
    check_seen,
)
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.option_checks import called
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.stages import (
    Stage,
    fitted,
    fitted_activation,
    read_stages,
    resized,
)
from sb3_moe.policies.start_scale import (
    HEAD_WIDTH,
    Stand,
    dense_sizes,
    make_probe,
    match_sizes,
    own_generator,
)
from sb3_moe.policies.towers import Layout, MoEBlock, Tower

Init = Callable[[nn.Module], object]


def as_torch_does(module: nn.Module) -> None:
    """Leave the weights as they are: off-policy algorithms start from torch's own init."""


class Architect:
    """Builds one tower from the dense one.

    :param options: what the tower is to be
    :param layout: what its input holds
    :param init_hidden: initialises hidden layers in place, as SB3 would
    :param init_head: initialises the head in place, as SB3 would
    :param after_lstm: the task id has entered the LSTM, so only routers see it here
    :raises ValueError: if the options do not fit the input
    """

    def __init__(
        self,
        options: MoEOptions,
        layout: Layout,
        *,
        init_hidden: Init = as_torch_does,
        init_head: Init = as_torch_does,
        after_lstm: bool = False,
    ) -> None:
        self.options, self.place = options, options.place
        self.outer = self.layout = layout
        self.init_hidden, self.init_head = init_hidden, init_head
        options.check_tasks(layout.num_tasks)
        self.num_experts = options.resolve_num_experts(layout.num_tasks) if options.is_moe else 0
        self.experts_see_task = options.experts_see_task and not after_lstm
        # Which of the dense network's linear layers each layer of experts stands for.
        self.stands_for: dict[MoELayer, Stand] = {}
        # What the parts of one network have together.
        self.firsts: dict[type[MoELayer], MoELayer] = {}
        self.task_embedding: TaskEmbedding | None = None
        self.encoder: nn.Module | None = None
        if layout.image_shape is not None and not self.place.whole:
            self._encode_first(layout.image_shape)
        if options.is_tokenised and self.layout.map_shape is None:
            raise ValueError(
                f"`tokens`={options.tokens!r} needs a feature map, and the features extractor "
                "gives none: use an image observation with 'MoeCnnPolicy', or with "
                "'MoeMultiInputPolicy' one image key, an `encoder` other than 'flat' and no "
                "`features_dim`"
            )

    def _encode_first(self, image_shape: tuple[int, int, int]) -> None:
        self.encoder = ImageEncoder(make_convs(self.layout.encoder, image_shape), image_shape)
        map_shape = map_shape_of(self.layout.encoder, image_shape)
        rest = self.layout.x_dim - math.prod(image_shape)
        self.layout = replace(
            self.layout,
            x_dim=math.prod(map_shape) + rest,
            map_shape=None if rest else map_shape,
        )

    # Whole towers and their parts.

    def _begin(self) -> None:
        """Start a network that has nothing together with the one before."""
        self.firsts = {}
        self.task_embedding = None
        if self.options.embeds_task:
            num_tasks = self.layout.num_tasks
            self.task_embedding = TaskEmbedding(num_tasks, self.options.task_width(num_tasks))

    def network(self, dense: Iterable[nn.Module]) -> Tower:
        """Return hidden layers and head as one tower (Q networks, TD3's actor)."""
        self._begin()
        modules = list(dense)
        tower = self._network(read_stages(modules))
        self.match([tower], modules)
        return tower

    def _network(self, stages: list[Stage]) -> Tower:
        if self.place.whole:
            return self._big(stages)
        *hidden, head = stages
        blocks = self._hidden(hidden)
        width = self._width(blocks, hidden)
        if self.options.routes_head:
            norms = self._norms(head, width) if hidden else []
            blocks += [*norms, self._moe_head(head, width, depth=len(hidden)), *head.after]
        else:
            blocks += self._plain(head, width, first=not hidden)
        return self._tower(blocks, stages)

    def body(self, dense: Iterable[nn.Module]) -> tuple[nn.Module, int]:
        """Return the hidden layers and their width, for policies that keep the head apart.

        Where the head routes, the one-hot task id is handed on to it behind the output.

        :raises ValueError: if there is no hidden layer that the task id, which the head is not
            given, could enter
        """
        self._begin()
        if self.place.whole:
            return nn.Sequential(), self.outer.features_dim
        stages = read_stages(dense)
        blocks = self._hidden(stages)
        check_seen(self._seen(), len(stages))
        width = self._width(blocks, stages)
        carry = self.options.routes_head
        tower = self._tower(blocks, stages, carry_task=carry)
        return tower, width + (self.layout.num_tasks if carry else 0)

    def head(self, linear: nn.Linear, dense: Iterable[nn.Module]) -> nn.Module:
        """Return what stands for SB3's head behind ``body``; ``linear`` itself where it is dense.

        :param linear: SB3's head, as wide as the output is to be
        :param dense: the hidden layers that ``body`` was given
        """
        hidden = read_stages(dense)
        if self.place.whole:
            return self._big([*hidden, Stage(linear)])
        if not self.options.routes_head:
            return linear
        width = linear.in_features - self.layout.num_tasks
        block = self._moe_head(Stage(linear), width, depth=len(hidden), first=False)
        return Tower(
            [block],
            Layout(x_dim=width, num_tasks=self.layout.num_tasks),
            experts_see_task=False,
            router_sees_task=self.options.router_sees_task,
            task_embedding=None if block.layer.sees_task else self.task_embedding,
        )

    def _tower(
        self, blocks: list[nn.Module], stages: list[Stage], *, carry_task: bool = False
    ) -> Tower:
        return Tower(
            blocks,
            self.outer,
            experts_see_task=self.experts_see_task,
            router_sees_task=self.options.router_sees_task,
            encoder=self.encoder,
            norms=self._norms(stages[0], self.layout.x_dim + self._seen()) if stages else [],
            carry_task=carry_task,
            task_embedding=self.task_embedding,
        )

    # Sizes at the start.

    def match(self, parts: Sequence[nn.Module], dense: Iterable[nn.Module]) -> None:
        """Scale the experts' initial weights to the size of the dense layers, if that is asked for.

        :param parts: all of a tower as it is built and initialised, one part behind the other
        :param dense: the dense network, head included
        :raises ValueError: if an output doesn't follow its experts' weights
        """
        inside = {m for part in parts for m in part.modules()}
        places = {layer: at for layer, at in self.stands_for.items() if layer in inside}
        if not (self.options.match_scale and places):
            return
        with own_generator():
            probe = make_probe(self.outer, max(layer.rows(1) for layer in places))
            found = dense_sizes(*self._dense_twin(dense), probe)
        match_sizes(parts, {layer: place.goal(found) for layer, place in places.items()}, probe)

    def _dense_twin(self, dense: Iterable[nn.Module]) -> tuple[Tower, Callable[[], None]]:
        """Return the dense tower with a head of many outputs, and what draws its weights anew."""
        *hidden, head = read_stages(copy.deepcopy(list(dense)))
        # Not what a head that routes is handed beside: more outputs than inputs start smaller.
        width = hidden[-1].width if hidden else self.layout.x_dim + self._seen()
        head.linear = nn.Linear(width, max(head.width, min(width, HEAD_WIDTH)))
        twin = Architect(
            MoEOptions(
                placement="none",
                task_input=self.options.task_input,
                task_embedding=self.options.task_embedding if self.experts_see_task else None,
            ),
            self.outer,
            init_hidden=self.init_hidden,
            init_head=self.init_head,
            after_lstm=not self.experts_see_task,
        )
        twin.task_embedding = copy.deepcopy(self.task_embedding)
        tower = twin._network([*hidden, head])
        linears = [block for block in tower.blocks if isinstance(block, nn.Linear)]

        def restart() -> None:
            for module in tower.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.reset_parameters()
            self.init_hidden(tower)
            self.init_head(linears[-1])

        return tower, restart

    # Hidden layers.

    def _hidden(self, stages: list[Stage]) -> list[nn.Module]:
        check_depth(self.options, len(stages))
        if self.place.hidden == "one":
            return self._as_one(stages)
        blocks: list[nn.Module] = []
        for i, stage in enumerate(stages):
            first = i == 0
            width = self._width(blocks, stages[:i])
            if self.place.takes(i, len(stages)):
                norms = [] if first else self._norms(stage, width)
                block = self._moe_hidden(stage, width, first=first)
                after = self._after(stage, block.out_features)
                self.stands_for[block.layer] = Stand(i, inside=self._activates(), then=after)
                blocks += [*norms, block, *after]
            elif self.options.block == "simba":
                last = i + 1 == len(stages) or self.place.takes(i + 1, len(stages))
                blocks += self._simba(stage, width, first=first, last=last)
            else:
                blocks += self._plain(stage, width, first=first)
        check_blocks(self.options, blocks)
        return blocks

    def _simba(self, stage: Stage, width: int, *, first: bool, last: bool) -> list[nn.Module]:
        """Return a block in place of a dense layer, and the normalisation behind the last one."""
        norms = [] if first else self._norms(stage, width)
        dim = width + (self._seen() if first else 0)
        layers = self._simba_layers(stage, dim, stage.width, first=first, last=last)
        for layer in layers:
            self.init_hidden(layer)
        return [*norms, *layers, *(fitted(m, stage.width) for m in stage.after if is_norm(m))]

    def _simba_layers(
        self, stage: Stage, dim: int, width: int, *, first: bool, last: bool
    ) -> list[nn.Module]:
        activation = self._activation(stage, INSIDE * width)
        layers = simba_layer(dim, width, activation, first=first)
        return [*layers, nn.LayerNorm(width)] if last else layers

    def _after(self, stage: Stage, width: int) -> list[nn.Module]:
        """Return what follows the sum over experts: CrossQ's last norm, and what is not in them."""
        inside = self._activates()
        return [fitted(m, width) for m in stage.after if is_norm(m) or not inside]

    def _activates(self) -> bool:
        """Say whether experts in place of one hidden layer hold its activation."""
        return bool(getattr(self.options.expert_class, "activates", True))

    def _width(self, blocks: Sequence[nn.Module], stages: Sequence[Stage]) -> int:
        for block in reversed(blocks):
            if isinstance(block, MoEBlock):
                return block.out_features
            if isinstance(block, nn.Linear):
                return block.out_features
        return stages[-1].width if stages else self.layout.x_dim

    def _seen(self) -> int:
        """Features that the first layer sees beside x."""
        task = self.options.task_width(self.layout.num_tasks) * self.experts_see_task
        return task + self.layout.action_dim

    def _plain(self, stage: Stage, width: int, *, first: bool) -> list[nn.Module]:
        in_features = width + (self._seen() if first else 0)
        norms = [] if first else self._norms(stage, width)
        linear = stage.linear
        if linear.in_features != in_features:
            linear = nn.Linear(in_features, linear.out_features)
            self.init_hidden(linear)
        return [*norms, linear, *stage.after]

    def _norms(self, stage: Stage, width: int) -> list[nn.Module]:
        return [resized(norm, width) for norm in stage.norms]

    # Experts.

    def _moe_hidden(self, stage: Stage, width: int, *, first: bool) -> MoEBlock:
        tokens: TokenKind = self.options.tokens if first else "sample"
        num_tokens, bare, out = 1, width, stage.width
        if tokens != "sample" and self.layout.map_shape is not None:
            num_tokens, bare = token_shape(tokens, self.layout.map_shape)
            out = bare
        in_features = bare + (self._seen() if first else 0)
        hidden = self.options.expert_width or stage.width
        kind, kwargs = self.options.expert_class, dict(self.options.expert_kwargs or {})

        def expert() -> nn.Module:
            activation = self._activation(stage, hidden)
            try:
                module = kind(in_features, hidden, out, activation, **kwargs)
            except TypeError as error:
                raise TypeError(
                    f"`expert`={called(kind)!r} must be made from (in_features, width, "
                    f"out_features, activation) and its options; it failed with: {error}"
                ) from error
            return self._started(module, self.init_hidden)

        made = [expert() for _ in range(self.num_experts)]
        stacks = vars(kind).get("stacks", False)  # not what a subclass inherits
        experts = StackedNetwork(made) if stacks else together(made, out)
        if not stacks:
            check_rows(experts, in_features, out, called(kind))
        layer = self._layer(experts, bare, num_tokens, first=first)
        return MoEBlock(layer, tokens=tokens, map_shape=self.layout.map_shape)

    def _moe_head(
        self, stage: Stage, width: int, *, depth: int, first: bool | None = None
    ) -> MoEBlock:
        first = depth == 0 if first is None else first
        in_features = width + (self._seen() if first else 0)

        def expert() -> nn.Module:
            return self._started(nn.Linear(in_features, stage.width), self.init_head)

        router = self.options.head_router_class
        num_experts = self.num_experts if router is None else self.layout.num_tasks
        experts = StackedNetwork([expert() for _ in range(num_experts)])
        block = MoEBlock(self._layer(experts, width, 1, first=first, router=router))
        self.stands_for[block.layer] = Stand(depth)
        return block

    def _as_one(self, stages: list[Stage]) -> list[nn.Module]:
        """Return experts that are all hidden layers, and what follows the last of those."""
        dim = self.layout.x_dim + self._seen()

        def expert() -> nn.Module:
            layers, _ = self._deep(stages, dim)
            own = layers[: len(layers) - len(stages[-1].after)]
            for layer in own:
                self.init_hidden(layer)
            return nn.Sequential(*own)

        experts = StackedNetwork([expert() for _ in range(self.num_experts)])
        block = MoEBlock(self._layer(experts, self.layout.x_dim, 1, first=True))
        after = [fitted(m, block.out_features) for m in stages[-1].after]
        self.stands_for[block.layer] = Stand(len(stages) - 1, then=after)
        return [block, *after]

    def _deep(self, stages: Sequence[Stage], dim: int) -> tuple[list[nn.Module], int]:
        """Return one expert's hidden layers, and their width."""
        layers: list[nn.Module] = []
        for i, stage in enumerate(stages):
            width = self.options.expert_width or stage.width
            norms = self._norms(stage, dim) if i else []
            if self.options.block == "simba":
                last = i + 1 == len(stages)
                inside = self._simba_layers(stage, dim, width, first=i == 0, last=last)
                after = [fitted(m, width) for m in stage.after if is_norm(m)]
            else:
                inside = [nn.Linear(dim, width)]
                after = [fitted(m, width) for m in stage.after]
            layers += [*norms, *inside, *after]
            dim = width
        return layers, dim

    def _big(self, stages: list[Stage]) -> Tower:
        *hidden, head = stages
        check_depth(self.options, len(hidden))
        x_dim = self.layout.x_dim
        shape = self.layout.image_shape
        encoder = self.layout.encoder if shape is not None else "flat"

        def expert() -> nn.Module:
            layers: list[nn.Module] = []
            dim = x_dim
            if shape is not None:
                layers.append(ImageEncoder(make_convs(encoder, shape), shape))
                dim += math.prod(map_shape_of(encoder, shape)) - math.prod(shape)
            deep, dim = self._deep(hidden, dim + self._seen())
            layers += deep
            for layer in layers:
                self.init_hidden(layer)
            last = self._started(nn.Linear(dim, head.width), self.init_head)
            norms = self._norms(head, dim) if hidden else []
            return nn.Sequential(*layers, *norms, last)

        experts = StackedNetwork([expert() for _ in range(self.num_experts)])
        block = MoEBlock(self._layer(experts, x_dim, 1, first=True))
        self.stands_for[block.layer] = Stand(len(hidden))
        # The tanh of TD3's actor comes after the experts are combined.
        return self._tower([block, *head.after], stages)

    @staticmethod
    def _activation(stage: Stage, width: int) -> nn.Module:
        """Return a copy of a dense layer's activation, for rows of some width."""
        acts = [fitted_activation(m, width) for m in stage.after if not is_norm(m)]
        return acts[0] if len(acts) == 1 else nn.Sequential(*acts)

    @staticmethod
    def _started(module: nn.Module, init: Init) -> nn.Module:
        init(module)
        return module

    def _layer(
        self,
        experts: Experts,
        bare: int,
        num_tokens: int,
        *,
        first: bool,
        router: type[MoELayer] | None = None,
    ) -> MoELayer:
        """Return the routed layer.

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
