"""What was done to a model's experts, kept on the model as plain values, and logged."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.is_model import model_of_sb3
from sb3_moe.policies.of_model import policy_of


def expert_log(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """Return what was done to a model's experts, oldest first; empty before the first change.

    A line has the ``step``, ``what`` was done, to which ``mixtures``, and its arguments. SB3 and
    this package keep it in files as ``model.expert_log``, which a model has from the first change.

    >>> from stable_baselines3 import PPO
    >>> import sb3_moe
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> expert_log(model)
    []
    >>> sb3_moe.add_experts(model, tower="pi")
    >>> expert_log(model)
    [{'step': 0, 'what': 'add', 'mixtures': ['pi.middle'], 'n': 1, 'like': None}]

    :param model: of any algorithm
    :raises TypeError: if it is no model of SB3's
    """
    model_of_sb3(model)
    lines: list[dict[str, Any]] = copy.deepcopy(vars(model).get("expert_log", []))
    return lines


def note(model: BaseAlgorithm, what: str, mixtures: Iterable[str], **how: Any) -> None:
    """Add a line to ``model.expert_log``, which SB3 saves, and log how many experts there are now.

    :param model: after the change
    :param what: what was done
    :param mixtures: to which
    :param how: arguments of it
    """
    layers = policy_of(model).moe_layers()
    line = {"step": model.num_timesteps, "what": what, "mixtures": list(mixtures), **how}
    vars(model).setdefault("expert_log", []).append(line)
    if not hasattr(model, "_logger"):
        return  # it has not learned yet
    for name in line["mixtures"]:
        model.logger.record(f"experts/number/{name}", layers[name].num_experts)
        model.logger.record(f"experts/frozen/{name}", len(layers[name].frozen))
