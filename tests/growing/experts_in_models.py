"""Small models with experts of every algorithm, and what their experts hold."""

import copy
import io
from typing import Any

import numpy as np
import torch as th
from dense_models import NUM_TASKS, make

from sb3_moe.policies.networks import networks_of

ROUTERS: dict[str, dict[str, Any]] = {
    "soft": {"router": "soft"},
    "random": {"router": "random"},
    "every": {"router": "top_k", "top_k": 4},
    "one": {"router": "top_k", "top_k": 1, "bias_rate": 0.01},
}
# Routers under which every sample meets every expert, whatever their number.
SHARED = ("soft", "random")


def moe(algorithm: str = "PPO", **options: Any) -> Any:
    """Return a model that has learned a little, with a one-hot task id in its observations."""
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    tasks = {"num_tasks": NUM_TASKS}
    # Experts can be frozen under Adam alone, and A2C's own optimizer is RMSprop.
    if algorithm == "A2C":
        options = {"model": {"use_rms_prop": False}, **options}
    return make(algorithm, alias, features_extractor_kwargs=tasks, **options)


def loaded(model: Any) -> Any:
    """Return the model of SB3's own file."""
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return type(model).load(file, env=model.get_env())


def of_expert(model: Any, name: str, k: int) -> dict[str, th.Tensor]:
    """Return copies of what one expert has: weights, buffers and averages."""
    experts = model.policy.moe_layers()[name].experts
    optimizer = networks_of(model.policy).optimizers()[name.split(".")[0]]
    found = {key: each for key, each in experts.expert(k).state_dict().items() if each.dim()}
    shares = experts.shares()
    own = [each for each in shares if each.first <= k < each.first + each.num_experts]
    for i, (parameter, first, num_experts) in enumerate(own):
        for kind, value in optimizer.state.get(parameter, {}).items():
            if value.dim():  # else a count for all experts together
                found[f"{i}/{kind}"] = value.reshape(num_experts, -1)[k - first].clone()
    return found


def assert_same(found: dict[str, th.Tensor], expected: dict[str, th.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert th.equal(tensor, expected[name]), name


def all_of(model: Any) -> dict[str, Any]:
    """Return a copy of all that a failed change could lose."""
    policy = model.policy
    optimizers = list(dict.fromkeys(networks_of(policy).optimizers().values()))
    own = [getattr(policy, name, None) for name in ("moe_options", "frozen_experts")]
    return {
        "weights": {name: tensor.clone() for name, tensor in policy.state_dict().items()},
        "optimizers": copy.deepcopy([each.state_dict() for each in optimizers]),
        "options": copy.deepcopy([*own, model.policy_kwargs, model.num_timesteps]),
        "log": list(getattr(model, "expert_log", [])),
    }


def assert_unchanged(model: Any, before: dict[str, Any]) -> None:
    after = all_of(model)
    assert after["options"] == before["options"]
    assert after["log"] == before["log"]
    assert_same(after["weights"], before["weights"])
    for mine, theirs in zip(after["optimizers"], before["optimizers"], strict=True):
        assert mine["param_groups"] == theirs["param_groups"]
        for index, state in theirs["state"].items():
            for name, value in state.items():
                assert np.array_equal(mine["state"][index][name], value)
