"""The architectures that a study can name without spelling them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, MoEOptions, per_tower
from sb3_moe.policies.placements import find_placement
from sb3_moe.policies.registration import ALL
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.entries import hint

TOWERS = {"both": ("pi", "vf"), "pi": ("pi",), "vf": ("vf",)}


def moe_architecture(
    placement: str,
    router: str = "soft",
    towers: str = "both",
    num_experts: int | None = None,
    **policy_kwargs: Any,
) -> Architecture:
    """Name a mixture of experts by where it sits, what routes it, and in which towers.

    :param placement: see the policies' option of the same name
    :param router: likewise
    :param towers: ``"both"``, ``"pi"`` (the actor only) or ``"vf"`` (the critic only)
    :param num_experts: None for the policies' default
    :param policy_kwargs: further options
    :raises ValueError: if a placement, router or tower is unknown
    """
    if towers not in TOWERS:
        raise ValueError(f"`towers` must be one of {', '.join(TOWERS)}, got {towers!r}")
    place, routed = find_placement(placement), ROUTERS.find(router)
    if not place.has_experts:
        return Architecture(name="dense", policy_kwargs={"placement": placement, **policy_kwargs})
    where: Any = placement
    if towers != "both":
        where = {tower: placement if tower in TOWERS[towers] else "none" for tower in ("pi", "vf")}
    options = {"placement": where, "router": router, "num_experts": num_experts, **policy_kwargs}
    suffix = "" if towers == "both" else f"-{towers}"
    return Architecture(name=f"{routed.name}-{placement}{suffix}", policy_kwargs=options)


def named_architecture(name: str, options: Mapping[str, Any] | None = None) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``top_k-middle-pi``, ...

    :param name: any word if ``options`` are given
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy`` and ``ppo``
    :raises ValueError: if the name says nothing and no options do
    """
    if not isinstance(options, Mapping | None):
        raise ValueError(f"`architectures.{name}` must be a mapping of options, got {options!r}")
    if options is not None:
        kwargs = dict(options)
        own = {key: kwargs.pop(key) for key in ("policy", "ppo") if key in kwargs}
        return Architecture(name=name, policy_kwargs=kwargs, **own)
    if name == "dense":
        return moe_architecture("none")
    parts = name.split("-")
    if len(parts) not in (2, 3):
        raise ValueError(
            "an architecture must be `dense`, `<router>-<placement>` or "
            f"`<router>-<placement>-<pi|vf>`, or have its options written out, got {name!r}"
        )
    towers = parts[2] if len(parts) == 3 else "both"
    return moe_architecture(parts[1], parts[0], towers)


# What a reader is told in other words than the option's own.
_TOLD = ("placement", "router", "num_experts", "net_arch", "head_router")


def policy_of(name: str) -> type[ActorCriticPolicy]:
    """Give the class of an alias that SB3 knows, or of ``package.module:Class``.

    :raises ValueError: if there is no such alias, module or class, or it is no policy of PPO's
    """
    rule = f"`policy` must be an alias that PPO knows, or `package.module:Class`, got {name!r}"
    module, colon, attribute = name.partition(":")
    if not colon and name not in PPO.policy_aliases:
        raise ValueError(rule + hint(name, PPO.policy_aliases))
    try:
        found: Any = (
            getattr(import_module(module), attribute) if colon else PPO.policy_aliases[name]
        )
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"{rule}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, ActorCriticPolicy)):
        raise ValueError(f"`policy` must be a class of SB3's ActorCriticPolicy, got {name!r}")
    return found


def check_policy(architecture: Architecture) -> None:
    """Raise unless there is such a policy, and its experts can be built.

    :raises ValueError: naming the architecture and what is wrong with it
    """
    try:
        if issubclass(policy_of(architecture.policy), MoEPolicy):
            options_by_tower(architecture.policy_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`architectures.{architecture.name}`: {error}") from error


def options_by_tower(policy_kwargs: Mapping[str, Any]) -> dict[str, MoEOptions]:
    """Give actor and critic their own options."""
    options = {name: value for name, value in policy_kwargs.items() if name in DEFAULTS}
    return per_tower(options, TOWERS["both"])


def meaning(architecture: Architecture) -> str:
    """Say what an architecture is, to someone who doesn't know the options' names."""
    if architecture.policy in ALL:
        words = _towers(architecture.policy_kwargs)
    else:
        words = [f"the policy {architecture.policy}", *_as_they_are(architecture.policy_kwargs)]
    return "; ".join([*words, *_as_they_are(architecture.ppo)])


def _as_they_are(options: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]


def _towers(policy_kwargs: Mapping[str, Any]) -> list[str]:
    """Say once what actor and critic share."""
    options = options_by_tower(policy_kwargs)
    actor, critic = (_network(tower, options[tower], policy_kwargs) for tower in TOWERS["both"])
    if actor == critic:
        return actor
    return [f"actor: {'; '.join(actor)}", f"critic: {'; '.join(critic)}"]


def _network(tower: str, moe: MoEOptions, policy_kwargs: Mapping[str, Any]) -> list[str]:
    words = [moe.place.meaning]
    if moe.place.has_experts:
        words[0] += f", {moe.num_experts} of them" if moe.num_experts else ""
        words.append(moe.router_class.meaning)
    if moe.head_router_class is not None:
        words.append(f"a head for each task: {moe.head_router_class.meaning}")
    if "net_arch" in policy_kwargs:
        layers = policy_kwargs["net_arch"]
        words.append(f"hidden layers of {_of_tower(layers, tower)}")
    # A dense tower has none of the experts' options but who sees the task.
    further = {
        name: getattr(moe, name, value)
        for name, value in policy_kwargs.items()
        if name not in _TOLD and (moe.is_moe or name not in DEFAULTS or name == "task_input")
    }
    return [*words, *_as_they_are(further)]


def _of_tower(layers: Any, tower: str) -> Any:
    """Give a tower its hidden layers: SB3 takes a dict that leaves one out."""
    return layers.get(tower, []) if isinstance(layers, Mapping) else layers


def title(name: str) -> str:
    """Say an architecture's name as a reader would: ``soft-big`` is SoftMoE-Big."""
    router, _, rest = name.partition("-")
    titles = {key: each.title for key, each in ROUTERS.items()}
    words = [titles.get(router, router.capitalize())] + [
        {"pi": "(actor)", "vf": "(critic)"}.get(part, part.capitalize())
        for part in rest.split("-")
        if part
    ]
    return "-".join(words).replace("-(", " (") or name


def heading(regime: str, order: Sequence[str]) -> str:
    """Say a regime and order as a reader would."""
    words = {"mtrl": "interleaved", "crl": "one after the other", "scratch": "alone"}
    return words[regime] + (": " + ", then ".join(order) if order else "")
