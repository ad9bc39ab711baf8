"""Which policy class of an algorithm is the same with experts, or without."""

from __future__ import annotations

import copy
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor

from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.options import ARGUMENTS

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


def dense_kwargs(model: BaseAlgorithm, old: Any) -> dict[str, Any]:
    """Return the arguments of a model's policy without ours, with an extractor of SB3's.

    :param model: with experts
    :param old: its policy
    :raises ValueError: if SB3 has no such extractor
    """
    found = {k: copy.deepcopy(v) for k, v in model.policy_kwargs.items() if k not in ARGUMENTS}
    kind, kwargs = old.features_extractor_class, dict(old.features_extractor_kwargs)
    if issubclass(kind, TaskExtractor):
        space = old.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else ()
        told = not model.policy_kwargs.get("normalize_images", True)
        # Other pictures, such as MinAtar's, SB3 flattens as ours does.
        encoded = [is_image_space(each, normalized_image=told) for each in parts]
        if kwargs.get("encoder") != "flat" or any(encoded):
            raise ValueError(
                "`model` must have the flat encoder, or SB3's extractor, to be SB3's own, got "
                f"`encoder`={kwargs.get('encoder')!r} for {space}"
            )
        kind = CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
        kwargs = {}
    return found | {"features_extractor_class": kind, "features_extractor_kwargs": kwargs}
