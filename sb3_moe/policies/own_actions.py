"""Actions of tasks with different dimensions: each task has the first ones, the rest is padding.

A dimension that a task lacks is 0 in every action, has no part in log-probability and entropy, is 0
in what critics see, and gets a gradient of exactly 0.

Shapes: B batch, A dimensions of the common action, K tasks.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import TanhBijector
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from sb3_moe.policies.plain_distributions import Plain, PlainGaussian, PlainSquashedGaussian
from sb3_moe.vec_env.task_ids import TaskIds, one_hot_length


class TaskActionDims(nn.Module):
    """Tell which dimensions of the common action the task of an observation has.

    :param action_dims: how many dimensions each task has, K numbers
    :param model: the policy or network whose actions are meant; its observations hold the task id
    :param extractor: its features extractor, which knows whether there is a one-hot
    :raises ValueError: if the dimensions don't fit the tasks or the action space
    """

    own_KA: Tensor

    def __init__(self, action_dims: Sequence[int], model: BaseModel, extractor: nn.Module) -> None:
        super().__init__()
        action_space = model.action_space
        num_tasks = one_hot_length(extractor) or None
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise ValueError(f"`action_dims` needs a Box action of one axis, got {action_space}")
        self._task_ids = TaskIds(model.observation_space, num_tasks, "`action_dims`")
        num_tasks = self._task_ids.num_tasks
        size = action_space.shape[0]
        if len(action_dims) != num_tasks:
            raise ValueError(
                f"`action_dims` must hold one number for each of {num_tasks} tasks, got "
                f"{list(action_dims)}"
            )
        if max(action_dims) > size:
            raise ValueError(
                f"`action_dims` must be at most the {size} dimensions of {action_space}, got "
                f"{list(action_dims)}"
            )
        own_KA = th.arange(size) < th.tensor(list(action_dims)).unsqueeze(1)
        # Computed from the arguments, so that files needn't hold it.
        self.register_buffer("own_KA", own_KA, persistent=False)

    def forward(self, obs: Any) -> Tensor:
        """Return whether each dimension is the task's own, (B, A) of bool.

        :param obs: as tensors
        """
        return self.own_KA[self._task_ids(obs).reshape(-1).long()]

    def keep(self, actions_BA: Tensor, obs: Any) -> Tensor:
        """Return actions with 0 in the dimensions that their task lacks."""
        return th.where(self(obs), actions_BA, 0.0)


class _Own(Plain):
    """A mixin before a Gaussian: N(0, 1) in dimensions a task lacks, so that they add no KL."""

    own_BA: Tensor

    def of(self, own_BA: Tensor) -> Any:
        """Set which dimensions the task of each row has, (B, A) of bool, and return itself."""
        self.own_BA = own_BA
        return self

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> Any:  # type: ignore[override]
        """Set the means, (B, A), and the log of the standard deviations, (A,) or (B, A)."""
        return super().proba_distribution(self._own(mean_actions), self._own(log_std))

    def _own(self, values_BA: Tensor) -> Tensor:
        return th.where(self.own_BA, values_BA, 0.0)


class OwnGaussian(_Own, PlainGaussian):
    """SB3's Gaussian over each task's own dimensions."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of the own dimensions, (B,)."""
        return self._own(self.distribution.log_prob(actions)).sum(dim=1)

    def entropy(self) -> Tensor:
        """Return the entropy of the own dimensions, (B,)."""
        return self._own(self.distribution.entropy()).sum(dim=1)

    def sample(self) -> Tensor:
        """Return actions, 0 in dimensions that the task lacks."""
        return self._own(self.distribution.rsample())


class OwnSquashedGaussian(_Own, PlainSquashedGaussian):
    """SB3's Gaussian behind a tanh, over each task's own dimensions."""

    def log_prob(self, actions: Tensor, gaussian_actions: Tensor | None = None) -> Tensor:
        """Return the log-probability of the own dimensions, (B,).

        :param actions: the actions behind the tanh
        :param gaussian_actions: those before it; None: the inverse tanh of ``actions``, as in SB3
        """
        if gaussian_actions is None:
            gaussian_actions = TanhBijector.inverse(actions)
        before_BA = self.distribution.log_prob(gaussian_actions)
        squash_BA = th.log(1 - actions**2 + self.epsilon)
        return self._own(before_BA).sum(dim=1) - self._own(squash_BA).sum(dim=1)

    def sample(self) -> Tensor:
        """Return actions, 0 in dimensions that the task lacks."""
        self.gaussian_actions = self._own(self.distribution.rsample())
        return th.tanh(self.gaussian_actions)
