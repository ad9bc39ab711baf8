"""Turn the dense network that SB3 built into one with experts in some of its layers."""

from collections.abc import Iterable, Sequence

from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.policies.dense_layers import Init, Stage, fitted, read_stages
from sb3_moe.policies.expert_layers import ExpertLayers, image_encoder
from sb3_moe.policies.moe_network import Layout, MoENetwork
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.start_scale import match_sizes


def as_torch_does(module: nn.Module) -> None:
    """Leave the weights as they are: off-policy algorithms start from torch's own init."""


class Architect:
    """Builds one network from the dense network that SB3 built.

    :param options: the network's options
    :param layout: what its input holds
    :param init_hidden: initializes hidden layers in place, as SB3 would
    :param init_head: initializes the head in place, as SB3 would
    :param after_lstm: whether the network is behind an LSTM: the task id enters that, and only
        routers see it here
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
        self.options = options
        self.place = options.place
        #: The layout as given, and the layout behind the network's own image encoder, if any.
        self.given_layout = self.layout = layout
        self.init_hidden = init_hidden
        self.init_head = init_head
        options.check_tasks(layout.num_tasks, tells_task=layout.tells_task)
        self.experts_see_task = options.experts_see_task and not after_lstm
        self.task_embedding: TaskEmbedding | None = None
        self.encoder: nn.Module | None = None
        if layout.image_shape is not None and not self.place.whole:
            self.encoder, self.layout = image_encoder(layout, as_torch_does)
        if options.is_tokenized and self.layout.map_shape is None:
            raise ValueError(
                f"`tokens`={options.tokens!r} needs a feature map, and the features extractor "
                "gives none: use an image observation with 'MoeCnnPolicy', or with "
                "'MoeMultiInputPolicy' one image key, an `encoder` other than 'flat' and no "
                "`features_dim`"
            )
        #: Features that the first layer sees beside x.
        self.seen = layout.action_dim
        if self.experts_see_task:
            self.seen += options.task_embedding or layout.num_tasks
        self.expert_layers = ExpertLayers(options, self.layout, self.seen, init_hidden, init_head)
        self._stages: list[Stage] = []

    # Whole networks and their parts.

    def _begin(self, dense: Iterable[nn.Module], *, heads: int) -> list[Stage]:
        """Start a network that shares nothing with the previous one, and read its dense layers.

        :param heads: how many of the layers at the end are heads
        """
        self.expert_layers.shared = None
        self.task_embedding = None
        if (width := self.options.task_embedding) is not None and self.options.embeds_task:
            self.task_embedding = TaskEmbedding(
                self.layout.num_tasks, width, tells_task=self.layout.tells_task
            )
        stages = read_stages(dense)
        self.norms: list[nn.Module] = []
        if stages:  # all that the first layer sees is normalized as one vector
            self.norms = stages[0].norms
            stages[0].norms = []
        for stage in stages[: len(stages) - heads]:
            if self.options.block == "layer_norm":
                stage.acts.insert(0, nn.LayerNorm(stage.width))
        return stages

    def network(self, dense: Iterable[nn.Module]) -> MoENetwork:
        """Return hidden layers and head as one network (Q networks, TD3's actor)."""
        *hidden, head = self._begin(dense, heads=1)
        if self.place.whole:
            network = self._big(hidden, head)
        else:
            blocks = self._hidden(hidden)
            width = self._width(blocks)
            if self.options.routes_head:
                block = self.expert_layers.head(hidden, head, width, first=not hidden)
                blocks += [*head.norms_for(width), block, *head.after]
            else:
                blocks += self._dense(head, width, first=not hidden)
            network = self._assembled(blocks)
        self.match(network)
        return network

    def _big(self, hidden: list[Stage], head: Stage) -> MoENetwork:
        _check_block(self.options, len(hidden))
        # The tanh of TD3's actor comes after the experts are combined.
        blocks = [*self.expert_layers.span(hidden, head), *head.after]
        return self._assembled(blocks)

    def hidden_network(self, dense: Iterable[nn.Module]) -> tuple[nn.Module, int]:
        """Return the hidden layers and their width, for policies that keep the head apart.

        If the head has experts, the one-hot task id is appended to the output for their router.

        :raises ValueError: if the first hidden layer has to see the task id, and there is none
        """
        self._stages = stages = self._begin(dense, heads=0)
        if self.place.whole:
            return nn.Sequential(), self.given_layout.features_dim
        blocks = self._hidden(stages)
        if self.seen and not stages:
            raise ValueError(
                "`net_arch` must have a hidden layer for the task id to enter where the head is "
                "apart, got none: give it one, or let only a routed head see it, with "
                "`placement`='final' and `task_input`='router'"
            )
        width = self._width(blocks)
        carry = self.options.routes_head
        network = self._assembled(blocks, carry_task=carry)
        return network, width + (self.layout.num_tasks if carry else 0)

    def head(self, linear: nn.Linear) -> nn.Module:
        """Return the module that replaces SB3's head behind the last ``hidden_network``.

        A dense head is ``linear`` itself.

        :param linear: SB3's head, whose inputs are the outputs of ``hidden_network``
        """
        if self.place.whole:
            return self._big(self._stages, Stage(linear))
        if not self.options.routes_head:
            return linear
        width = linear.in_features - self.layout.num_tasks
        block = self.expert_layers.head(self._stages, Stage(linear), width, first=False)
        return MoENetwork(
            [block],
            Layout(
                x_dim=width,
                num_tasks=self.layout.num_tasks,
                tells_task=self.layout.tells_task,
            ),
            experts_see_task=False,
            router_sees_task=self.options.router_sees_task,
            task_embedding=self.task_embedding if block.sees == "tokens" else None,
        )

    def _assembled(self, blocks: list[nn.Module], *, carry_task: bool = False) -> MoENetwork:
        width = self.layout.x_dim + self.seen
        return MoENetwork(
            blocks,
            self.given_layout,
            experts_see_task=self.experts_see_task,
            router_sees_task=self.options.router_sees_task,
            tokens=self.options.tokens if self.options.is_tokenized else "sample",
            map_shape=self.layout.map_shape,
            encoder=self.encoder,
            norms=[fitted(norm, width) for norm in self.norms],
            carry_task=carry_task,
            task_embedding=self.task_embedding,
        )

    # Hidden layers.

    def _hidden(self, stages: list[Stage]) -> list[nn.Module]:
        _check_depth(self.options, len(stages))
        _check_block(self.options, len(stages))
        if self.place.hidden == "one":
            return self.expert_layers.span(stages)
        blocks: list[nn.Module] = []
        for i, stage in enumerate(stages):
            width = self._width(blocks)
            if self.place.takes(i, len(stages)):
                blocks += self.expert_layers.hidden(stage, width, first=i == 0)
            elif self.options.block == "simba":
                dim = width + (0 if i else self.seen)
                last = i + 1 == len(stages) or self.place.takes(i + 1, len(stages))
                layers = stage.simba(dim, stage.width, first=i == 0, last=last)
                for layer in layers:
                    self.init_hidden(layer)
                blocks += [*stage.norms_for(width), *layers]
            else:
                blocks += self._dense(stage, width, first=i == 0)
        return blocks

    def _dense(self, stage: Stage, width: int, *, first: bool) -> list[nn.Module]:
        """Return a dense layer as SB3 made it, or a new one if its input has another width.

        :param stage: the dense layer
        :param width: of the rows, without the features that the first layer sees beside x
        :param first: whether it is the first one
        """
        linear = stage.linear
        dim = width + (self.seen if first else 0)
        if linear.in_features != dim:
            linear = nn.Linear(dim, stage.width)
            self.init_hidden(linear)
        return [*stage.norms_for(width), linear, *stage.after]

    def _width(self, blocks: Sequence[nn.Module]) -> int:
        """Return the width of the rows behind these blocks."""
        for block in reversed(blocks):
            if isinstance(block, nn.Linear):
                return block.out_features
            # Experts on tokens keep the width of each token, and so that of the feature map.
            if isinstance(block, MoELayer) and not (
                block is blocks[0] and self.options.is_tokenized
            ):
                return block.experts.out_features
        return self.layout.x_dim

    def match(self, *parts: nn.Module) -> None:
        """With ``match_scale``, scale the experts' outputs to the size of the dense layers'.

        :param parts: all parts of a network in their order, built and initialized
        :raises ValueError: if a layer's output doesn't grow with its experts' weights
        """
        match_sizes(parts, self.expert_layers.dense_spans, self.given_layout)


def _check_depth(options: MoEOptions, depth: int) -> None:
    """Raise unless there are the hidden layers that ``placement`` and ``tokens`` need.

    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    place = options.place
    tokens = options.tokens
    if place.hidden == "one" and depth == 0:
        raise ValueError(
            f"`placement`={place.name!r} replaces all hidden layers by one layer of experts, and "
            "`net_arch` has none: give it at least one, or choose 'final'"
        )
    if isinstance(place.hidden, int) and not -depth <= place.hidden < depth:
        which = "the last hidden layer" if place.hidden == -1 else f"hidden layer {place.hidden}"
        raise ValueError(
            f"`placement`={place.name!r} replaces {which}, and `net_arch` has "
            f"{depth or 'none'}: give it more, or choose 'final'"
        )
    if options.is_tokenized and not (depth and place.takes(0, depth)):
        raise ValueError(
            f"`tokens`={tokens!r} with `placement`={place.name!r} needs exactly one hidden "
            f"layer, whose input is the feature map; `net_arch` has {depth}"
        )


def _check_block(options: MoEOptions, depth: int) -> None:
    """Raise if there is no hidden layer that the option ``block`` could change.

    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    place = options.place
    inside = place.hidden == "one" or options.block == "layer_norm"
    left = depth if inside else sum(not place.takes(i, depth) for i in range(depth))
    if options.is_given("block") and not left and not options.is_given("expert"):
        raise ValueError(
            f"`block`={options.block!r} needs a hidden layer that isn't replaced by experts, and "
            f"`net_arch` has none with `placement`={place.name!r}: give it one more, or use "
            "`expert`='simba'"
        )
