"""SB3's action distributions without a check of their arguments at every call.

torch checks logits, means, deviations and actions whenever a distribution is created or used. This
takes a third of the time of choosing an action, and on a GPU each check waits for the device. The
distributions here give SB3's numbers up to rounding, and SB3's random draws. They check parameters
once, where actions are chosen, to detect a network that has diverged.

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
from torch import Tensor, distributions

from sb3_moe.layers.experts import is_recorded

#: Our class for each of SB3's. gSDE's stays SB3's: its time goes into noise, not into checks.
PLAIN: dict[type[Any], type[Any]] = {}


@contextmanager
def unchecked() -> Iterator[None]:
    """Switch off the argument checks of torch distributions that are made in the block."""
    before = distributions.Distribution._validate_args
    distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distributions.Distribution.set_default_validate_args(before)


class Plain(Distribution):
    """A mixin before one of SB3's distributions: it checks parameters only to choose actions.

    :ivar given_BA: the parameters, logits or means
    """

    parameter = "logits"
    given_BA: Tensor

    def __init_subclass__(cls) -> None:
        first, *sb3s = cls.__bases__
        if first is Plain and sb3s:
            PLAIN[sb3s[0]] = cls

    def proba_distribution(self, *args: Tensor, **kwargs: Tensor) -> Any:
        """Set logits or means, (B, A), and what else SB3's distribution takes."""
        self.given_BA, *_ = *args, *kwargs.values()
        with unchecked():
            super().proba_distribution(*args, **kwargs)  # type: ignore[safe-super]
        made = vars(self).get("distributions") or self.distribution
        for each in made if isinstance(made, list) else [made]:
            each._validate_args = False  # no checks in its methods either
        return self

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Return sampled actions or the most likely ones.

        :raises ValueError: if a parameter is NaN; the message begins like torch's
        """
        # The sum is NaN if any number is, and takes one call.
        if not is_recorded() and math.isnan(self.given_BA.sum().item()):
            raise ValueError(
                f"Expected parameter {self.parameter} (Tensor of shape "
                f"{tuple(self.given_BA.shape)}) to hold numbers, but found NaN: the network's "
                "weights have diverged, or it was given an observation with NaN"
            )
        return super().get_actions(deterministic)


class PlainCategorical(Plain, CategoricalDistribution):
    """For Discrete actions: everything is computed from one log-softmax."""

    log_probs_BA: Tensor

    def proba_distribution(self, action_logits: Tensor) -> Self:  # type: ignore[override]
        """Return a distribution with these logits, (B, A).

        It is a new object. If the policy kept it, the graph of a minibatch with all its activations
        would live until the next minibatch is computed, which could then not reuse that memory
        while it is in the CPU's cache.
        """
        found = type(self)(self.action_dim)
        found.given_BA = action_logits
        # Over the first axis, which is faster in torch if actions are few.
        found.log_probs_BA = action_logits.t().log_softmax(0).t()
        return found

    @property
    def distribution(self) -> distributions.Categorical:  # type: ignore[override]  # made when asked
        """The same as a distribution of torch, for callers that need its other methods."""
        return distributions.Categorical(logits=self.log_probs_BA, validate_args=False)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probability of one action per row, (B,)."""
        return self.log_probs_BA.gather(1, actions.long().view(-1, 1)).squeeze(1)

    def entropy(self) -> Tensor:
        """Return the entropy of each row, (B,)."""
        return -(self.log_probs_BA.exp() * self.log_probs_BA).sum(1)

    def sample(self) -> Tensor:
        """Draw an action per row, (B,)."""
        # As torch's `multinomial` does, so draws are SB3's, but without its checks. Contiguous,
        # since torch draws in the order of the memory.
        probs_BA = self.log_probs_BA.exp().contiguous()
        return (probs_BA / th.empty_like(probs_BA).exponential_()).argmax(1)

    def mode(self) -> Tensor:
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
    """Return the plain counterpart of SB3's distribution; return any other as it is.

    :param distribution: as the policy or actor has it
    """
    plain_class = PLAIN.get(type(distribution))
    if plain_class is None:
        return distribution
    counterpart = object.__new__(plain_class)
    vars(counterpart).update(vars(distribution))
    return counterpart
