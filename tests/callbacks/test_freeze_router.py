"""Routers that stop once they have settled."""

from itertools import pairwise

import pytest
import torch as th
from stable_baselines3 import DQN, PPO
from test_probe_callbacks import probe
from toy import toy_vec_env

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import FreezeRouterCallback

TASKS = ((0,) * 10 + (1,) * 200,) * 2


def make(algo=PPO, policy="MoeMultiInputPolicy", tasks=TASKS, **policy_kwargs):
    options = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    if algo is DQN:
        options = {"learning_starts": 20, "buffer_size": 300}
    kwargs = {"router": "soft", "num_experts": 3} | policy_kwargs
    return algo(policy, toy_vec_env(*tasks), **options, seed=3, policy_kwargs=kwargs)


def states(model):
    """Copy every router's weights and what the optimiser knows of them."""
    state = model.policy.optimizer.state
    return [
        [value.clone() for value in (each.data, *state[each].values())]
        for layer in model.policy.moe_layers().values()
        for each in layer.router_parameters()
    ]


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


def test_the_bias_of_a_frozen_router_stays_too():
    model = make(router="top_k", bias_rate=0.01)
    model.learn(96, FreezeRouterCallback(32, bound=None, at_step=32, probe=probe()))
    (layer, *_) = model.policy.moe_layers().values()
    before = layer.running_bias_E.clone()
    callback = FreezeRouterCallback(32, bound=None, at_step=1, probe=probe())
    model.learn(96, callback, reset_num_timesteps=False)
    assert before.abs().sum() > 0
    assert th.equal(layer.running_bias_E, before)
