"""An entropy temperature for each task, in an actor whose algorithm has one for all.

SAC uses the actor's log-probabilities only multiplied by its temperature. So if that is 1
(``ent_coef=1.0``), and the actor returns log-probabilities that are already multiplied by their
tasks' temperatures, each task is trained with a temperature of its own.

Shapes: B batch, K tasks.
"""

from collections.abc import Sequence

import torch as th
from torch import Tensor, nn

from sb3_moe.layers.aux_loss import add_loss


class TaskTemperatures(nn.Module):
    """Temperatures that are learned as SAC learns its own (arXiv 1812.05905, eq. 18), task by task.

    :param targets: the entropy that each task's policy is to have, K numbers
    """

    target_K: Tensor

    def __init__(self, targets: Sequence[float]) -> None:
        super().__init__()
        self.log_K = nn.Parameter(th.zeros(len(targets)))
        # Computed from the action dimensions, so that files needn't hold it.
        self.register_buffer("target_K", th.tensor(targets), persistent=False)

    def forward(self, log_prob_B: Tensor, tasks_B: Tensor) -> Tensor:
        """Return log-probabilities times their tasks' temperatures.

        While the actor learns, the temperatures learn too: their loss is attached to the result.
        """
        log_B = self.log_K[tasks_B]
        weighed_B = log_B.detach().exp() * log_prob_B
        if not (self.training and th.is_grad_enabled()):
            return weighed_B
        off_B = (log_prob_B + self.target_K[tasks_B]).detach()
        return add_loss(weighed_B, -(log_B * off_B).mean())


def temperatures_in(module: nn.Module) -> set[nn.Parameter]:
    """Return the temperatures in a network: they are learned, but are not weights of a layer.

    :param module: for example a policy
    """
    return {each.log_K for each in module.modules() if isinstance(each, TaskTemperatures)}
