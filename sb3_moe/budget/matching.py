"""The dense network that costs what an MoE policy costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import gymnasium as gym

from sb3_moe.budget.cost import measure
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import OF_EXPERTS


def matching_net_arch(
    policy_class: type[MoEPolicy],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    policy_kwargs: dict[str, Any],
    match: str = "parameters",
) -> dict[str, list[int]] | list[int]:
    """Return the ``net_arch`` of the dense policy that costs what an MoE policy costs.

    All hidden widths of a tower are scaled together until its count comes as near as it can. A
    tower's count holds its own layers (all critics') and an equal share of what stands before the
    towers: the features extractors, which the dense policy may have others of, and the LSTMs.
    What one tower has too much of at width 1 is taken from the other.

    Widths are whole numbers, so small networks match less closely. Where all that the dense
    policy can't do without costs more than the MoE policy (SB3's NatureCNN ends in a linear layer
    of 512), nothing matches and all widths are 1; an ``encoder`` named in
    ``features_extractor_kwargs`` gives both policies the same features extractor.

    :param policy_class: one of this package's policies
    :param observation_space: observation space
    :param action_space: action space
    :param policy_kwargs: the MoE policy's
    :param match: ``"parameters"`` or ``"flops"``
    :return: as the policy takes it: one list for a policy with one tower, else a dict by tower
    :raises ValueError: if ``match`` is neither, or a tower has no hidden layer to widen
    """
    if match not in ("parameters", "flops"):
        raise ValueError(f"`match` must be 'parameters' or 'flops', got {match!r}")

    def build(**kwargs: Any) -> MoEPolicy:
        # What is frozen costs as much, and a dense policy has no experts to freeze.
        merged = policy_kwargs | kwargs | {"frozen_experts": None}
        if merged.get("placement") == "none":
            merged = {name: each for name, each in merged.items() if name not in OF_EXPERTS}
        return policy_class(observation_space, action_space, lambda _: 1e-3, **merged)

    moe = build()
    start = _net_arch_by_tower(moe)
    for tower, widths in start.items():
        if not widths:
            raise ValueError(f"`net_arch` of {tower!r} must have a hidden layer to widen, got []")
    wanted = _count_by_tower(moe, match)

    @cache
    def count(tower: str, widths: tuple[int, ...]) -> float:
        dense = build(
            placement="none",
            head_router=None,
            task_input=_as_dense_sees(policy_kwargs.get("task_input", "both")),
            net_arch=_as_given(start | {tower: list(widths)}),
        )
        return _count_by_tower(dense, match)[tower]

    def nearest(tower: str, wanted: float) -> tuple[int, ...]:
        return _nearest(partial(count, tower), start[tower], wanted)

    arch = {tower: nearest(tower, wanted[tower]) for tower in start}
    free = [tower for tower, widths in arch.items() if max(widths) > 1]
    excess = sum(count(tower, arch[tower]) - wanted[tower] for tower in start if tower not in free)
    if excess > 0:
        arch |= {tower: nearest(tower, wanted[tower] - excess / len(free)) for tower in free}
    return _as_given({tower: list(widths) for tower, widths in arch.items()})


def _as_dense_sees(task_input: Any) -> Any:
    """Let a dense network see the id that only a router saw: without it it would be no control."""
    if isinstance(task_input, Mapping):
        return {tower: _as_dense_sees(each) for tower, each in task_input.items()}
    return "both" if task_input == "router" else task_input


def _count_by_tower(policy: MoEPolicy, match: str) -> dict[str, float]:
    """Return each tower's own count, all critics together, and a share of what is none's."""
    counts = {name: getattr(cost, match) for name, cost in measure(policy).parts.items()}
    own = dict.fromkeys(policy.towers, 0)
    for name in networks_of(policy).towers():
        own[kind_of(name)] += counts[name]
    share = (sum(counts.values()) - sum(own.values())) / len(own)
    return {tower: count + share for tower, count in own.items()}


def _net_arch_by_tower(policy: MoEPolicy) -> dict[str, list[int]]:
    net_arch: Any = policy.net_arch
    if isinstance(net_arch, dict):
        return {tower: list(net_arch.get(tower, [])) for tower in policy.towers}
    return {tower: list(net_arch) for tower in policy.towers}


def _as_given(widths: dict[str, list[int]]) -> dict[str, list[int]] | list[int]:
    return next(iter(widths.values())) if len(widths) == 1 else widths


def _scaled(widths: list[int], factor: float) -> tuple[int, ...]:
    return tuple([max(1, round(width * factor)) for width in widths])


def _nearest(
    count: Callable[[tuple[int, ...]], float], start: list[int], wanted: float
) -> tuple[int, ...]:
    """Return the scaled widths whose count is nearest to what is wanted; it grows with them."""
    low, high = 0.0, 1.0
    while count(_scaled(start, high)) < wanted:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if count(_scaled(start, middle)) < wanted else (low, middle)
    ends = [_scaled(start, low), _scaled(start, high)]
    return min(ends, key=lambda widths: abs(count(widths) - wanted))
