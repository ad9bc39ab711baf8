"""Images: encoders by name, the map and its tokens, experts that encode for themselves."""

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN
from torch import nn

from sb3_moe.policies.extractors import TaskExtractor

MULTI_CNN = [
    ("PPO", "MoeMultiInputPolicy"),
    ("SAC", "MoeCnnPolicy"),
    ("QRDQN", "MoeCnnPolicy"),
    ("RecurrentPPO", "MoeCnnLstmPolicy"),
]


def convs_of(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(("algorithm", "alias"), MULTI_CNN)
def test_small_images_get_the_minatar_encoder_and_one_hidden_layer_without_being_told(
    algorithm, alias
):
    policy = arena.make(algorithm, alias).policy
    extractor = next(m for m in policy.modules() if isinstance(m, TaskExtractor))
    assert extractor.encoder == "minatar"
    assert extractor.map_shape == (16, 8, 8)
    assert len(convs_of(extractor)) == 1
    if "Lstm" not in alias:
        for layer in policy.moe_layers().values():
            assert layer.experts.layers[0].out_features == 512


@pytest.mark.parametrize("placement", ["none", "middle", "big"])
def test_a_policy_for_images_refuses_flat_observations(placement):
    message = r"MoeCnnPolicy, needs an image .*, got Box\(-1.0, 1.0, \(5,\).* 'MoeMlpPolicy'"
    with pytest.raises(ValueError, match=message):
        arena.make("PPO", "MoeCnnPolicy", arena.Arena(arena.FLAT), placement=placement)
    kwargs = {"features_extractor_class": FlattenExtractor}
    if placement != "big":
        arena.make("PPO", "MoeCnnPolicy", arena.Arena(arena.FLAT), placement=placement, **kwargs)


def test_the_mlp_policy_flattens_images():
    env = arena.default_env("PPO", "MoeCnnPolicy")
    policy = arena.make("PPO", "MoeMlpPolicy", env).policy
    assert policy.features_extractor.encoder == "flat"
    assert policy.features_extractor.features_dim == 400
    # SB3's two hidden layers of 64.
    assert policy.moe_layers()["pi.middle"].experts.out_features == 64


def test_images_that_sb3_is_told_not_to_scale_have_its_rule_for_where_channels_are():
    env, shapes = arena.Arena(spaces.Box(0, 1, (40, 50, 40), np.float32)), []
    for scales in (True, False):
        model = arena.make("PPO", "MoeCnnPolicy", env, normalize_images=scales, net_arch=[8])
        shapes.append(model.policy.features_extractor.map_shape)
    assert shapes == [(64, 1, 2), (64, 2, 1)]


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_conv_tokens_are_the_positions_of_the_map(algorithm):
    model = arena.train(arena.make(algorithm, "MoeCnnPolicy", tokens="conv", num_slots=2))
    for routing in model.policy.routing(arena.observe(model, 3)).values():
        assert routing.gates_BNE.shape == (3, 64, 4)
        assert routing.logits_BNE.shape == (3, 64, 4, 2)
        assert routing.load_E.sum().item() == pytest.approx(1)


def test_critics_with_conv_tokens_tell_actions_apart():
    policy = arena.make("SAC", "MoeCnnPolicy", tokens="conv").policy
    obs, _ = policy.obs_to_tensor(arena.observe(arena.make("SAC", "MoeCnnPolicy"), 2))
    with th.no_grad():
        low = policy.critic(obs, th.full((2, 2), -1.0))[0]
        high = policy.critic(obs, th.full((2, 2), 1.0))[0]
    assert (low - high).abs().min() > 1e-5


@pytest.mark.parametrize(("algorithm", "alias"), [p for p in MULTI_CNN if "Lstm" not in p[1]])
def test_big_experts_hold_the_encoder_and_no_other_is_left(algorithm, alias):
    policy = arena.make(algorithm, alias, placement="big", net_arch=[8]).policy
    extractors = [m for m in policy.modules() if isinstance(m, TaskExtractor)]
    assert extractors
    assert all(not list(each.parameters()) for each in extractors)
    for layer in policy.moe_layers().values():
        assert len(convs_of(layer.experts.expert(0))) == 1
        assert len(layer.experts.expert(0)) == 4


@pytest.mark.parametrize("encoder", ["flat", "minatar", "impala"])
def test_a_big_actor_equals_the_gated_sum_of_plain_networks(encoder):
    policy = arena.make(
        "PPO",
        "MoeCnnPolicy",
        placement="big",
        net_arch=[8],
        features_extractor_kwargs={"encoder": encoder},
    ).policy
    image = th.rand(3, 10, 10, 4)
    features = policy.extract_features(image)
    experts = th.stack([policy.get_expert("pi", k)(features) for k in range(4)], 1)
    gates = (features @ policy.moe_layers()["pi.big"].router.weight_RK).softmax(-1)
    expected = (gates.unsqueeze(-1) * experts).sum(1)
    th.testing.assert_close(policy.action_net(features), expected)


def test_an_extractor_that_says_nothing_of_tasks_or_maps_has_neither():
    model = arena.make("PPO", "MoeMlpPolicy", features_extractor_class=FlattenExtractor)
    assert isinstance(model.policy.features_extractor, FlattenExtractor)
    arena.train(model)
    env = arena.Arena(arena.SB3_IMAGE)
    kwargs = {"features_extractor_class": NatureCNN, "net_arch": [8]}
    arena.train(arena.make("PPO", "MoeCnnPolicy", env, **kwargs))
    with pytest.raises(ValueError, match="`tokens`='conv' needs a feature map"):
        arena.make("PPO", "MoeCnnPolicy", env, tokens="conv", **kwargs)
