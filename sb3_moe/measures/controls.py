"""The controls that tell what conv tokens alone do (arXiv 2410.01930)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What speaks to a router, or to several experts.
OF_ROUTERS = frozenset(
    {
        *("router", "router_kwargs", "num_experts", "num_slots", "top_k", "renormalize"),
        *("normalize_router", "router_noise", "bias_rate", "freeze_idle", "combine"),
        *("balance_coef", "importance_coef", "z_coef"),
    }
)
# What options are where they are not given; a policy with an image encoder has one hidden layer.
NUM_EXPERTS, WIDTHS = 4, [512]


def controls(policy_kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the controls for conv tokens, as ``policy_kwargs`` by name (arXiv 2410.01930).

    ``"one_scaled_expert"`` is one expert as wide as all together; ``"tokenised_dense"`` is the
    dense layer applied to each token: one expert of the usual width, without a router. Options of
    the router are left out. Under ``placement="all"`` the first layer's width counts.

    :param policy_kwargs: the MoE policy's, with ``tokens="conv"`` or ``"feature"``; only
        ``net_arch`` may be given by network
    :raises ValueError: if there are no such tokens or no experts, if an option is given by network,
        if experts have no width, or if it can't be told how many there are
    """
    tokens = policy_kwargs.get("tokens", "sample")
    if tokens not in ("conv", "feature") or policy_kwargs.get("placement") == "none":
        raise ValueError(
            "`tokens` must be 'conv' or 'feature' for all networks, and these have experts, for "
            f"these controls, got {policy_kwargs}"
        )
    for name in OF_ROUTERS - {"router_kwargs"} | {"placement", "expert", "expert_width"}:
        if isinstance(policy_kwargs.get(name), Mapping):
            raise ValueError(
                f"`{name}` must be one value for these controls, got {policy_kwargs[name]}: make "
                "them for each network by itself"
            )
    kept = {name: value for name, value in policy_kwargs.items() if name not in OF_ROUTERS}
    if policy_kwargs.get("expert", "mlp") == "linear":
        raise ValueError("`expert` must have a hidden layer that can be scaled, got 'linear'")
    scaled = {"num_experts": 1, "expert_width": _width_of_all(policy_kwargs)}
    plain = {"num_experts": 1, "router": "uniform"}
    if kept.get("task_input") == "router":  # shown to a router that is gone
        plain |= {"task_input": "none", "task_embedding": None}
    if policy_kwargs.get("normalize_router"):
        scaled["normalize_router"] = True
    return {"one_scaled_expert": kept | scaled, "tokenised_dense": kept | plain}


def _width_of_all(policy_kwargs: dict[str, Any]) -> Any:
    """Return how wide all experts are together, by network where ``net_arch`` is."""
    number = policy_kwargs.get("num_experts")
    if number is None and policy_kwargs.get("router") == "task":
        number = (policy_kwargs.get("features_extractor_kwargs") or {}).get("num_tasks")
        if number is None:
            raise ValueError(
                "`num_experts` must be given with `router`='task', which has one for each task of "
                "the environment, got None"
            )
    number = NUM_EXPERTS if number is None else number
    if policy_kwargs.get("expert_width"):
        return number * policy_kwargs["expert_width"]
    net_arch = policy_kwargs.get("net_arch")
    if isinstance(net_arch, Mapping):
        return {network: number * _first(widths) for network, widths in net_arch.items()}
    return number * _first(WIDTHS if net_arch is None else net_arch)


def _first(widths: list[int]) -> int:
    if not widths:
        raise ValueError(f"`net_arch` must have a hidden layer, got {widths}")
    return widths[0]
