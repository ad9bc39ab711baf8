"""What was done to a model's experts, kept on the model as plain values, and logged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.policies.of_model import policy_of


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
