"""How a network's gradients of several tasks become one (PCGrad, arXiv 2001.06782).

SB3 makes one backward pass through a loss that is the mean over all rows. The loss's gradient at
the network's outputs has a part for each row. Here the rows of each task go back through the
network by themselves, and the weights get a combination of the tasks' gradients.

Shapes: B batch, K tasks in it, P numbers of a gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from torch import Tensor, nn

from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.vec_env.task_ids import TaskIds, one_hot_length


def pcgrad(gradients_KP: Tensor) -> Tensor:
    """Remove from each task's gradient what conflicts with others, and sum (algorithm 1): (P,).

    If two gradients have a negative inner product, each loses its part along the other. A task's
    gradient meets the others in random order. Without conflicts the result is the plain sum.

    :param gradients_KP: a row for each task
    """
    # Gradients stay weighed sums of the given ones, so their inner products are all that is needed.
    products_KK = (gradients_KP @ gradients_KP.t()).cpu().double()
    shares_KK = th.eye(len(gradients_KP), dtype=th.double)
    for task, share_K in enumerate(shares_KK):
        for other in th.randperm(len(shares_KK)).tolist():
            product = share_K @ products_KK[other]
            if other != task and product < 0:
                share_K[other] -= product / products_KK[other, other]
    return shares_KK.sum(0).to(gradients_KP) @ gradients_KP


#: Functions that make one gradient (P,) from those of tasks (K, P), by their names in the option
#: ``task_gradients``; add your own.
COMBINATIONS: dict[str, Callable[[Tensor], Tensor]] = {"pcgrad": pcgrad}


class TaskGradients:
    """Combine the gradients that the rows of each task give a network's weights, while it learns.

    It costs a backward pass through the network for each task of a minibatch, and on a GPU waits
    for the device.

    :param combination: one of :data:`COMBINATIONS`; None: gradients stay as they are
    :param space: space of observations
    :param extractor: the network's features extractor, which knows whether there is a one-hot
    :raises ValueError: if observations hold no task id
    """

    def __init__(self, combination: str | None, space: spaces.Space, extractor: nn.Module) -> None:
        self.combine = None
        if combination is not None:
            self.combine = COMBINATIONS[combination]
            self._task_ids = TaskIds(space, one_hot_length(extractor) or None, "`task_gradients`")

    def __call__(self, network: nn.Module, obs: Any, outputs: Sequence[Any]) -> Sequence[Any]:
        """Return a network's outputs, with a backward pass that goes by task.

        :param network: the network, whose weights learn
        :param obs: the network's observations, as tensors
        :param outputs: the outputs, each with an entry for each observation, or None
        """
        if self.combine is None or not (network.training and th.is_grad_enabled()):
            return outputs
        tasks_B = self._task_ids(obs).reshape(-1).long()
        given = [each for each in outputs if each is not None]
        weights = [each for each in network.parameters() if each.requires_grad]
        found: Any = _ByTask.apply(self.combine, tasks_B, len(given), *given, *weights)  # type: ignore[no-untyped-call]  # torch's has no types
        handed_on = iter(found)
        return [None if each is None else next(handed_on) for each in outputs]


class _ByTask(th.autograd.Function):
    """Return outputs as they are; the weights' gradients come from here, and not through them."""

    @staticmethod
    def forward(
        ctx: Any, combine: Any, tasks_B: Tensor, number: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the outputs, which are the first ``number`` tensors; the weights follow."""
        ctx.set_materialize_grads(False)
        ctx.combine = combine
        ctx.number = number
        ctx.save_for_backward(tasks_B, *tensors)
        return tuple(each.view_as(each) for each in tensors[:number])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the weights' gradients; None for outputs, behind which only added losses act."""
        tasks_B, *tensors = ctx.saved_tensors
        outputs = tensors[: ctx.number]
        weights = tensors[ctx.number :]
        every = zip(outputs, grads, strict=True)
        pairs = [(y, grad) for y, grad in every if grad is not None and y.requires_grad]
        tasks = tasks_B.unique().tolist()
        by_task = [_gradients(pairs, weights, tasks_B == task) for task in tasks]
        used = [i for i, gradient in enumerate(by_task[0]) if gradient is not None]
        rows = [th.cat([gradients[i].flatten() for i in used]) for gradients in by_task]
        combined_P = ctx.combine(th.stack(rows))
        found: list[Tensor | None] = [None] * len(tensors)
        sizes = [weights[i].numel() for i in used]
        for i, part in zip(used, combined_P.split(sizes), strict=True):
            found[ctx.number + i] = part.view_as(weights[i])
        return None, None, None, *found


def _gradients(
    pairs: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor], mask_B: Tensor
) -> tuple[Any, ...]:
    """Return some rows' gradients of the weights; None if outputs don't depend on a weight."""
    outputs = [y for y, _ in pairs]
    grads = [grad * mask_B.view(-1, *[1] * (grad.dim() - 1)) for _, grad in pairs]
    with without_added_losses():
        return th.autograd.grad(outputs, weights, grads, retain_graph=True, allow_unused=True)
