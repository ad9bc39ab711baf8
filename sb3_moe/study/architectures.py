"""The architectures that a study can name without spelling them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sb3_moe.options import PLACEMENTS, ROUTERS
from sb3_moe.study.config import Architecture

TOWERS = {"both": ("pi", "vf"), "pi": ("pi",), "vf": ("vf",)}

_TITLES = {"soft": "SoftMoE", "top_k": "Top-k", "expert_choice": "Expert choice"}


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
    for argument, value, allowed in (
        ("placement", placement, PLACEMENTS),
        ("router", router, ROUTERS),
        ("towers", towers, tuple(TOWERS)),
    ):
        if value not in allowed:
            raise ValueError(f"`{argument}` must be one of {', '.join(allowed)}, got {value!r}")
    if placement == "none":
        return Architecture(name="dense", policy_kwargs={"placement": "none", **policy_kwargs})
    where: Any = placement
    if towers != "both":
        where = {tower: placement if tower in TOWERS[towers] else "none" for tower in ("pi", "vf")}
    options = {"placement": where, "router": router, "num_experts": num_experts, **policy_kwargs}
    suffix = "" if towers == "both" else f"-{towers}"
    return Architecture(name=f"{router}-{placement}{suffix}", policy_kwargs=options)


def named_architecture(name: str, options: Mapping[str, Any] | None = None) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``top_k-middle-pi``, ...

    :param name: any word if ``options`` are given
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy`` and ``ppo``
    :raises ValueError: if the name says nothing and no options do
    """
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


_PLACES = {
    "none": "no experts",
    "middle": "experts in place of the last hidden layer",
    "final": "experts in place of the output layer",
    "all": "experts in place of every layer",
    "big": "each expert a whole network",
}
_ROUTES = {
    "soft": "a learned router weighs all of them",
    "top_k": "a learned router picks the best",
    "expert_choice": "each picks its samples by a learned router",
    "task": "the game picks its own",
    "uniform": "all count the same (a control)",
    "random": "weighed by a router that is not trained (a control)",
}


def meaning(architecture: Architecture) -> str:
    """Say what an architecture is, to someone who doesn't know the options' names."""
    own = (f"{key.replace('_', ' ')} {value}" for key, value in architecture.ppo.items())
    return "; ".join([_network(architecture.policy_kwargs), *own])


def _network(policy_kwargs: Mapping[str, Any]) -> str:
    placement = policy_kwargs.get("placement", "middle")
    if isinstance(placement, Mapping):
        towers = {"pi": "actor", "vf": "critic"}
        return "; ".join(
            f"{towers.get(tower, tower)}: {_network({**policy_kwargs, 'placement': place})}"
            for tower, place in placement.items()
        )
    words = [_PLACES[placement]]
    if placement != "none":
        count = policy_kwargs.get("num_experts")
        words[0] += f", {count} of them" if count else ""
        words.append(_ROUTES[policy_kwargs.get("router", "soft")])
    if "net_arch" in policy_kwargs:
        words.append(f"hidden layers of {policy_kwargs['net_arch']}")
    return "; ".join(words)


def title(name: str) -> str:
    """Say an architecture's name as a reader would: ``soft-big`` is SoftMoE-Big."""
    router, _, rest = name.partition("-")
    words = [_TITLES.get(router, router.capitalize())] + [
        {"pi": "(actor)", "vf": "(critic)"}.get(part, part.capitalize())
        for part in rest.split("-")
        if part
    ]
    return "-".join(words).replace("-(", " (")


def heading(regime: str, order: Sequence[str]) -> str:
    """Say a regime and order as a reader would."""
    words = {"mtrl": "interleaved", "crl": "one after the other", "scratch": "alone"}
    return words[regime] + (": " + ", then ".join(order) if order else "")
