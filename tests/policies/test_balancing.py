"""Loss-free balancing under SB3's algorithms: the bias moves in updates, and never else."""

from itertools import pairwise

import arena
import numpy as np
import pytest
import torch as th


def make(algorithm):
    lstm = "Lstm" if algorithm == "RecurrentPPO" else ""
    options = {"router": "top_k", "bias_rate": 0.125, "net_arch": [8]}
    return arena.make(algorithm, f"MoeMlp{lstm}Policy", **options)


def state(model):
    """Return the whole policy, the biases too."""
    return {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}


def biases(model):
    layers = model.policy.moe_layers().items()
    return {name: layer.running_bias_E.clone() for name, layer in layers}


def assert_same(a, b):
    assert list(a) == list(b)
    for name, tensor in a.items():
        assert th.equal(tensor, b[name]), name


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
def test_a_look_between_two_calls_of_learn_changes_nothing(algorithm):
    states = []
    for look in (False, True):
        model = arena.train(make(algorithm))
        if look:
            arena.predict(model, np.zeros((3, 5), np.float32))
        model.learn(16, reset_num_timesteps=False, log_interval=10**6)
        states.append(state(model))
    assert_same(*states)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "RecurrentPPO"])
def test_the_bias_moves_in_updates_and_stays_while_data_is_collected(algorithm):
    model = make(algorithm)
    train, seen = model.train, []

    def note(*args, **kwargs):
        before = biases(model)
        train(*args, **kwargs)
        seen.append((before, biases(model)))

    model.train = note
    model.learn(64, log_interval=10**6)
    assert len(seen) > 2
    for (_, after), (before, _) in pairwise(seen):
        assert_same(before, after)
    for name, last in seen[-1][1].items():
        # Each step is 0.125, up or down.
        assert last.any(), name
        assert th.equal(last * 8, (last * 8).round())
