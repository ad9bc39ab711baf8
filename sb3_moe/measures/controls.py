"""The controls that tell what conv tokens alone do (arXiv 2410.01930)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_moe.layers.expert_kinds import EXPERTS
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.by_tower import KWARGS, is_by_tower, per_tower
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.option_checks import DEFAULT_NUM_EXPERTS, called, takes
from sb3_moe.policies.options import ARGUMENTS, DEFAULTS, TOWERS

# SB3's arguments have no towers; this stands for all of them.
ALL = "all towers"


def controls(
    policy_kwargs: dict[str, Any], policy_class: type[MoEPolicy] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the controls for conv tokens, as ``policy_kwargs`` by name (arXiv 2410.01930).

    ``"one_scaled_expert"`` is one expert as wide as all together; ``"tokenised_dense"`` is the
    dense layer applied to each token: one expert of the usual width, without a router. Options
    that speak to another router are left out. Under ``placement="all"`` the first layer's width
    counts. Towers without such tokens stay as they are.

    :param policy_kwargs: the MoE policy's, with ``tokens="conv"`` or ``"feature"``
    :param policy_class: the policy; needed where dicts by tower leave a tower out
    :raises ValueError: if no tower with experts has such tokens, for others of which these
        controls are not meant, if experts have no width, or if it can't be told how many experts
        or towers there are
    """
    towers = _towers_of(policy_kwargs, policy_class)
    given = {name: value for name, value in policy_kwargs.items() if name in DEFAULTS}
    options = per_tower(given, towers)
    tokenised = {tower for tower, each in options.items() if each.is_tokenised}
    if not tokenised:
        tokens = sorted({each.tokens for each in options.values() if each.is_moe})
        raise ValueError(
            "`tokens` must be 'conv' or 'feature' in a tower with experts for these controls, got "
            f"{' and '.join(map(repr, tokens)) or repr('none')}"
        )
    base = {name: value for name, value in policy_kwargs.items() if name not in ARGUMENTS}
    made: dict[str, dict[str, Any]] = {}
    for name in ("one_scaled_expert", "tokenised_dense"):
        by_tower = {tower: each.by_name() for tower, each in options.items()}
        for tower in tokenised:
            by_tower[tower] = _control(name, by_tower[tower], tower, policy_kwargs)
        made[name] = base | _joined(by_tower)
    return made


def _towers_of(
    policy_kwargs: dict[str, Any], policy_class: type[MoEPolicy] | None
) -> tuple[str, ...]:
    dicts = {
        name: list(value)
        for name, value in policy_kwargs.items()
        if isinstance(value, Mapping) and (name in DEFAULTS or name == "net_arch")
        if name not in KWARGS or is_by_tower(name, value, TOWERS)
    }
    if policy_class is not None:
        return policy_class.towers if dicts else (ALL,)
    named = tuple(dict.fromkeys(tower for each in dicts.values() for tower in each))
    if len(named) == 1:
        raise ValueError(
            "`policy_class` must be given where dicts by tower may leave a tower out, got None "
            f"and {dicts}"
        )
    return named or (ALL,)


def _control(
    name: str, options: dict[str, Any], tower: str, policy_kwargs: dict[str, Any]
) -> dict[str, Any]:
    router = "soft" if name == "one_scaled_expert" else "uniform"
    new, own = ROUTERS.find(router), options["router_kwargs"] or {}
    kept = {key: v for key, v in options.items() if takes(new, key)}
    changed: dict[str, Any] = {"router": router, "num_experts": 1, "num_slots": None}
    speaks = {key: v for key, v in own.items() if key in new.defaults() and key != "num_slots"}
    changed["router_kwargs"] = speaks or None
    if new.blind and options["task_input"] == "router":
        # Shown to a router that is gone.
        changed |= {"task_input": "none", "task_embedding": None}
    if options["freeze_idle"] and options["head_router"] is None and not new.leaves_out:
        changed["freeze_idle"] = None
    if name == "one_scaled_expert":
        if not getattr(EXPERTS.find(options["expert"]), "uses_width", True):
            raise ValueError(
                "`expert` must have a hidden layer that can be scaled, got "
                f"{called(EXPERTS.find(options['expert']))!r}"
            )
        width = options["expert_width"] or _first_width(policy_kwargs.get("net_arch"), tower)
        changed["expert_width"] = _num_experts(options, policy_kwargs) * width
    return DEFAULTS | kept | changed


def _first_width(net_arch: Any, tower: str) -> int:
    widths = net_arch.get(tower, []) if isinstance(net_arch, Mapping) else net_arch
    # None is what the policies make of it behind an image encoder.
    widths = [512] if widths is None else widths
    if not widths:
        raise ValueError(f"`net_arch` must have a hidden layer for {tower}, got {net_arch}")
    return int(widths[0])


def _num_experts(options: dict[str, Any], policy_kwargs: dict[str, Any]) -> int:
    if options["num_experts"] is not None:
        return int(options["num_experts"])
    router = ROUTERS.find(options["router"])
    if not router.needs_tasks:
        return DEFAULT_NUM_EXPERTS
    num_tasks = (policy_kwargs.get("features_extractor_kwargs") or {}).get("num_tasks")
    if num_tasks is None:
        raise ValueError(
            f"`num_experts` must be given with `router`={router.name!r}, which has one for each "
            "task of the environment, got None"
        )
    return int(num_tasks)


def _joined(by_tower: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return options as a policy takes them: a value, or a dict by tower where they differ."""
    joined: dict[str, Any] = {}
    for name, default in DEFAULTS.items():
        values = {tower: each[name] for tower, each in by_tower.items()}
        first = next(iter(values.values()))
        if any(value != first for value in values.values()):
            joined[name] = values
        elif first != default:
            joined[name] = first
    return joined
