"""The architectures that a study can name without spelling them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, MoEOptions, per_tower
from sb3_moe.policies.placements import find_placement
from sb3_moe.policies.registration import TABLE
from sb3_moe.study.spec.algorithms import policy_of, towers_of
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.named import named, resolved
from sb3_moe.study.spec.start import read_start

__all__ = [
    "CALLED",
    "check_policy",
    "heading",
    "is_ours",
    "meaning",
    "moe_architecture",
    "named_architecture",
    "options_by_tower",
    "policy_of",
    "title",
]


def moe_architecture(
    placement: str,
    router: str = "soft",
    towers: str = "both",
    num_experts: int | None = None,
    algorithm: str = "PPO",
    **policy_kwargs: Any,
) -> Architecture:
    """Name a mixture of experts by where it sits, what routes it, and in which towers.

    :param placement: see the policies' option of the same name
    :param router: likewise
    :param towers: ``"both"``, or the one that has experts: ``"pi"`` (the actor), ``"vf"`` or
        ``"qf"`` (the critic)
    :param num_experts: None for the policies' default
    :param algorithm: whose networks they are
    :param policy_kwargs: further options
    :raises ValueError: if a placement, router or tower is unknown
    """
    every = towers_of(algorithm)
    if towers not in ("both", *every):
        raise ValueError(f"`towers` must be one of both, {', '.join(every)}, got {towers!r}")
    place, routed = find_placement(placement), ROUTERS.find(router)
    if not place.has_experts:
        return Architecture(name="dense", policy_kwargs={"placement": placement, **policy_kwargs})
    where: Any = placement
    if towers != "both":
        where = {tower: placement if tower == towers else "none" for tower in every}
    options = {"placement": where, "router": router, "num_experts": num_experts, **policy_kwargs}
    suffix = "" if towers == "both" else f"-{towers}"
    return Architecture(name=f"{routed.name}-{placement}{suffix}", policy_kwargs=options)


def named_architecture(
    name: str,
    options: Mapping[str, Any] | None = None,
    algorithm: str = "PPO",
    folder: Path | None = None,
) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``top_k-middle-pi``, ...

    :param name: any word if ``options`` are given
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy``, ``arguments``,
        ``ppo``, ``callbacks`` and ``start_from``
    :param algorithm: whose networks they are
    :param folder: against which a path in ``start_from`` is resolved
    :raises ValueError: if the name says nothing and no options do, or it says one thing and the
        options another
    """
    if not isinstance(options, Mapping | None):
        raise ValueError(f"`architectures.{name}` must be a mapping of options, got {options!r}")
    if options is not None:
        kwargs = dict(options)
        own = {key: kwargs.pop(key) for key in _NO_OPTIONS if key in kwargs}
        if own.get("policy", TABLE[algorithm].aliases[0]) in TABLE[algorithm].aliases:
            _check_name(name, kwargs, algorithm)
        if isinstance(own.get("callbacks"), list):
            where = f"architectures.{name}.callbacks"
            own["callbacks"] = tuple(named(each, where) for each in own["callbacks"])
        if own.get("start_from") is not None:
            where = f"architectures.{name}.start_from"
            own["start_from"] = read_start(own["start_from"], where, folder)
        return Architecture(name=name, policy_kwargs=kwargs, **own)
    if name == "dense":
        return moe_architecture("none")
    parts = name.split("-")
    if len(parts) not in (2, 3):
        raise ValueError(
            "an architecture must be `dense`, `<router>-<placement>` or "
            f"`<router>-<placement>-<tower>`, or have its options written out, got {name!r}"
        )
    towers = parts[2] if len(parts) == 3 else "both"
    return moe_architecture(parts[1], parts[0], towers, algorithm=algorithm)


def _check_name(name: str, options: Mapping[str, Any], algorithm: str) -> None:
    """Raise if a name that means something by itself has options that mean another network."""
    try:
        meant = named_architecture(name, None, algorithm).policy_kwargs
    except (AttributeError, ValueError):  # a word of the user's
        return
    for key in ("placement", "router"):
        if key in meant and key not in options and meant[key] != DEFAULTS[key]:
            raise ValueError(
                f"`architectures.{name}` must say its `{key}`: beside options a name is only a "
                f"name, and without it the {key} is {DEFAULTS[key]!r}, not {meant[key]!r}"
            )


# What an architecture has besides options of its policy.
_NO_OPTIONS = ("policy", "arguments", "ppo", "callbacks", "start_from")


# What a reader is told in other words than the option's own.
_TOLD = ("placement", "router", "num_experts", "net_arch", "head_router")
# Options that mean something without experts.
_OF_DENSE = ("task_input", "block", "task_embedding")


def check_policy(architecture: Architecture, algorithm: str = "PPO") -> None:
    """Raise unless there is such a policy, and its experts can be built.

    :raises ValueError: naming the architecture and what is wrong with it
    """
    try:
        policy = policy_of(architecture.policy or TABLE[algorithm].aliases[0], algorithm)
        if issubclass(policy, MoEPolicy):
            options_by_tower(architecture.policy_kwargs, policy.towers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`architectures.{architecture.name}`: {error}") from error


def options_by_tower(
    policy_kwargs: Mapping[str, Any], towers: Sequence[str]
) -> dict[str, MoEOptions]:
    """Give each tower its own options, as code takes them."""
    options = {name: value for name, value in policy_kwargs.items() if name in DEFAULTS}
    return per_tower(resolved(options), towers)


def is_ours(architecture: Architecture, algorithm: str) -> bool:
    """Say whether the policy is one of this package's, by its alias or by default."""
    return architecture.policy is None or architecture.policy in TABLE[algorithm].aliases


def meaning(architecture: Architecture, algorithm: str = "PPO") -> str:
    """Say what an architecture is, to someone who doesn't know the options' names."""
    if is_ours(architecture, algorithm):
        words = _towers(architecture.policy_kwargs, towers_of(algorithm))
    else:
        words = [f"the policy {architecture.policy}", *_as_they_are(architecture.policy_kwargs)]
    words += _as_they_are(architecture.arguments or architecture.ppo)
    if architecture.callbacks:
        words.append(f"trained with {', '.join(map(str, architecture.callbacks))}")
    if architecture.start_from is not None:
        words.append(f"begins with {architecture.start_from}")
    return "; ".join(words)


def _as_they_are(options: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]


#: How readers know the towers.
CALLED = {"pi": "actor", "vf": "critic", "qf": "critic"}


def _towers(policy_kwargs: Mapping[str, Any], towers: Sequence[str]) -> list[str]:
    """Say once what all towers share."""
    options = options_by_tower(policy_kwargs, towers)
    networks = {tower: _network(tower, options[tower], policy_kwargs) for tower in towers}
    first, *others = networks.values()
    if all(other == first for other in others):
        return first
    return [f"{CALLED[tower]}: {'; '.join(words)}" for tower, words in networks.items()]


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
    # A dense tower has none of the experts' options but these.
    further = {
        name: getattr(moe, name, value)
        for name, value in policy_kwargs.items()
        if name not in _TOLD and (moe.is_moe or name not in DEFAULTS or name in _OF_DENSE)
    }
    return [*words, *_as_they_are(further)]


def _of_tower(layers: Any, tower: str) -> Any:
    """Give a tower its hidden layers: SB3 takes a dict that leaves one out."""
    return layers.get(tower, []) if isinstance(layers, Mapping) else layers


def title(name: str) -> str:
    """Say an architecture's name as a reader would: ``soft-big`` is SoftMoE-Big."""
    first, *rest = name.split("-")
    routers = {key: each.title for key, each in ROUTERS.items()}
    words = [routers.get(first, _capitalised(first))] + [
        f"({CALLED[part]})" if part in CALLED else _capitalised(part) for part in rest
    ]
    return "-".join(words).replace("-(", " (")


def titles(names: Iterable[str]) -> dict[str, str]:
    """Give each network of a study its :func:`title`, or its own name where titles are alike."""
    found = {name: title(name) for name in names}
    counts = Counter(found.values())
    return {name: each if counts[each] == 1 else name for name, each in found.items()}


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]  # ReLU stays as it is


def heading(regime: str, order: Sequence[str]) -> str:
    """Say a regime and order as a reader would."""
    words = {
        "mtrl": "interleaved",
        "crl": "one after the other",
        "scratch": "alone",
        "schedule": "as the schedule says",
    }
    return words[regime] + (": " + ", then ".join(order) if order else "")
