"""Which policy class of an algorithm is the same with experts, or without."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

OURS = "Moe"


def moe_class(model: BaseAlgorithm, space: spaces.Space[Any]) -> type[Any]:
    """Return our policy class for a model's algorithm and observations.

    :param model: dense
    :param space: of observations
    :raises TypeError: if the model's policy is of no known class
    :raises ValueError: if there is none for such observations
    """
    aliases = model.policy_aliases
    ours = OURS + _alias(model).removeprefix(OURS)
    if isinstance(space, spaces.Dict):
        ours = ours.replace("Mlp", "MultiInput", 1).replace("Cnn", "MultiInput", 1)
    if ours not in aliases:
        raise ValueError(
            f"`env` must have observations that {type(model).__name__} has an MoE policy for, "
            f"{[name for name in aliases if name.startswith(OURS)]}, got {space}"
        )
    return aliases[ours]


def dense_class(model: BaseAlgorithm) -> type[Any]:
    """Return SB3's own policy class for a model's algorithm and observations.

    :raises TypeError: if the model's policy is of no known class
    """
    return model.policy_aliases[_alias(model).removeprefix(OURS)]


def _alias(model: BaseAlgorithm) -> str:
    aliases = model.policy_aliases
    kind = type(model.policy)
    alias = next((name for name, each in aliases.items() if each is kind), None)
    if alias is None:
        raise TypeError(
            f"`model` must have a policy that {type(model).__name__} has a name for, "
            f"{list(aliases)}, got {kind.__name__}"
        )
    return alias
