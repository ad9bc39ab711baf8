"""SB3's action distributions without a check of their arguments at every call.

torch checks logits, means, deviations and actions whenever a distribution is made or asked. That is
a third of the time of choosing an action, and on a GPU each check waits for the device. Here
numbers are SB3's but for rounding, and so are random draws; one look at the parameters where
actions are chosen tells of a network that has diverged.

Shapes: B batch, A actions or their components.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from torch import distributions

from sb3_moe.layers.experts import is_recorded

#: Ours by the class that SB3 makes. gSDE stays SB3's: its noise is what takes the time.
PLAIN: dict[type[Any], type[Any]] = {}


@contextmanager
def unchecked() -> Iterator[None]:
    """Let no distribution that torch makes in the block check its arguments."""
    before = distributions.Distribution._validate_args
    distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distributions.Distribution.set_default_validate_args(before)


class Plain(Distribution):
    """A mixin before one of SB3's distributions: parameters are looked at once, for actions.

    :ivar given_BA: the parameters, logits or means
    """

    parameter = "logits"
    given_BA: th.Tensor

    def __init_subclass__(cls) -> None:
        first, *sb3s = cls.__bases__
        if first is Plain and sb3s:
            PLAIN[sb3s[0]] = cls

    def proba_distribution(self, *args: th.Tensor, **kwargs: th.Tensor) -> Any:
        """Set logits or means, (B, A), and what else SB3's distribution takes."""
        self.given_BA, *_ = *args, *kwargs.values()
        with unchecked():
            super().proba_distribution(*args, **kwargs)  # type: ignore[safe-super]
        made = vars(self).get("distributions") or self.distribution
        for each in made if isinstance(made, list) else [made]:
            each._validate_args = False  # nor when it is asked
        return self

    def get_actions(self, deterministic: bool = False) -> th.Tensor:
        """Return sampled actions or the most likely ones.

        :raises ValueError: if a parameter is NaN, as torch begins to say it
        """
        # A sum is NaN where one number is, and takes one call to find.
        if not is_recorded() and math.isnan(self.given_BA.sum().item()):
            raise ValueError(
                f"Expected parameter {self.parameter} (Tensor of shape "
                f"{tuple(self.given_BA.shape)}) to hold numbers, but found NaN: the network's "
                "weights have diverged, or it was given an observation with NaN"
            )
        return super().get_actions(deterministic)


class PlainCategorical(Plain, CategoricalDistribution):
    """For Discrete actions: all that is asked of it follows from one log-softmax."""

    log_probs_BA: th.Tensor

    def proba_distribution(self, action_logits: th.Tensor) -> Self:  # type: ignore[override]
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
    def distribution(self) -> distributions.Categorical:  # type: ignore[override]  # made when asked
        """torch's distribution, for whoever asks it for more."""
        return distributions.Categorical(logits=self.log_probs_BA, validate_args=False)

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Return the log-probability of one action per row, (B,)."""
        return self.log_probs_BA.gather(1, actions.long().view(-1, 1)).squeeze(1)

    def entropy(self) -> th.Tensor:
        """Return the entropy of each row, (B,)."""
        return -(self.log_probs_BA.exp() * self.log_probs_BA).sum(1)

    def sample(self) -> th.Tensor:
        """Draw an action per row, (B,)."""
        # What torch's `multinomial` does, and so SB3's draws, but for its checks. Contiguous, since
        # torch draws in the order of the memory.
        probs_BA = self.log_probs_BA.exp().contiguous()
        return (probs_BA / th.empty_like(probs_BA).exponential_()).argmax(1)

    def mode(self) -> th.Tensor:
        """Return the most likely action per row, (B,)."""
        return self.log_probs_BA.argmax(1)


class PlainMultiCategorical(Plain, MultiCategoricalDistribution):
    """For MultiDiscrete actions."""


class PlainBernoulli(Plain, BernoulliDistribution):
    """For MultiBinary actions."""


class PlainGaussian(Plain, DiagGaussianDistribution):
    """For Box actions."""

    parameter = "loc"


class PlainSquashedGaussian(Plain, SquashedDiagGaussianDistribution):
    """For Box actions behind a tanh."""

    parameter = "loc"


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
