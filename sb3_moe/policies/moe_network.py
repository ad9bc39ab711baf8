"""Dense layers and mixtures of experts in sequence: hidden layers, a head, or both.

Shapes: B batch, F features = ``[x | one-hot(task)]``, X features of x, N tokens, D features of a
token, A action dimensions, K tasks, O outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.tokens import TokenKind, append_to_each, tokenize


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a network's input vector holds, in this order: x, the one-hot task id, the action.

    :param x_dim: features of x
    :param num_tasks: length of the one-hot, or of a belief in its place; 0 where there is none
    :param action_dim: length of the action, for critics of Box actions
    :param map_shape: (C, H, W) where x is a flattened feature map
    :param image_shape: (C, H, W) where x starts with an image that the network itself encodes
    :param encoder: name of the encoder for that image
    :param tells_task: whether the one-hot is the true task id, and not a belief in its place
    """

    x_dim: int
    num_tasks: int = 0
    action_dim: int = 0
    map_shape: tuple[int, int, int] | None = None
    image_shape: tuple[int, int, int] | None = None
    encoder: str = "flat"
    tells_task: bool = True

    @property
    def features_dim(self) -> int:
        """Length of ``[x | one-hot]``."""
        return self.x_dim + self.num_tasks


class MoENetwork(nn.Module):
    """Run plain layers and mixtures in sequence, and give the task id to those that see it.

    :param blocks: plain modules and mixtures of experts
    :param layout: what the input holds
    :param experts_see_task: whether the one-hot enters the first layer
    :param router_sees_task: whether the one-hot is part of every router's input
    :param tokens: how a sample becomes tokens for the first block, which is then a mixture
    :param map_shape: (C, H, W), for tokens that are parts of a feature map
    :param encoder: encodes the image in x before all else; None: x is used as it is
    :param norms: modules before the first layer (CrossQ's BatchRenorm), over all that it sees
    :param carry_task: append the one-hot to the output, for a head that routes
    :param task_embedding: turns the one-hot into a learned vector, which experts and routers of
        tokens see in its place
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        layout: Layout,
        *,
        experts_see_task: bool = True,
        router_sees_task: bool = True,
        tokens: TokenKind = "sample",
        map_shape: tuple[int, int, int] | None = None,
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
        self.tokens = tokens
        self.map_shape = map_shape
        self.carry_task = carry_task
        self.task_embedding = task_embedding
        # If the first layer sees the features as they are, nothing has to be copied.
        sees_all = experts_see_task or layout.num_tasks == 0
        parts = (encoder, self.norms, task_embedding)
        self._sees_all = sees_all and tokens == "sample" and all(each is None for each in parts)

    def forward(self, features_BF: Tensor, actions_BA: Tensor | None = None) -> Tensor:
        """Return the network's output.

        :param features_BF: ``[x | one-hot]``
        :param actions_BA: the actions that a critic judges. If they carry a gradient, the actor
            learns from this pass, and auxiliary losses are left out: they would change its gradient
        :return: (B, O), with the one-hot appended if ``carry_task``
        """
        aux = actions_BA is None or not actions_BA.requires_grad
        num_tasks = self.layout.num_tasks
        task_BK = features_BF[:, self.layout.x_dim :] if num_tasks else None
        x, router_x, routed = self._first_inputs(features_BF, task_BK, actions_BA)
        for i, block in enumerate(self.blocks):
            if not isinstance(block, MoELayer):
                x = block(x)
                continue
            if i:
                router_x = x if routed is None else th.cat([x, routed], 1)
            if block.sees in ("task", "belief"):
                # Such a router is only built where there are tasks or beliefs.
                assert task_BK is not None
                router_x = append_to_each(x[..., :0], task_BK) if x.dim() == 3 else task_BK
            x, _ = block(x, router_x, aux=aux)
            x = x if x.dim() == 2 else x.flatten(1)
        return th.cat([x, task_BK], 1) if self.carry_task and task_BK is not None else x

    def _first_inputs(
        self, features_BF: Tensor, task_BK: Tensor | None, actions_BA: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the first layer's input, its router's, and what later routers see besides x."""
        routed = task_BK if self.router_sees_task else None
        if self._sees_all and (self.router_sees_task or task_BK is None):
            x = append_to_each(features_BF, actions_BA)
            return x, x, routed
        x = features_BF if task_BK is None else features_BF[:, : self.layout.x_dim]
        if self.encoder is not None:
            x = self.encoder(x)
        if task_BK is not None and self.task_embedding is not None:
            task_BK = self.task_embedding(task_BK)
            routed = task_BK if self.router_sees_task else None
        seen = task_BK if self.experts_see_task else None
        if self.norms is not None:
            x, seen, actions_BA = self._normalize(x, seen, actions_BA)
        if self.map_shape is not None and self.tokens != "sample":
            x = tokenize(self.tokens, x, self.map_shape)
        first = append_to_each(x, _join(seen, actions_BA))
        if self.experts_see_task == self.router_sees_task:
            return first, first, routed
        return first, append_to_each(x, _join(routed, actions_BA)), routed

    def _normalize(self, *parts: Tensor | None) -> list[Any]:
        """Normalize all that the first layer sees, as one vector, and take it apart again."""
        assert self.norms is not None
        given = [part for part in parts if part is not None]
        sizes = [part.shape[1] for part in given]
        together = self.norms(th.cat(given, 1))
        normed = iter(together.split(sizes, dim=1))
        return [None if part is None else next(normed) for part in parts]


class Columns(nn.Module):
    """Take some columns of what a network returned: (B, O) to (B, stop - start)."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, x_BO: Tensor) -> Tensor:
        """Return the columns."""
        return x_BO[:, self.start : self.stop]


def _join(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return th.cat([a, b], 1)
