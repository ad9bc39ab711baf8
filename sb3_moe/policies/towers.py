"""The network between the features and the head, with experts where they are wanted.

Shapes: B batch, F features = ``[x | one-hot(task)]``, X features of x, N tokens, D features of a
token, A action dimensions, K tasks, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch as th
from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.tokens import TokenKind, append_to_each, token_shape, tokenize


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a tower's input vector holds, in this order: x, the one-hot task id, the action.

    :param x_dim: features of x
    :param num_tasks: length of the one-hot; 0 where there is none
    :param action_dim: length of the action, for critics of Box actions
    :param map_shape: (C, H, W) where x is a flattened feature map
    :param image_shape: (C, H, W) where x starts with an image that the tower itself encodes
    :param encoder: name of the encoder for that image
    """

    x_dim: int
    num_tasks: int = 0
    action_dim: int = 0
    map_shape: tuple[int, int, int] | None = None
    image_shape: tuple[int, int, int] | None = None
    encoder: str = "flat"

    @property
    def features_dim(self) -> int:
        """Length of ``[x | one-hot]``."""
        return self.x_dim + self.num_tasks


class MoEBlock(nn.Module):
    """Make tokens, route them, and make one vector again.

    :param layer: the mixture of experts
    :param tokens: how a sample becomes tokens
    :param map_shape: (C, H, W), for tokens that are parts of a feature map
    """

    def __init__(
        self,
        layer: MoELayer,
        *,
        tokens: TokenKind = "sample",
        map_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.tokens: TokenKind = tokens
        self.map_shape = map_shape

    def forward(
        self,
        x_BX: th.Tensor,
        experts_extra: th.Tensor | None,
        router_extra: th.Tensor | None,
        task_BK: th.Tensor | None,
        *,
        aux: bool,
    ) -> th.Tensor:
        """Return the experts' combined output, flat: (B, O).

        :param x_BX: the input proper
        :param experts_extra: what the experts see beside it, if anything
        :param router_extra: what the router sees beside it, if anything
        :param task_BK: the one-hot task id, for the task router
        :param aux: whether auxiliary losses count
        """
        tokens = x_BX
        if self.tokens != "sample" and self.map_shape is not None:
            tokens = tokenize(self.tokens, x_BX, self.map_shape)
        x = append_to_each(tokens, experts_extra)
        router_x: th.Tensor | None = x
        if self.layer.sees in ("task", "belief"):
            assert task_BK is not None, "such a router is only built where there are tasks"
            router_x = task_BK if tokens.dim() == 2 else append_to_each(tokens[..., :0], task_BK)
        elif router_extra is not experts_extra:
            router_x = append_to_each(tokens, router_extra)
        y, _ = self.layer(x, router_x, aux=aux)
        return y if y.dim() == 2 else y.flatten(1)

    @property
    def out_features(self) -> int:
        """O: an expert's outputs times the number of tokens."""
        width = self.layer.experts.out_features
        if self.tokens == "sample" or self.map_shape is None:
            return width
        return width * token_shape(self.tokens, self.map_shape)[0]


class Tower(nn.Module):
    """Run plain layers and MoE blocks one after another, with the task id where it belongs.

    :param blocks: plain modules and ``MoEBlock``s
    :param layout: what the input holds
    :param experts_see_task: whether the one-hot enters the first layer
    :param router_sees_task: whether the one-hot is part of every router's input
    :param encoder: encodes the image in x before all else; None where that is done already
    :param norms: modules before the first layer (CrossQ's BatchRenorm), over all that it sees
    :param carry_task: hand the one-hot on behind the output, for a head that routes
    :param task_embedding: what whoever sees the task sees in place of the one-hot
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        layout: Layout,
        *,
        experts_see_task: bool = True,
        router_sees_task: bool = True,
        encoder: nn.Module | None = None,
        norms: Sequence[nn.Module] = (),
        carry_task: bool = False,
        task_embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.norms = nn.Sequential(*norms) if norms else None
        self.blocks = nn.ModuleList(blocks)
        self.layout = layout
        self.experts_see_task = experts_see_task
        self.router_sees_task = router_sees_task
        self.carry_task = carry_task
        self.task_embedding = task_embedding

    def forward(self, features_BF: th.Tensor, actions_BA: th.Tensor | None = None) -> th.Tensor:
        """Return the tower's output.

        :param features_BF: ``[x | one-hot]``
        :param actions_BA: the actions that a critic judges. Where they carry a gradient it belongs
            to the actor, and auxiliary losses are left out: they would leak into it
        :return: (B, O), with the one-hot behind if ``carry_task``
        """
        aux = actions_BA is None or not actions_BA.requires_grad
        x, task = self._split(features_BF)
        if self.encoder is not None:
            x = self.encoder(x)
        told = task if self.task_embedding is None else self.task_embedding(task)
        seen, actions = (told if self.experts_see_task else None), actions_BA
        if self.norms is not None:
            x, seen, actions = self._normalize(x, seen, actions)
        routed = told if self.router_sees_task else None
        experts_extra = router_extra = _join(seen, actions)
        if self.experts_see_task != self.router_sees_task:
            router_extra = _join(routed, actions)
        for i, block in enumerate(self.blocks):
            if isinstance(block, MoEBlock):
                x = block(x, experts_extra, router_extra, task, aux=aux)
            else:
                x = block(_join(x, experts_extra) if i == 0 else x)
            if i == 0:
                experts_extra, router_extra = None, routed
        return th.cat([x, task], dim=1) if self.carry_task and task is not None else x

    def _split(self, features_BF: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        if self.layout.num_tasks == 0:
            return features_BF, None
        x_dim = self.layout.x_dim
        return features_BF[:, :x_dim], features_BF[:, x_dim:]

    def _normalize(
        self, x: th.Tensor, task: th.Tensor | None, actions: th.Tensor | None
    ) -> tuple[th.Tensor, th.Tensor | None, th.Tensor | None]:
        """Normalize all that the first layer sees, as one vector, and take it apart again."""
        assert self.norms is not None
        parts = [part for part in (x, task, actions) if part is not None]
        normed = iter(self.norms(th.cat(parts, dim=1)).split([p.shape[1] for p in parts], dim=1))
        return (
            next(normed),
            None if task is None else next(normed),
            None if actions is None else next(normed),
        )


class Columns(nn.Module):
    """Take some columns of what a tower returned: (B, O) to (B, stop - start)."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x_BO: th.Tensor) -> th.Tensor:
        """Return the columns."""
        return x_BO[:, self.start : self.stop]


def _join(a: th.Tensor | None, b: th.Tensor | None) -> th.Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return th.cat([a, b], dim=1)
