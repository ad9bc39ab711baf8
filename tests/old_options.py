"""Policies as version 0.1.0's README and table of options spell them.

Change nothing here: ``fixtures/v0_1_0/options.json`` holds their shapes, in this order.
"""

from __future__ import annotations

from typing import Any

from old_models import CNN, MLP, MULTI, Case
from old_models import build as build_case
from torch import nn

PER_TOWER = {"pi": "big", "vf": "none"}
SPELLINGS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("PPO", MLP, "flat", {"num_experts": 4}),
    ("PPO", MULTI, "flat+task", {"placement": "big", "router": "task"}),
    *[("PPO", MLP, "flat", {"placement": p}) for p in ("none", "middle", "final", "all", "big")],
    *[("PPO", MLP, "flat", {"router": r}) for r in ("soft", "top_k", "uniform", "random")],
    ("PPO", CNN, "image", {"router": "expert_choice", "tokens": "conv"}),
    ("PPO", MLP, "flat", {"router": "top_k", "top_k": 2}),
    ("PPO", CNN, "image", {"tokens": "conv"}),
    ("PPO", CNN, "image", {"tokens": "feature", "num_slots": 2}),
    ("PPO", MLP, "flat", {"expert_width": 8}),
    ("PPO", MLP, "flat", {"normalize_router": True}),
    ("DQN", MLP, "flat", {"router_noise": 0.1}),
    ("PPO", MLP, "flat", {"balance_coef": 0.01, "importance_coef": 0.01, "z_coef": 0.001}),
    ("PPO", MLP, "flat", {"router": "top_k", "bias_rate": 0.001}),
    *[
        ("PPO", MULTI, "flat+task", {"task_input": t})
        for t in ("both", "router", "experts", "none")
    ],
    ("PPO", MLP, "flat", {"placement": PER_TOWER}),
    ("A2C", MLP, "flat", {"num_experts": {"pi": 2, "vf": 3}}),
    ("SAC", MLP, "flat", {"placement": {"pi": "middle", "qf": "big"}, "net_arch": [8, 8]}),
    ("TD3", MLP, "flat", {"placement": {"pi": "big", "qf": "none"}, "net_arch": [8, 8]}),
    *[
        ("PPO", CNN, "image", {"features_extractor_kwargs": {"encoder": e}})
        for e in ("flat", "minatar", "impala")
    ],
    ("PPO", CNN, "large", {"features_extractor_kwargs": {"encoder": "nature"}, "net_arch": [8]}),
    (
        "PPO",
        MULTI,
        "image+task",
        {
            "net_arch": [64, 64],
            "activation_fn": nn.ReLU,
            "features_extractor_kwargs": {"encoder": "flat"},
            "placement": "big",
        },
    ),
]


def build(algorithm: str, alias: str, space: str, policy_kwargs: dict[str, Any]) -> Any:
    """Return the model, with SB3's own ``net_arch`` unless the options have one."""
    kwargs = {"net_arch": None, **policy_kwargs}
    return build_case(Case(algorithm, alias, space, kwargs))
