"""Measures and remedies on the policies of every algorithm, dense and with experts."""

import arena
import numpy as np
import pytest
import torch as th
from torch import nn
from watched import batch, outputs, silence

from sb3_moe.callbacks import ReDoCallback, ResetHeadsCallback, ShrinkAndPerturbCallback
from sb3_moe.measures import measure_layers, measure_ntk, policy_activations, redo, reset_heads
from sb3_moe.measures.hidden import heads

NETWORKS = {
    **dict.fromkeys(arena.ON_POLICY, ("pi", "vf")),
    **dict.fromkeys(("DQN", "QRDQN"), ("qf",)),
    **dict.fromkeys(("SAC", "TD3", "TQC", "CrossQ"), ("pi", "qf0", "qf1")),
}
every_algorithm = pytest.mark.parametrize("algorithm", NETWORKS)
dense_or_moe = pytest.mark.parametrize("prefix", ["", "Moe"], ids=["dense", "moe"])


def make(algorithm, prefix, **kwargs):
    lstm = {"lstm_hidden_size": 8} if algorithm == "RecurrentPPO" else {}
    alias = prefix + ("MlpLstmPolicy" if lstm else "MlpPolicy")
    env = arena.Arena(arena.FLAT, arena.actions_of(algorithm))
    options = {"net_arch": [12, 10], "activation_fn": nn.ReLU, **lstm, **kwargs}
    return arena.make(algorithm, alias, env, **options)


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
    model = arena.train(make(algorithm, prefix), 32)
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
    model = arena.train(make(algorithm, prefix, **kwargs), 32)
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
    model = make(algorithm, prefix).learn(64, remedies, log_interval=10**6)
    assert all(parameter.isfinite().all() for parameter in model.policy.parameters())
    assert any(name.startswith("plasticity/redo/") for name in model.logger.name_to_value)
