"""Neurons that no gradient reaches: the measure, and ReDo by it."""

import arena
import numpy as np
import pytest
import reference
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from watched import batch

from sb3_moe.callbacks import PlasticityCallback
from sb3_moe.measures import (
    gradient_activity,
    hidden_layers,
    measure_gradients,
    policy_activations,
    redo,
)
from sb3_moe.measures.plasticity import dormant_scores


def trained(algorithm="PPO", policy="MlpPolicy", **kwargs):
    env = arena.Arena(arena.FLAT, arena.actions_of(algorithm))
    options = {"net_arch": [8, 6], "activation_fn": nn.ReLU, **kwargs}
    return arena.train(arena.make(algorithm, policy, env, **options), 32)


def test_scores_are_those_of_the_slow_version():
    policy = trained().policy
    found = gradient_activity(policy)
    layers = {"pi.0": policy.mlp_extractor.policy_net[0], "vf.1": policy.mlp_extractor.value_net[2]}
    for name, layer in layers.items():
        expected = reference.gradient_scores(layer.weight.grad.unsqueeze(0))
        th.testing.assert_close(dormant_scores(found[name]), th.tensor(expected))


@pytest.mark.parametrize(
    ("algo", "placement"), [("PPO", "big"), ("PPO", "final"), ("DQN", "middle"), ("SAC", "all")]
)
def test_every_hidden_layer_that_linear_weights_lead_into_has_a_measure(algo, placement):
    model = trained(algo, "MoeMlpPolicy", placement=placement, num_experts=2)
    shapes = {name: tuple(each.shape) for name, each in gradient_activity(model.policy).items()}
    layers = {layer.name: layer for layer in hidden_layers(model.policy)}
    assert set(shapes) == set(layers)
    assert all(shapes[name][0] == layer.num_experts for name, layer in layers.items())


class Normed(BaseFeaturesExtractor):
    """Values with three axes that no weights lead to, and an activation behind a normalization."""

    def __init__(self, space):
        super().__init__(space, 5)
        of_three_axes = nn.Unflatten(1, (1, 5)), nn.ReLU(), nn.Flatten()
        self.net = nn.Sequential(*of_three_axes, nn.Linear(5, 5), nn.LayerNorm(5), nn.ReLU())

    def forward(self, obs):
        return self.net(obs)


def test_a_layer_behind_a_normalization_has_a_measure_too_and_one_without_known_units_has_none():
    model = trained(features_extractor_class=Normed)
    found = gradient_activity(model.policy)
    expected = model.policy.features_extractor.net[3].weight.grad.abs().mean(1)
    th.testing.assert_close(found["features.1"].squeeze(0), expected)
    assert "features.0" not in {**found, **policy_activations(model.policy, batch(model))}


def test_the_share_of_inactive_units_is_counted_at_every_threshold():
    policy = trained().policy
    layer = policy.mlp_extractor.policy_net[0]
    # Eight units: three without gradient, four with 1, one with 12: the mean is 2.
    layer.weight.grad = th.zeros_like(layer.weight)
    layer.weight.grad[3:] = 1.0
    layer.weight.grad[7] = -12.0
    found = measure_gradients(policy, taus=(0.0, 0.4, 0.6))
    assert found["inactive/pi.0"] == found["inactive@0.4/pi.0"] == 3 / 8
    assert found["inactive@0.6/pi.0"] == 7 / 8


def test_a_critics_gradient_is_that_of_its_own_step():
    """The actor's loss leaves its own in ``.grad`` of the critics."""
    callback = PlasticityCallback(
        10**6, ntk_size=0, probe=[np.zeros((4, 5), np.float32)], by_gradient=True
    )
    model = trained("SAC")
    seen = {}

    def note(optimizer, *args):
        weight = model.critic.qf0[0].weight
        seen["own"] = weight.grad.abs().mean(1)

    model.critic.optimizer.register_step_pre_hook(note)
    model.learn(16, callback)
    own = dormant_scores(seen["own"])
    assert callback.diagnostics["inactive@0.1/qf0.0"][-1] == float((own <= 0.1).double().mean())
    left = dormant_scores(model.critic.qf0[0].weight.grad.abs().mean(1))
    assert not th.allclose(own, left)


def test_redo_starts_those_anew_that_no_gradient_reached():
    model = trained()
    layer = model.policy.mlp_extractor.policy_net[0]
    layer.weight.grad[:] = 1.0
    layer.weight.grad[2] = 0.0
    before = layer.weight.detach().clone()
    activity = {"pi.0": gradient_activity(model.policy)["pi.0"]}
    assert redo(model.policy, batch(model), 0.0, activity) == {"pi.0": 1}
    changed = (layer.weight != before).any(1)
    assert changed.tolist() == [i == 2 for i in range(8)]
    assert not model.policy.mlp_extractor.policy_net[2].weight[:, 2].any()
