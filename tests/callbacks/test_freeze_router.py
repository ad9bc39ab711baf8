"""Routers that stop once they have settled."""

from itertools import pairwise

import pytest
import torch as th
from learners import SHORT, learner
from own_parts import Skipping
from stable_baselines3 import DQN, PPO
from test_probe_callbacks import probe
from toy import toy_vec_env

import sb3_moe
from sb3_moe.callbacks import FreezeRouterCallback
from sb3_moe.callbacks.probing import hold_router, router_parameters
from sb3_moe.measures.resets import reset_heads, reset_optimizers, shrink_and_perturb


def make(algo=PPO, tasks=SHORT, **policy_kwargs):
    kwargs = {"router": "soft", "num_experts": 3} | policy_kwargs
    return learner(algo, toy_vec_env(*tasks), n_steps=16, policy_kwargs=kwargs)


def states(model):
    """Copy every router's weights, what the optimizer knows of them, and the routers' biases."""
    state, found = model.policy.optimizer.state, []
    for layer in model.policy.moe_layers().values():
        found += [[each.data, *state[each].values()] for each in router_parameters(layer)]
        found.append([each for name, each in layer.named_buffers() if name == "running_bias_E"])
    return [[value.clone() for value in values] for values in found]


class Watch(FreezeRouterCallback):
    """Note routers and experts at the start of every rollout."""

    def _on_training_start(self):
        super()._on_training_start()
        self.seen = []

    def _on_rollout_start(self):
        super()._on_rollout_start()
        experts = [
            each.detach().clone()
            for layer in self.model.policy.moe_layers().values()
            for each in layer.experts.parameters()
        ]
        self.seen.append((list(self.kept["frozen"]), states(self.model), experts))


def same(one, other):
    return all(
        th.equal(a, b)
        for first, second in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


OPTIONS = [
    {},
    {"router": "top_k", "normalize_router": True, "balance_coef": 0.01},
    {"router": "top_k", "placement": "big", "bias_rate": 0.01, "router_kwargs": {"hidden": [4]}},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_frozen_router_keeps_weights_and_averages_bit_for_bit_while_experts_learn(options):
    model = make(**options)
    callback = Watch(32, bound=None, at_step=64, probe=probe())
    model.learn(160, callback)
    frozen = [seen for seen in callback.seen if seen[0]]
    assert [bool(seen[0]) for seen in callback.seen] == [False, False, True, True, True]
    for (_, before, experts), (_, after, later) in pairwise(frozen):
        assert same(before, after)
        assert not same([experts], [later])
    assert not same(callback.seen[0][1], callback.seen[1][1])


def test_routers_stop_when_gates_have_moved_too_little_several_times_in_a_row():
    still, moving = (Watch(32, bound=bound, patience=2, probe=probe()) for bound in (1.0, 1e-9))
    for callback in (still, moving):
        make().learn(192, callback)
    # Measured at 0, 32, 64, ...: two differences are there at 64.
    assert [bool(seen[0]) for seen in still.seen] == [False, False, True, True, True, True]
    assert set(still.seen[-1][0]) == {"pi.middle", "vf.middle"}
    assert not any(seen[0] for seen in moving.seen)


def test_a_router_that_has_not_learned_yet_has_not_settled():
    model = make(DQN)
    model.learning_starts = 200
    callback = FreezeRouterCallback(32, bound=0.5, patience=2, probe=probe())
    model.learn(192, callback=callback)
    assert callback.kept["settled"] == {}
    assert callback.kept["frozen"] == []
    model.learn(400, callback=callback, reset_num_timesteps=False)
    assert callback.kept["frozen"]


@pytest.mark.parametrize("remedy", ["shrink", "heads", "optimizer"])
def test_remedies_leave_a_frozen_router_alone(remedy):
    model = make(placement="final")
    model.learn(32)
    for layer in model.policy.moe_layers().values():
        hold_router(layer, True)
    before, experts = states(model), next(iter(model.policy.moe_layers().values())).experts
    rest = experts.last.weight.detach().clone()
    if remedy == "shrink":
        shrink_and_perturb(model.policy)
    elif remedy == "heads":
        reset_heads(model.policy)
    else:
        reset_optimizers(model.policy)
    assert same(before, states(model))
    assert th.equal(rest, experts.last.weight) == (remedy == "optimizer")


@pytest.mark.parametrize("expert", ["mlp", Skipping])
def test_a_held_router_learns_again_after_an_expert_has_joined(expert):
    model = make(placement="final", expert=expert)
    for held in (True, False):
        for layer in model.policy.moe_layers().values():
            hold_router(layer, held)
        sb3_moe.add_experts(model)
        layer = next(iter(model.policy.moe_layers().values()))
        assert [each.requires_grad for each in router_parameters(layer)] == [not held] * 2
        assert all(each.requires_grad for each in layer.experts.parameters())


def test_policies_without_a_router_that_learns_are_refused():
    callback = FreezeRouterCallback(32, probe=probe())
    rule = "`model` must have a router that learns, such as `router`='soft'"
    with pytest.raises(ValueError, match=rule):
        make(router="task", num_experts=None).learn(32, callback)
    with pytest.raises(ValueError, match=rule):
        make(placement="none", num_experts=None).learn(32, callback)
    dense = PPO("MultiInputPolicy", toy_vec_env(*SHORT), n_steps=16, batch_size=32)
    with pytest.raises(ValueError, match=rule):
        dense.learn(32, callback)
