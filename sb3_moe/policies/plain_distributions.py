"""SB3's action distributions without a check of their arguments at every call.

torch checks logits, means, deviations and actions whenever a distribution is made or asked. That is
a third of the time of choosing an action, and on a GPU each check waits for the device. Here
numbers are SB3's but for rounding, and so are random draws; one look at the parameters where
actions are chosen tells of a network that has diverged.

Shapes: B batch, A actions or their components.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

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

from sb3_moe.layers.experts import is_recorded

if TYPE_CHECKING:
    _Distribution = Distribution
else:
    _Distribution = object


class PlainCategorical(Categorical):
    """torch's categorical distribution over rows of logits, (B, A)."""

    def __init__(self, logits: th.Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)


class LooksOnce(_Distribution):
    """Look at a distribution's parameters where actions are chosen by it, and nowhere else.

    :ivar given_BA: what a subclass was given, logits or means
    """

    parameter: ClassVar[str] = "logits"
    given_BA: th.Tensor

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """Return sampled actions or the most likely ones.

        :raises ValueError: if a parameter is NaN, in torch's words
        """
        # A sum is NaN where one number is, and takes one call to find.
        if not is_recorded() and math.isnan(self.given_BA.sum().item()):
            raise ValueError(
                f"Expected parameter {self.parameter} (Tensor of shape "
                f"{tuple(self.given_BA.shape)}) to hold numbers, but found NaN: the network's "
                "weights have diverged, or it was given an observation with NaN"
            )
        return super().get_actions(deterministic)


class PlainCategoricalDistribution(LooksOnce, CategoricalDistribution):
    """For Discrete actions: all that is asked of it follows from one log-softmax."""

    log_probs_BA: th.Tensor

    def proba_distribution(self, action_logits: th.Tensor) -> PlainCategoricalDistribution:
        """Return a distribution with these logits, (B, A).

        It is a new one: the policy's own would keep the graph of a minibatch, with all activations,
        until the next one is computed, which then finds no memory that is in the cache.
        """
        found = type(self)(self.action_dim)
        found.given_BA = action_logits
        # By way of the first axis, which torch is faster at where there are few actions.
        found.log_probs_BA = action_logits.t().log_softmax(0).t()
        return found

    @property
    def distribution(self) -> PlainCategorical:  # type: ignore[override]  # made when asked
        """torch's distribution, for whoever asks it for more."""
        return PlainCategorical(self.log_probs_BA)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Return the log-probability of one action per row, (B,)."""
        return self.log_probs_BA.gather(1, actions.long().view(-1, 1)).squeeze(1)

    def entropy(self) -> th.Tensor:
        """Return the entropy of each row, (B,)."""
        return -(self.log_probs_BA.exp() * self.log_probs_BA).sum(1)

    def sample(self) -> th.Tensor:
        """Draw an action per row, (B,)."""
        # Contiguous, since torch draws in the order of the memory: so draws are SB3's.
        return th.multinomial(self.log_probs_BA.exp().contiguous(), 1).squeeze(1)

    def mode(self) -> th.Tensor:
        """Return the most likely action per row, (B,)."""
        return self.log_probs_BA.argmax(1)


class PlainMultiCategoricalDistribution(LooksOnce, MultiCategoricalDistribution):
    """For MultiDiscrete actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainMultiCategoricalDistribution:
        """Set the logits of all components side by side, (B, A)."""
        self.given_BA = action_logits
        parts = action_logits.split(list(self.action_dims), dim=1)
        self.distribution = [PlainCategorical(part) for part in parts]
        return self


class PlainBernoulliDistribution(LooksOnce, BernoulliDistribution):
    """For MultiBinary actions."""

    def proba_distribution(self, action_logits: th.Tensor) -> PlainBernoulliDistribution:
        """Set the logits, (B, A)."""
        self.given_BA = action_logits
        self.distribution = Bernoulli(logits=action_logits, validate_args=False)
        return self


class PlainGaussianDistribution(LooksOnce, DiagGaussianDistribution):
    """For Box actions."""

    parameter: ClassVar[str] = "loc"

    def proba_distribution(
        self, mean_actions: th.Tensor, log_std: th.Tensor
    ) -> PlainGaussianDistribution:
        """Set the means, (B, A), and what is the log of the deviations, (A,) or (B, A)."""
        self.given_BA = mean_actions
        self.distribution = _normal(mean_actions, log_std)
        return self


class PlainSquashedGaussianDistribution(LooksOnce, SquashedDiagGaussianDistribution):
    """For Box actions behind a tanh."""

    parameter: ClassVar[str] = "loc"

    def proba_distribution(
        self, mean_actions: th.Tensor, log_std: th.Tensor
    ) -> PlainSquashedGaussianDistribution:
        """Set the means and the log of the deviations before the tanh, (B, A)."""
        self.given_BA = mean_actions
        self.distribution = _normal(mean_actions, log_std)
        return self


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


def _normal(mean_actions: th.Tensor, log_std: th.Tensor) -> Normal:
    std = th.ones_like(mean_actions) * log_std.exp()
    return Normal(mean_actions, std, validate_args=False)
