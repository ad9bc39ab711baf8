"""Which options of a mixture a trial samples, and among which values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, per_tower

if TYPE_CHECKING:
    from optuna import Trial

#: What a trial chooses among, for options that are not given.
CHOICES: dict[str, tuple[Any, ...]] = {
    "placement": ("middle", "all", "big"),
    "router": ("soft", "top_k"),
    "num_experts": (2, 4, 8),
}


def sample_options(
    trial: Trial, policy: type[MoEPolicy], given: Mapping[str, Any], use_sde: bool = False
) -> dict[str, Any]:
    """Sample the options of a mixture that are not given, among values that go with those that are.

    :param trial: of optuna
    :param policy: class of the policy
    :param given: its ``policy_kwargs``
    :param use_sde: whether the algorithm explores with gSDE, which needs a head outside the experts
    :return: by name, for ``policy_kwargs``
    :raises ValueError: if what is given doesn't go together
    """
    options = {name: value for name, value in given.items() if name in DEFAULTS}
    towers = per_tower(options, policy.towers).values()
    if not any(each.place.has_experts for each in towers):
        return {}
    by_task = any(each.router_class.needs_tasks for each in towers)
    outside = use_sde or "features_extractor_class" in given
    sampled = {}
    for name, values in CHOICES.items():
        if name in given or (name == "num_experts" and by_task):
            continue
        able = [value for value in values if _is_valid(policy, {**options, name: value}, outside)]
        if able:
            sampled[name] = trial.suggest_categorical(name, able)
    return sampled


def join(
    sampled: Mapping[str, Any], given: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a trial's hyperparameters with the ``policy_kwargs`` that the zoo would drop.

    :param sampled: by the zoo, whose ``policy_kwargs`` are stronger than those given
    :param given: ``policy_kwargs`` of the run
    :param ours: what was sampled of the mixture's options
    """
    zoos = dict(sampled.get("policy_kwargs", {}))
    if given.get("tokens", "sample") != "sample":
        # Parts of a feature map ask for a single hidden layer; the zoo samples more.
        zoos.pop("net_arch", None)
    return {**sampled, "policy_kwargs": {**given, **zoos, **ours}}


def _is_valid(policy: type[MoEPolicy], options: Mapping[str, Any], outside: bool) -> bool:
    """Say whether options go together.

    :param outside: whether head and features must stay outside the experts
    """
    try:
        towers = per_tower(options, policy.towers).values()
    except ValueError:
        return False
    return not (outside and any(each.place.whole for each in towers))
