"""From the dense network that SB3 built to a network with experts in some of its layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.policies.dense_layers import DenseLayers, Init, Stage, read_stages
from sb3_moe.policies.expert_layers import ExpertLayers
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.moe_network import Layout, MoENetwork
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.start_scale import match_sizes


def as_torch_does(module: nn.Module) -> None:
    """Leave the weights as they are: off-policy algorithms start from torch's own init."""


class Architect:
    """Builds one network from the dense one.

    :param options: what the network is to be
    :param layout: what its input holds
    :param init_hidden: initializes hidden layers in place, as SB3 would
    :param init_head: initializes the head in place, as SB3 would
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
        #: As given, and behind the encoder that the network itself may begin with.
        self.given_layout = self.layout = layout
        self.init_hidden, self.init_head = init_hidden, init_head
        options.check_tasks(layout.num_tasks if layout.tells_task else 0)
        self.experts_see_task = options.experts_see_task and not after_lstm
        self.task_embedding: TaskEmbedding | None = None
        self.encoder: nn.Module | None = None
        if layout.image_shape is not None and not self.place.whole:
            self._encode_first(layout.image_shape)
        if options.is_tokenized and self.layout.map_shape is None:
            raise ValueError(
                f"`tokens`={options.tokens!r} needs a feature map, and the features extractor "
                "gives none: use an image observation with 'MoeCnnPolicy', or with "
                "'MoeMultiInputPolicy' one image key, an `encoder` other than 'flat' and no "
                "`features_dim`"
            )
        self.dense_layers = DenseLayers(
            options, self.layout, init_hidden, sees_task=self.experts_see_task
        )
        self.expert_layers = ExpertLayers(options, self.layout, self.dense_layers, init_head)

    def _encode_first(self, image_shape: tuple[int, int, int]) -> None:
        self.encoder = ImageEncoder(make_convs(self.layout.encoder, image_shape), image_shape)
        map_shape = map_shape_of(self.layout.encoder, image_shape)
        rest = self.layout.x_dim - math.prod(image_shape)
        self.layout = replace(
            self.layout,
            x_dim=math.prod(map_shape) + rest,
            map_shape=None if rest else map_shape,
        )

    # Whole networks and their parts.

    def _begin(self) -> None:
        """Start a network that has nothing together with the one before."""
        self.expert_layers.shared = None
        self.task_embedding = None
        if self.options.embeds_task:
            num_tasks = self.layout.num_tasks
            self.task_embedding = TaskEmbedding(num_tasks, self.options.task_width(num_tasks))

    def network(self, dense: Iterable[nn.Module]) -> MoENetwork:
        """Return hidden layers and head as one network (Q networks, TD3's actor)."""
        self._begin()
        *hidden, head = read_stages(dense)
        network = self._network([*self._normed(hidden), head])
        self.match(network)
        return network

    def _normed(self, hidden: list[Stage]) -> list[Stage]:
        """Return hidden layers with a normalization before each activation, where it is wanted."""
        if self.options.block == "layer_norm":
            for stage in hidden:
                stage.after.insert(0, nn.LayerNorm(stage.width))
        return hidden

    def _network(self, stages: list[Stage]) -> MoENetwork:
        if self.place.whole:
            return self._big(stages)
        *hidden, head = stages
        blocks = self._hidden(hidden)
        width = self._width(blocks)
        if self.options.routes_head:
            norms = self.dense_layers.norms(head, width) if hidden else []
            block = self.expert_layers.head(hidden, head, width, first=not hidden)
            blocks += [*norms, block, *head.after]
        else:
            blocks += self.dense_layers.plain(head, width, first=not hidden)
        return self._assembled(blocks, stages)

    def _big(self, stages: list[Stage]) -> MoENetwork:
        *hidden, head = stages
        _check_block(self.options, len(hidden))
        # The tanh of TD3's actor comes after the experts are combined.
        return self._assembled([*self.expert_layers.span(hidden, head), *head.after], stages)

    def hidden_network(self, dense: Iterable[nn.Module]) -> tuple[nn.Module, int]:
        """Return the hidden layers and their width, for policies that keep the head apart.

        Where the head routes, the one-hot task id is handed on to it behind the output.

        :raises ValueError: if there is no hidden layer that the task id, which the head is not
            given, could enter
        """
        self._begin()
        if self.place.whole:
            return nn.Sequential(), self.given_layout.features_dim
        stages = self._normed(read_stages(dense))
        blocks = self._hidden(stages)
        _check_seen(self.dense_layers.seen, len(stages))
        width = self._width(blocks)
        carry = self.options.routes_head
        network = self._assembled(blocks, stages, carry_task=carry)
        return network, width + (self.layout.num_tasks if carry else 0)

    def head(self, linear: nn.Linear, dense: Iterable[nn.Module]) -> nn.Module:
        """Return what stands for SB3's head behind ``hidden_network``, which is called before.

        Where the head is dense that is ``linear`` itself.

        :param linear: SB3's head, as wide as the output is to be
        :param dense: the hidden layers that ``hidden_network`` was given
        """
        hidden = self._normed(read_stages(dense))
        if self.place.whole:
            return self._big([*hidden, Stage(linear)])
        if not self.options.routes_head:
            return linear
        width = linear.in_features - self.layout.num_tasks
        block = self.expert_layers.head(hidden, Stage(linear), width, first=False)
        return MoENetwork(
            [block],
            Layout(x_dim=width, num_tasks=self.layout.num_tasks),
            experts_see_task=False,
            router_sees_task=self.options.router_sees_task,
            task_embedding=None if block.sees == "task" else self.task_embedding,
        )

    def _assembled(
        self, blocks: list[nn.Module], stages: list[Stage], *, carry_task: bool = False
    ) -> MoENetwork:
        width = self.layout.x_dim + self.dense_layers.seen
        return MoENetwork(
            blocks,
            self.given_layout,
            experts_see_task=self.experts_see_task,
            router_sees_task=self.options.router_sees_task,
            tokens=self.options.tokens if self.options.is_tokenized else "sample",
            map_shape=self.layout.map_shape,
            encoder=self.encoder,
            norms=self.dense_layers.norms(stages[0], width) if stages else [],
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
            first = i == 0
            width = self._width(blocks)
            if self.place.takes(i, len(stages)):
                blocks += self.expert_layers.hidden(stage, width, number=i)
            elif self.options.block == "simba":
                last = i + 1 == len(stages) or self.place.takes(i + 1, len(stages))
                blocks += self.dense_layers.simba(stage, width, first=first, last=last)
            else:
                blocks += self.dense_layers.plain(stage, width, first=first)
        return blocks

    def _width(self, blocks: Sequence[nn.Module]) -> int:
        """Return how wide the rows behind some of the hidden layers are."""
        *_, last = [None, *(each for each in blocks if isinstance(each, nn.Linear | MoELayer))]
        # Tokens come out as wide as they are, and so does a map of them.
        if last is None or (last is blocks[0] and self.options.is_tokenized):
            return self.layout.x_dim
        return last.out_features if isinstance(last, nn.Linear) else last.experts.out_features

    def match(self, *parts: nn.Module) -> None:
        """Scale the experts' initial weights to the size of the dense layers, if that is asked for.

        :param parts: all of a network as it is built and initialized, one part behind the other
        :raises ValueError: if an output doesn't follow its experts' weights
        """
        match_sizes(parts, self.expert_layers.dense_spans, self.given_layout)


def _check_depth(options: MoEOptions, depth: int) -> None:
    """Raise unless a placement, and tokens, find the hidden layers that they need.

    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    place, tokens = options.place, options.tokens
    if place.hidden == "one" and depth == 0:
        raise ValueError(
            f"`placement`={place.name!r} replaces all hidden layers by one layer of experts, and "
            "`net_arch` has none: give it at least one, or choose 'final' or 'big'"
        )
    if isinstance(place.hidden, int) and not -depth <= place.hidden < depth:
        which = "the last hidden layer" if place.hidden == -1 else f"hidden layer {place.hidden}"
        raise ValueError(
            f"`placement`={place.name!r} replaces {which}, and `net_arch` has "
            f"{depth or 'none'}: give it more, or choose 'final' or 'big'"
        )
    if options.is_tokenized and not (depth and place.takes(0, depth)):
        raise ValueError(
            f"`tokens`={tokens!r} with `placement`={place.name!r} needs exactly one hidden "
            f"layer, whose input is the feature map; `net_arch` has {depth}"
        )


def _check_block(options: MoEOptions, depth: int) -> None:
    """Raise if there is no hidden layer that a block could change.

    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    place = options.place
    inside = place.hidden == "one" or options.block == "layer_norm"
    left = depth if inside else sum(not place.takes(i, depth) for i in range(depth))
    if options.block != MoEOptions.default("block") and not left and not options.names_expert:
        raise ValueError(
            f"`block`={options.block!r} needs a hidden layer that isn't replaced by experts, and "
            f"`net_arch` has none with `placement`={place.name!r}: give it one more, or use "
            "`expert`='simba'"
        )


def _check_seen(num_seen: int, depth: int) -> None:
    """Raise if the task id would be lost, since only the first hidden layer sees it.

    :param num_seen: features that the first layer sees beside the observation
    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    if num_seen and depth == 0:
        raise ValueError(
            "`net_arch` must have a hidden layer for the task id to enter where the head is apart, "
            "got none: give it one, or let only a routed head see it, with `placement`='final' "
            "and `task_input`='router'"
        )
