"""Measures and remedies on the policies of every algorithm, dense and with experts."""

from importlib import import_module

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn
from watched import batch, outputs, silence

from sb3_moe.callbacks import ReDoCallback, ResetHeadsCallback, ShrinkAndPerturbCallback
from sb3_moe.measures import (
    measure_layers,
    measure_ntk,
    policy_activations,
    redo,
    reset_heads,
)
from sb3_moe.measures.weights import heads
from sb3_moe.policies.registration import TABLE

ACTOR_AND_VALUE, ACTOR_AND_CRITICS = {"pi", "vf"}, {"pi", "qf0", "qf1"}
NETWORKS = {
    "PPO": ACTOR_AND_VALUE,
    "A2C": ACTOR_AND_VALUE,
    "MaskablePPO": ACTOR_AND_VALUE,
    "RecurrentPPO": ACTOR_AND_VALUE,
    "TRPO": ACTOR_AND_VALUE,
    "DQN": {"qf"},
    "QRDQN": {"qf"},
    "SAC": ACTOR_AND_CRITICS,
    "TD3": ACTOR_AND_CRITICS,
    "TQC": ACTOR_AND_CRITICS,
    "CrossQ": ACTOR_AND_CRITICS,
}
every_algorithm = pytest.mark.parametrize("algorithm", NETWORKS)
dense_or_moe = pytest.mark.parametrize("prefix", ["", "Moe"], ids=["dense", "moe"])


def make(algorithm, prefix, **kwargs):
    module, name = TABLE[algorithm].algorithm.split(":")
    pytest.importorskip(module.split(".")[0])
    algo = getattr(import_module(module), name)
    env_id = "Pendulum-v1" if NETWORKS[algorithm] == ACTOR_AND_CRITICS else "CartPole-v1"
    alias = "MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"
    options = {"n_steps": 16}
    if not issubclass(algo, OnPolicyAlgorithm):
        options = {"learning_starts": 8, "batch_size": 8, "buffer_size": 64}
    elif algorithm != "A2C":
        options |= {"batch_size": 16}
    policy_kwargs = {"net_arch": [12, 10], "activation_fn": nn.ReLU} | kwargs
    if algorithm == "RecurrentPPO":
        policy_kwargs |= {"lstm_hidden_size": 8}
    return algo(
        prefix + alias, env_id, policy_kwargs=policy_kwargs, device="cpu", seed=0, **options
    )


def learn(model, steps=32, callback=None):
    unmasked = {"use_masking": False} if "Maskable" in type(model).__name__ else {}
    return model.learn(steps, callback=callback, log_interval=10**6, **unmasked)


@every_algorithm
@dense_or_moe
def test_every_layer_and_every_network_is_measured(algorithm, prefix):
    model = make(algorithm, prefix)
    batches = [batch(model, 4), batch(model, 4)]
    names = {f"{network}.{i}" for network in NETWORKS[algorithm] for i in (0, 1)}
    measures = measure_layers(model.policy, batches)
    assert {name.removeprefix("dormant/") for name in measures if "dormant/" in name} == names
    assert all(np.isfinite(value).all() for value in measures.values())
    ranks = measure_ntk(model.policy, batches, size=8)
    assert set(ranks) == {f"ntk_rank/{network}" for network in NETWORKS[algorithm]}
    # The batches are alike, so of 8 samples 4 differ.
    assert all(1 <= rank <= 4.01 for rank in ranks.values())


@pytest.mark.covering
@every_algorithm
@dense_or_moe
def test_dormant_neurons_of_every_network_start_anew_and_its_output_stays(algorithm, prefix):
    model = learn(make(algorithm, prefix))
    silence(model.policy)
    obs = batch(model)
    before = outputs(model.policy, obs)
    counts = redo(model.policy, obs, tau=0.0)
    assert set(counts) == set(policy_activations(model.policy, obs))
    assert all(count >= 3 for count in counts.values())
    if algorithm != "CrossQ":  # whose normalizations make something of silent units
        th.testing.assert_close(outputs(model.policy, obs), before)


@pytest.mark.covering
@every_algorithm
@pytest.mark.parametrize(
    ("prefix", "kwargs"),
    [("", {}), ("Moe", {}), ("Moe", {"placement": "big"})],
    ids=["dense", "moe", "big"],
)
def test_the_head_of_every_network_starts_anew(algorithm, prefix, kwargs):
    model = learn(make(algorithm, prefix, **kwargs))
    weights = [p for head in heads(model.policy) for p in head.parameters() if p.dim() > 1]
    assert len(weights) >= len(NETWORKS[algorithm])
    old = [weight.clone() for weight in weights]
    reset_heads(model.policy)
    assert not any(th.equal(*pair) for pair in zip(weights, old, strict=True))


@pytest.mark.parametrize(
    ("algorithm", "prefix"), [("RecurrentPPO", "Moe"), ("CrossQ", ""), ("SAC", "Moe")]
)
def test_training_goes_on_after_every_remedy(algorithm, prefix):
    remedies = [
        ReDoCallback(16, batch_size=8),
        ResetHeadsCallback(16),
        ShrinkAndPerturbCallback(16),
    ]
    model = learn(make(algorithm, prefix), 64, remedies)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    assert any(name.startswith("plasticity/redo/") for name in model.logger.name_to_value)
