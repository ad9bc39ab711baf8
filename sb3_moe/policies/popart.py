"""Critics whose values are normalized for each task (PopArt, arXiv 1809.04474).

Shapes: B batch, K tasks.
"""

from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_moe.layers import TaskMoE
from sb3_moe.layers.stacked import StackedLinear
from sb3_moe.vec_env.task_ids import TaskIds

# Bounds of the standard deviations, as in the paper.
LEAST = 1e-4
MOST = 1e6


class PopArt(nn.Module):
    """Mean and standard deviation of each task's returns, which turn a head's output into a value.

    A value is mean + deviation * output. :meth:`follow` moves the statistics, and rescales the
    tasks' heads so that values stay as they were (section 3 of the paper).

    :param task_ids: finds tasks in observations
    :param head: the critic's head, an expert for each task
    :raises ValueError: if the critic has no such head
    """

    mean_K: Tensor
    variance_K: Tensor
    weight_K: Tensor
    #: Whether the statistics include the returns of the latest rollout.
    is_up_to_date = False

    def __init__(self, task_ids: TaskIds, head: nn.Module | None) -> None:
        super().__init__()
        last = getattr(getattr(head, "experts", None), "last", None)
        if not (isinstance(head, TaskMoE) and isinstance(last, StackedLinear)):
            raise ValueError(
                "`popart`=True needs a critic with a head for each task: use `head_router`="
                "dict(vf='task'), or `router`='task' with `placement`='final', 'all' or 'big'"
            )
        self._task_ids = task_ids
        # In a tuple, so that it is not registered as a module here: the critic has it.
        self._last: tuple[Any] = (last,)
        for name in ("mean_K", "variance_K", "weight_K"):
            self.register_buffer(name, th.zeros(task_ids.num_tasks))

    @property
    def deviation_K(self) -> Tensor:
        """Standard deviation of each task's returns; 1 for tasks without returns yet."""
        return th.where(self.weight_K > 0, self.variance_K.sqrt().clamp(LEAST, MOST), 1.0)

    def tasks(self, obs: Any) -> Tensor:
        """Return the task of each observation, (B,)."""
        return self._task_ids(obs).reshape(-1).long()

    def values(self, outputs: Tensor, obs: Any) -> Tensor:
        """Return the values that a critic's outputs stand for, (B, 1)."""
        tasks_B = self.tasks(obs)
        return self.mean_K[tasks_B, None] + self.deviation_K[tasks_B, None] * outputs

    def normalized(self, values_B: Tensor, tasks_B: Tensor) -> Tensor:
        """Return the outputs with which a critic would give these values, (B,)."""
        return (values_B - self.mean_K[tasks_B]) / self.deviation_K[tasks_B]

    @th.no_grad()
    def follow(self, returns_B: Tensor, tasks_B: Tensor, rate: float) -> None:
        """Update the statistics with returns, and keep every value as it is.

        Averages begin with the first returns, not with 0 and 1 as in the paper.

        :param returns_B: the returns
        :param tasks_B: the task of each return
        :param rate: step size of the averages for a single return
        """
        self.is_up_to_date = True
        mean_K = self.mean_K.clone()
        deviation_K = self.deviation_K
        for task in tasks_B.unique().tolist():
            own = returns_B[tasks_B == task]
            # The weight of their mean after one step of size `rate` for each of them.
            weight = 1.0 - (1.0 - rate) ** len(own)
            self.weight_K[task] += weight * (1.0 - self.weight_K[task])
            share = weight / self.weight_K[task]
            offset = own.mean() - self.mean_K[task]
            self.mean_K[task] += share * offset
            # The paper averages squares instead. In float32 their mean can't be told from the
            # squared mean if returns are far from 0 and close together.
            variance = own.var(correction=0) + (1.0 - share) * offset.square()
            self.variance_K[task] += share * (variance - self.variance_K[task])
        (last,) = self._last
        ratio_K = deviation_K / self.deviation_K
        last.weight.mul_(ratio_K[:, None, None])
        shift_K = (mean_K - self.mean_K) / self.deviation_K
        last.bias_EO.mul_(ratio_K[:, None]).add_(shift_K[:, None])
