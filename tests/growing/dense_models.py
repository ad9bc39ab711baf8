"""Dense models of every algorithm that have learned a little, and how alike two policies are."""

from __future__ import annotations

from functools import cache
from typing import Any

import arena
import torch as th

from sb3_moe.growing.models import raw_outputs, sampled
from sb3_moe.growing.upcycling import join_task

NUM_TASKS = 3
ROUTERS: dict[str, dict[str, Any]] = {
    "soft": {"router": "soft"},
    "task": {"router": "task"},
    "embedding": {"router": "embedding", "router_kwargs": {"weights": "softmax"}},
    "uniform": {"router": "uniform"},
    "random": {"router": "random"},
    "every": {"router": "top_k", "top_k": 4},
    "two": {"router": "top_k", "top_k": 2, "renormalize": True},
    "one": {"router": "top_k", "top_k": 1},
}
PLACES = ("middle", "final", "all", "body", "big")


def alias_of(algorithm: str) -> str:
    return "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"


def flat_env(algorithm: str) -> arena.Arena:
    """Return flat observations that end in a one-hot task id."""
    return arena.default_env(algorithm, "MoeMlpPolicy", NUM_TASKS)


def make(algorithm: str, alias: str | None = None, env: Any = None, **policy_kwargs: Any) -> Any:
    """Return a small model that has learned for a few steps."""
    if algorithm == "RecurrentPPO":
        policy_kwargs["lstm_hidden_size"] = 8
    env = flat_env(algorithm) if env is None else env
    kwargs = {"net_arch": [8, 6], **policy_kwargs}
    model = arena.make(algorithm, alias or alias_of(algorithm), env, **kwargs)
    return model.learn(32)


@cache
def dense(algorithm: str) -> Any:
    """Return SB3's own model; nobody may change it."""
    return make(algorithm)


@th.no_grad()
def gap(new: Any, old: Any, obs: Any = None) -> float:
    """Return how far the outputs of two models' networks are apart, at most, by their size."""
    if obs is None:
        obs = sampled(old.observation_space, 32)
    joined = join_task(obs, old.observation_space, new.observation_space)
    ours = raw_outputs(new.policy, new.policy.obs_to_tensor(joined)[0])
    theirs = raw_outputs(old.policy, old.policy.obs_to_tensor(obs)[0])
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name] - y).abs().max() / y.abs().max().clamp_min(1.0))
        for name, y in theirs.items()
    )


def state_of(model: Any) -> dict[str, Any]:
    """Return a copy of all weights, optimisers and generators that a model could lose."""
    weights = {name: t.clone() for name, t in model.policy.state_dict().items()}
    return weights | {"steps": model.num_timesteps, "random": th.get_rng_state()}
