"""Which family a policy is of."""

from __future__ import annotations

from typing import TypeVar

from stable_baselines3.common.policies import BaseModel

from sb3_moe.networks.actor_critic import ActorCriticNetworks, RecurrentNetworks
from sb3_moe.networks.actor_with_critics import (
    ActorWithCriticsNetworks,
    DeterministicActorNetworks,
)
from sb3_moe.networks.base import Networks
from sb3_moe.networks.values import QNetworks, QuantileNetworks

N = TypeVar("N", bound=type[Networks])

# The first that fits is taken.
FAMILIES: list[type[Networks]] = [
    RecurrentNetworks,
    ActorCriticNetworks,
    DeterministicActorNetworks,
    ActorWithCriticsNetworks,
    QNetworks,
    QuantileNetworks,
]


def networks_of(policy: BaseModel) -> Networks:
    """Return what knows where a policy keeps its networks.

    >>> from stable_baselines3 import DQN
    >>> networks = networks_of(DQN("MlpPolicy", "CartPole-v1").policy)
    >>> list(networks.towers()), list(networks.optimizers())
    (['qf'], ['qf'])

    :param policy: of any algorithm of SB3 or sb3-contrib, ours or a dense one
    :raises TypeError: if no family fits
    """
    for family in FAMILIES:
        if family.fits(policy):
            return family(policy)
    names = ", ".join(family.__name__ for family in FAMILIES)
    raise TypeError(
        f"`policy` must be of a known family ({names}), got {type(policy).__name__}; "
        "register_networks adds one"
    )


def register_networks(family: N) -> N:
    """Add a family of policies, which is asked before those there are; works as a decorator.

    :param family: a subclass of :class:`sb3_moe.networks.Networks`
    :raises TypeError: if it is none
    """
    if not (isinstance(family, type) and issubclass(family, Networks)):
        raise TypeError(f"`family` must be a subclass of Networks, got {family!r}")
    FAMILIES.insert(0, family)
    return family
