"""The architectures that a study can name without spelling them out, and how readers know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, MoEOptions, per_tower
from sb3_moe.policies.placements import PLACEMENTS
from sb3_moe.policies.registration import TABLE
from sb3_moe.study.spec.algorithms import policy_of, towers_of
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.entries import in_words
from sb3_moe.study.spec.named import resolved

#: What an architecture has besides options of its policy.
OWN_ENTRIES = ("policy", "arguments", "callbacks", "start_from")
#: How readers know the routers; others by their classes.
TITLES = {
    "soft": "SoftMoE",
    "top_k": "Top-k",
    "expert_choice": "Expert choice",
    "embedding": "Task embedding",
}
#: How readers know the networks of a policy.
CALLED = {"pi": "actor", "vf": "critic", "qf": "critic"}


def named_architecture(
    name: str,
    options: Mapping[str, Any] | None = None,
    algorithm: str = "PPO",
    folder: Path | None = None,
) -> Architecture:
    """Read an architecture of a study's file: ``dense``, ``soft-big``, ``top_k-middle-pi``, ...

    :param name: any word if ``options`` are given; one that means something by itself keeps its
        meaning where they don't say otherwise
    :param options: ``policy_kwargs`` spelled out, and optionally ``policy``, ``arguments``,
        ``callbacks`` and ``start_from``
    :param algorithm: whose networks they are
    :param folder: against which a path in ``start_from`` is resolved
    :raises ValueError: if the name says nothing and no options do
    """
    every = ", ".join(towers_of(algorithm))
    meant = _meant_by(name, algorithm)
    if meant is None and options is None:
        raise ValueError(
            "an architecture must be `dense`, `<router>-<placement>` or "
            f"`<router>-<placement>-<network>`, the network one of {every}, or have its options "
            f"written out, got {name!r}"
        )
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"`architectures.{name}` must be a mapping of options, got {options!r}")
    kwargs = {key: value for key, value in options.items() if key not in OWN_ENTRIES}
    own = {key: value for key, value in options.items() if key in OWN_ENTRIES}
    if own.get("policy", TABLE[algorithm].aliases[0]) in TABLE[algorithm].aliases:
        kwargs = {**(meant or {}), **kwargs}
    values = {"name": name, "policy_kwargs": kwargs, **own}
    try:
        return TypeAdapter(Architecture).validate_python(values, context=folder)
    except ValidationError as error:
        raise ValueError(in_words(error, f"architectures.{name}")) from error


def _meant_by(name: str, algorithm: str) -> dict[str, Any] | None:
    """Give the options that a name stands for; None for a word of the user's."""
    if name == "dense":
        return {"placement": "none"}
    router, _, rest = name.partition("-")
    placement, _, tower = rest.partition("-")
    every = towers_of(algorithm)
    if router not in ROUTERS or placement not in PLACEMENTS or tower not in ("", *every):
        return None
    where = {each: placement if each == tower else "none" for each in every} if tower else placement
    return {"placement": where, "router": router}


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
    """Give each network of a policy its own options, as code takes them."""
    options = {name: value for name, value in policy_kwargs.items() if name in DEFAULTS}
    return per_tower(resolved(options), towers)


def title(name: str) -> str:
    """Say an architecture's name as a reader would: ``soft-big`` is SoftMoE-Big."""
    first, *rest = name.split("-")
    words = [TITLES.get(first, _capitalized(first))] + [
        f"({CALLED[part]})" if part in CALLED else _capitalized(part) for part in rest
    ]
    return "-".join(words).replace("-(", " (")


def _capitalized(word: str) -> str:
    return word[:1].upper() + word[1:]  # ReLU stays as it is
