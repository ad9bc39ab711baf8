"""SB3's action distributions without a check of their arguments at every call.

torch checks logits, means, deviations and actions whenever a distribution is made or asked. That is
a third of the time of choosing an action, and on a GPU each check waits for the device. Here the
same operations run in the same order, so that numbers and random draws are SB3's bit for bit; one
look at the parameters where actions are chosen tells of a network that has diverged.

Shapes: B batch, A actions or their components.
"""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from torch.distributions import Bernoulli, Categorical, Normal

from sb3_moe.layers.tracing import is_recorded


class PlainCategorical(Categorical):
    """torch's categorical distribution over rows of logits, (B, A)."""

    def __init__(self, logits: th.Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)

    def log_prob(self, value: th.Tensor) -> th.Tensor:
        """Return the log-probability of one action per row, (B,)."""
        if value.shape != self.logits.shape[:-1]:
            return super().log_prob(value)  # type: ignore[no-untyped-call]  # torch's
        return self.logits.gather(-1, value.long().unsqueeze(-1)).squeeze(-1)


class PlainCategoricalDistribution(CategoricalDistribution):
    """For Discrete actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainCategoricalDistribution:
        """Set the logits, (B, A)."""
        self.distribution = PlainCategorical(action_logits)
        return self

    def mode(self) -> th.Tensor:
        """Return the most likely actions, (B,)."""
        finite(self.distribution.logits)
        return super().mode()


class PlainMultiCategoricalDistribution(MultiCategoricalDistribution):
    """For MultiDiscrete actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainMultiCategoricalDistribution:
        """Set the logits of all components side by side, (B, A)."""
        parts = action_logits.split(list(self.action_dims), dim=1)
        self.distribution = [PlainCategorical(part) for part in parts]
        return self

    def mode(self) -> th.Tensor:
        """Return the most likely actions, (B, A)."""
        for part in self.distribution:
            finite(part.logits)
        return super().mode()


class PlainBernoulliDistribution(BernoulliDistribution):
    """For MultiBinary actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainBernoulliDistribution:
        """Set the logits, (B, A)."""
        self.distribution = Bernoulli(logits=action_logits, validate_args=False)
        return self

    def mode(self) -> th.Tensor:
        """Return the most likely actions, (B, A)."""
        finite(self.distribution.logits)
        return super().mode()


class PlainGaussianDistribution(DiagGaussianDistribution):
    """For Box actions."""

    def proba_distribution(
        self, mean_actions: th.Tensor, log_std: th.Tensor
    ) -> PlainGaussianDistribution:
        """Set the means, (B, A), and what is the log of the deviations, (A,) or (B, A)."""
        self.distribution = _normal(mean_actions, log_std)
        return self

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """Return sampled actions or the most likely ones, (B, A)."""
        return finite(super().get_actions(deterministic))


class PlainSquashedGaussianDistribution(SquashedDiagGaussianDistribution):
    """For Box actions behind a tanh."""

    def proba_distribution(
        self, mean_actions: th.Tensor, log_std: th.Tensor
    ) -> PlainSquashedGaussianDistribution:
        """Set the means and the log of the deviations before the tanh, (B, A)."""
        self.distribution = _normal(mean_actions, log_std)
        return self

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """Return sampled actions or the most likely ones, (B, A)."""
        return finite(super().get_actions(deterministic))


# By the class that SB3 makes. gSDE stays SB3's: its noise is what takes the time.
PLAIN: dict[type[Any], type[Any]] = {
    CategoricalDistribution: PlainCategoricalDistribution,
    MultiCategoricalDistribution: PlainMultiCategoricalDistribution,
    BernoulliDistribution: PlainBernoulliDistribution,
    DiagGaussianDistribution: PlainGaussianDistribution,
    SquashedDiagGaussianDistribution: PlainSquashedGaussianDistribution,
}


def plain(distribution: Distribution) -> Distribution:
    """Return the plain counterpart of SB3's distribution, or one of another class as it is.

    :param distribution: as the policy or actor has it
    """
    plain_class = PLAIN.get(type(distribution))
    if plain_class is None:
        return distribution
    counterpart: Distribution = object.__new__(plain_class)
    vars(counterpart).update(vars(distribution))
    return counterpart


def finite(parameters: th.Tensor) -> th.Tensor:
    """Return what actions are chosen by, if none of it is NaN.

    :param parameters: logits, or actions
    :raises ValueError: if the network has diverged
    """
    if not is_recorded() and parameters.isnan().any():
        raise ValueError(
            "the policy's network must give numbers to choose actions by, got NaN: its weights "
            "have diverged, or an observation is NaN"
        )
    return parameters


def _normal(mean_actions: th.Tensor, log_std: th.Tensor) -> Normal:
    std = th.ones_like(mean_actions) * log_std.exp()
    return Normal(mean_actions, std, validate_args=False)
