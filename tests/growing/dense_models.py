"""Dense models of every algorithm that have learned a little, and how alike two policies are."""

import copy
from functools import cache
from typing import Any
from unittest.mock import patch

import arena
import torch as th

from sb3_moe.growing.converting import join_task
from sb3_moe.growing.models import raw_outputs, sampled
from sb3_moe.policies.networks import networks_of

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
# Models that have learned, by what they were made of.
_LEARNED: dict[str, Any] = {}
PLACES = ("middle", "final", "all", "body", "big")


def alias_of(algorithm: str) -> str:
    return "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"


def flat_env(algorithm: str) -> arena.Arena:
    """Return flat observations that end in a one-hot task id."""
    return arena.default_env(algorithm, "MoeMlpPolicy", NUM_TASKS)


def make(algorithm: str, alias: str | None = None, env: Any = None, **policy_kwargs: Any) -> Any:
    """Return a small model that has learned for a few steps: a copy of the first like it."""
    if algorithm == "RecurrentPPO":
        policy_kwargs["lstm_hidden_size"] = 8
    kwargs = {"net_arch": [8, 6], **policy_kwargs}
    key = repr((algorithm, alias, kwargs))
    if env is None and key in _LEARNED:
        return copied(_LEARNED[key])
    own = flat_env(algorithm) if env is None else env
    model = arena.make(algorithm, alias or alias_of(algorithm), own, **kwargs).learn(32)
    if env is None:
        _LEARNED[key] = copied(model)
    return model


def copied(model: Any) -> Any:
    """Return a copy of a model, with whatever it keeps of its last step cut off from the graph."""
    original = th.Tensor.__deepcopy__

    def without_graph(tensor: th.Tensor, memo: Any) -> th.Tensor:
        return original(tensor if tensor.is_leaf else tensor.detach(), memo)

    with patch.object(th.Tensor, "__deepcopy__", without_graph):
        return copy.deepcopy(model)


@cache
def dense(algorithm: str) -> Any:
    """Return SB3's own model; nobody may change it."""
    return make(algorithm)


@th.no_grad()
def outputs(model: Any, obs: Any = None) -> dict[str, th.Tensor]:
    """Return what a model's networks return."""
    obs = sampled(model.observation_space, 32) if obs is None else obs
    return raw_outputs(model.policy, model.policy.obs_to_tensor(obs)[0])


def gap(new: Any, old: Any, obs: Any = None) -> float:
    """Return how far outputs are apart, at most, by their size.

    :param old: a model, or what one returned on the same observations
    """
    if isinstance(old, dict):
        ours, theirs = outputs(new, obs), old
    else:
        obs = sampled(old.observation_space, 32) if obs is None else obs
        joined = join_task(obs, new.observation_space)
        ours, theirs = outputs(new, joined), outputs(old, obs)
    assert ours.keys() == theirs.keys()
    return max(
        float((ours[name] - y).abs().max() / y.abs().max().clamp_min(1.0))
        for name, y in theirs.items()
    )


def assert_targets_alike(new: Any, old: Any) -> None:
    """Compare what target networks return."""
    ours, theirs = (networks_of(each.policy).targets().values() for each in (new, old))
    obs, actions = th.rand(7, 8), th.rand(7, 2)
    assert ours
    for target, known in zip(ours, theirs, strict=True):
        given = (obs, actions) if hasattr(target, "q_networks") else (obs,)
        th.testing.assert_close(target(*given), known(*given), atol=1e-5, rtol=1e-5)
