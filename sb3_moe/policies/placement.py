"""From the dense network that SB3 built to a tower with experts in some of its layers.

SB3 builds every network as a list of linear layers with activations between (``create_mlp``).
Reading that list keeps each algorithm's own choices: widths, activations, CrossQ's BatchRenorm,
TD3's final tanh.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch as th
from torch import nn

from sb3_moe.layers import (
    ExpertChoiceMoE,
    LinearRouter,
    MoELayer,
    SoftMoE,
    SparseMoE,
    StackedNetwork,
    TaskMoE,
    UniformMoE,
)
from sb3_moe.layers.activations import is_alike_for_all, is_norm
from sb3_moe.layers.encoder import ImageEncoder
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.tokens import TokenKind, token_shape
from sb3_moe.policies.extractors import make_convs, map_shape_of
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.towers import Layout, MoEBlock, Tower

Init = Callable[[nn.Module], object]
# Rows that an activation of unknown kind is tried on.
PROBE_ROWS = 2


def as_torch_does(module: nn.Module) -> None:
    """Leave the weights as they are: off-policy algorithms start from torch's own init."""


@dataclass
class Stage:
    """One linear layer, with the norms before it and the activation (and last norm) after it."""

    linear: nn.Linear
    norms: list[nn.Module] = field(default_factory=list)
    after: list[nn.Module] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Outputs of the layer."""
        return self.linear.out_features


def read_stages(modules: Iterable[nn.Module]) -> list[Stage]:
    """Group a dense network's modules by linear layer."""
    stages: list[Stage] = []
    norms: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            stages.append(Stage(module, norms))
            norms = []
        elif is_norm(module):
            norms.append(module)
        else:
            stages[-1].after.append(module)
    if stages:
        stages[-1].after += norms
    return stages


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
        self.options = options
        self.outer = self.layout = layout
        self.init_hidden, self.init_head = init_hidden, init_head
        self.num_experts = options.resolve_num_experts(layout.num_tasks) if options.is_moe else 0
        self.experts_see_task = options.experts_see_task and not after_lstm
        self.encoder: nn.Module | None = None
        if layout.image_shape is not None and options.placement != "big":
            self._encode_first(layout.image_shape)
        if options.is_moe and options.tokens != "sample" and self.layout.map_shape is None:
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

    def network(self, dense: Iterable[nn.Module]) -> Tower:
        """Return hidden layers and head as one tower (Q networks, TD3's actor)."""
        stages = read_stages(dense)
        if self.options.placement == "big":
            return self._big(stages)
        *hidden, head = stages
        blocks = self._hidden(hidden)
        width = self._width(blocks, hidden)
        if self.options.placement in ("final", "all"):
            norms = self._norms(head, width) if hidden else []
            blocks += [*norms, self._moe_head(head, width, first=not hidden), *head.after]
        else:
            blocks += self._plain(head, width, first=not hidden)
        return self._tower(blocks, stages)

    def body(self, dense: Iterable[nn.Module]) -> tuple[nn.Module, int]:
        """Return the hidden layers and their width, for policies that keep the head apart.

        Where the head routes, the one-hot task id is handed on to it behind the output.
        """
        if self.options.placement == "big":
            return nn.Sequential(), self.outer.features_dim
        stages = read_stages(dense)
        blocks = self._hidden(stages)
        width = self._width(blocks, stages)
        carry = self.options.placement in ("final", "all")
        tower = self._tower(blocks, stages, carry_task=carry)
        return tower, width + (self.layout.num_tasks if carry else 0)

    def head(self, linear: nn.Linear, dense: Iterable[nn.Module]) -> nn.Module:
        """Return what stands for SB3's head behind ``body``; ``linear`` itself where it is dense.

        :param linear: SB3's head, as wide as the output is to be
        :param dense: the hidden layers that ``body`` was given
        """
        if self.options.placement == "big":
            return self._big([*read_stages(dense), Stage(linear)])
        if self.options.placement not in ("final", "all"):
            return linear
        width = linear.in_features - self.layout.num_tasks
        return Tower(
            [self._moe_head(Stage(linear), width, first=False)],
            Layout(x_dim=width, num_tasks=self.layout.num_tasks),
            experts_see_task=False,
            router_sees_task=self.options.router_sees_task,
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
        )

    # Hidden layers.

    def _hidden(self, stages: list[Stage]) -> list[nn.Module]:
        self._check_depth(len(stages))
        blocks: list[nn.Module] = []
        for i, stage in enumerate(stages):
            first = i == 0
            width = self._width(blocks, stages[:i])
            if self.options.placement == "all" or (
                self.options.placement == "middle" and i == len(stages) - 1
            ):
                norms = [] if first else self._norms(stage, width)
                block = self._moe_hidden(stage, width, first=first)
                # An expert's output is not activated again; CrossQ's last norm stays.
                after = [_resized(m, block.out_features) for m in stage.after if is_norm(m)]
                blocks += [*norms, block, *after]
            else:
                blocks += self._plain(stage, width, first=first)
        return blocks

    def _check_depth(self, depth: int) -> None:
        placement, tokens = self.options.placement, self.options.tokens
        if placement == "middle" and depth == 0:
            raise ValueError(
                "`placement`='middle' replaces the last hidden layer, and `net_arch` has none: "
                "give it at least one, or choose 'final' or 'big'"
            )
        if self.options.is_moe and self.options.expert_width is not None and depth == 0:
            raise ValueError(
                f"`expert_width`={self.options.expert_width} needs experts with a hidden layer, "
                f"and with `placement`={placement!r} and no hidden layer in `net_arch` they have "
                "none"
            )
        if placement == "middle" and tokens != "sample" and depth != 1:
            raise ValueError(
                f"`tokens`={tokens!r} with `placement`='middle' needs exactly one hidden layer, "
                f"whose input is the feature map; `net_arch` has {depth}"
            )
        if placement == "all" and tokens != "sample" and depth == 0:
            raise ValueError(
                f"`tokens`={tokens!r} needs a hidden layer, and `net_arch` has none: give it one"
            )

    def _width(self, blocks: Sequence[nn.Module], stages: Sequence[Stage]) -> int:
        for block in reversed(blocks):
            if isinstance(block, MoEBlock):
                return block.out_features
            if isinstance(block, nn.Linear):
                return block.out_features
        return stages[-1].width if stages else self.layout.x_dim

    def _seen(self) -> int:
        """Features that the first layer sees beside x."""
        return self.layout.num_tasks * self.experts_see_task + self.layout.action_dim

    def _plain(self, stage: Stage, width: int, *, first: bool) -> list[nn.Module]:
        in_features = width + (self._seen() if first else 0)
        norms = [] if first else self._norms(stage, width)
        linear = stage.linear
        if linear.in_features != in_features:
            linear = nn.Linear(in_features, linear.out_features)
            self.init_hidden(linear)
        return [*norms, linear, *stage.after]

    def _norms(self, stage: Stage, width: int) -> list[nn.Module]:
        return [_resized(norm, width) for norm in stage.norms]

    # Experts.

    def _moe_hidden(self, stage: Stage, width: int, *, first: bool) -> MoEBlock:
        tokens: TokenKind = self.options.tokens if first else "sample"
        num_tokens, bare, out = 1, width, stage.width
        if tokens != "sample" and self.layout.map_shape is not None:
            num_tokens, bare = token_shape(tokens, self.layout.map_shape)
            out = bare
        in_features = bare + (self._seen() if first else 0)
        hidden = self.options.expert_width or stage.width

        def expert() -> nn.Module:
            act = [_activation(m, hidden) for m in stage.after if not is_norm(m)]
            layers = nn.Linear(in_features, hidden), *act, nn.Linear(hidden, out)
            return self._started(nn.Sequential(*layers), self.init_hidden)

        layer = self._layer(expert, bare, num_tokens, first=first)
        return MoEBlock(layer, tokens=tokens, map_shape=self.layout.map_shape)

    def _moe_head(self, stage: Stage, width: int, *, first: bool) -> MoEBlock:
        in_features = width + (self._seen() if first else 0)

        def expert() -> nn.Module:
            return self._started(nn.Linear(in_features, stage.width), self.init_head)

        return MoEBlock(self._layer(expert, width, 1, first=first))

    def _big(self, stages: list[Stage]) -> Tower:
        *hidden, head = stages
        self._check_depth(len(hidden))
        x_dim = self.layout.x_dim
        encoder = self.layout.encoder if self.layout.image_shape is not None else "flat"

        def expert() -> nn.Module:
            layers: list[nn.Module] = []
            dim = x_dim
            if self.layout.image_shape is not None:
                shape = self.layout.image_shape
                layers.append(ImageEncoder(make_convs(encoder, shape), shape))
                dim += math.prod(map_shape_of(encoder, shape)) - math.prod(shape)
            dim += self._seen()
            for i, stage in enumerate(hidden):
                width = self.options.expert_width or stage.width
                norms = self._norms(stage, dim) if i else []
                after = [
                    _resized(m, width) if is_norm(m) else _activation(m, width) for m in stage.after
                ]
                layers += [*norms, nn.Linear(dim, width), *after]
                dim = width
            for layer in layers:
                self.init_hidden(layer)
            last = self._started(nn.Linear(dim, head.width), self.init_head)
            return nn.Sequential(*layers, *(self._norms(head, dim) if hidden else []), last)

        block = MoEBlock(self._layer(expert, x_dim, 1, first=True))
        # The tanh of TD3's actor comes after the experts are combined.
        return self._tower([block, *head.after], stages)

    @staticmethod
    def _started(module: nn.Module, init: Init) -> nn.Module:
        init(module)
        return module

    def _layer(
        self, expert: Callable[[], nn.Module], bare: int, num_tokens: int, *, first: bool
    ) -> MoELayer:
        """Return the routed layer; ``bare`` is the width of a token before anything is appended."""
        options = self.options
        experts = StackedNetwork([expert() for _ in range(self.num_experts)])
        if options.router == "task":
            return TaskMoE(experts)
        if options.router == "uniform":
            return UniformMoE(experts)
        seen = bare + self.layout.num_tasks * options.router_sees_task
        seen += self.layout.action_dim if first else 0
        slots = 1
        if options.router in ("soft", "random"):
            slots = options.num_slots or math.ceil(num_tokens / self.num_experts)
        router = LinearRouter(
            seen,
            self.num_experts * slots,
            normalize=options.normalize_router,
            noise=options.router_noise,
            frozen=options.router == "random",
        )
        if options.router == "top_k":
            # The policy moves the bias: it knows an algorithm's next rollout from a mere predict.
            return SparseMoE(
                experts,
                router,
                top_k=options.top_k,
                bias_rate=options.bias_rate,
                move_on_eval=False,
                aux=options.aux,
            )
        if options.router == "expert_choice":
            return ExpertChoiceMoE(experts, router, top_k=options.top_k, aux=options.aux)
        return SoftMoE(experts, router, num_slots=slots, aux=options.aux)


def _activation(module: nn.Module, width: int) -> nn.Module:
    """Return an expert's own copy of a dense layer's activation.

    :raises ValueError: if it doesn't take rows of that width and return as many numbers
    """
    module = copy.deepcopy(module)
    if is_alike_for_all(module):
        return module
    shape = (PROBE_ROWS, width)
    try:
        with th.no_grad(), evaluating(module):
            got = f"it returned {tuple(module(th.zeros(shape)).shape)} for {shape}"
    except (RuntimeError, ValueError, IndexError) as error:
        got = f"it failed with: {error}"
    if got != f"it returned {shape} for {shape}":
        raise ValueError(
            f"`activation_fn` must take rows of {width} hidden units, as wide as the expert, and "
            f"keep their shape; of {type(module).__name__}: {got}"
        )
    return module


def _resized(norm: nn.Module, width: int) -> nn.Module:
    """Return the norm for another width; all entries of each of its tensors start alike."""
    norm = copy.deepcopy(norm)
    for tensor in [*norm.parameters(), *norm.buffers()]:
        if tensor.dim() == 1 and len(tensor) != width:
            tensor.data = tensor.data.new_full((width,), th.as_tensor(tensor.data[0]).item())
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (width,)  # type: ignore[assignment]  # a plain attribute
    else:
        norm.num_features = width  # type: ignore[assignment]
    return norm
