"""Which layers read a feature map: restarting a silent one changes no network's output."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from torch import nn
from watched import outputs

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.layers.stacked import StackedConv2d
from sb3_moe.measures import redo

IMPALA = {"features_extractor_kwargs": {"encoder": "impala"}}


def on_images(algo, policy, *, task=False, **kwargs):
    """Build a model that sees 6x6 images, or with a task id beside them."""
    image = gym.spaces.Box(0, 1, (6, 6, 3), np.uint8)
    space = gym.spaces.Dict({"obs": image, "task_id": gym.spaces.Discrete(2)}) if task else image
    env = gym.make("CartPole-v1" if algo in (PPO, RecurrentPPO) else "Pendulum-v1")
    env = gym.wrappers.TransformObservation(env, lambda _: space.sample(), space)
    options = {} if algo in (PPO, RecurrentPPO) else {"buffer_size": 8}
    kwargs = {"net_arch": [8], "activation_fn": nn.ReLU} | kwargs
    return algo(policy, env, policy_kwargs=kwargs, device="cpu", seed=0, **options)


def images(model, n=32):
    """Return a batch of images, of two tasks."""
    space = model.observation_space
    image = space["obs"] if isinstance(space, gym.spaces.Dict) else space
    batch_BHWC = np.random.default_rng(1).integers(0, 2, (n, *image.shape), np.uint8)
    if image is space:
        return batch_BHWC
    return {"obs": batch_BHWC, "task_id": np.arange(n) % 2}


def silence_maps(network, maps=3):
    """Silence some feature maps of every convolution by a bias that no image overcomes."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | StackedConv2d):
            bias = module.bias if isinstance(module, nn.Conv2d) else module.bias_EO
            bias.data[..., :maps] = -1e2


@pytest.mark.parametrize(
    ("algo", "policy", "kwargs"),
    [
        (PPO, "MoeCnnPolicy", {"tokens": "feature"}),
        (PPO, "MoeCnnPolicy", {"tokens": "conv"}),
        (PPO, "MoeMultiInputPolicy", {"tokens": "conv", "router": "top_k"}),
        (PPO, "MoeCnnPolicy", IMPALA),
        (PPO, "MoeCnnPolicy", {"placement": "big", "num_experts": 2, **IMPALA}),
        (PPO, "MoeCnnPolicy", {"placement": {"pi": "big", "vf": "none"}}),
        (RecurrentPPO, "MoeCnnLstmPolicy", {"lstm_hidden_size": 300}),
        (RecurrentPPO, "MoeCnnLstmPolicy", {"lstm_hidden_size": 8}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_silent_feature_map_is_never_mistaken_for_an_input_of_another_layer(algo, policy, kwargs):
    model = on_images(algo, policy, task="MultiInput" in policy, **kwargs)
    silence_maps(model.policy)
    obs = images(model)
    before = outputs(model.policy, obs)
    redo(model.policy, obs, tau=0.0)
    th.testing.assert_close(outputs(model.policy, obs), before)


def test_tokens_of_positions_lose_the_weights_of_silent_maps_alone():
    model = on_images(PPO, "MoeMultiInputPolicy", task=True, tokens="conv")
    silence_maps(model.policy)
    layer = model.policy.moe_layers()["pi.middle"]
    counts = redo(model.policy, images(model), tau=0.0)
    assert counts["features.0"] >= 3
    silent_I = (layer.experts.layers[0].weight_EOI == 0).all(dim=(0, 1))
    # 16 maps and, behind them, the one-hot task id.
    assert len(silent_I) == 16 + 2
    assert silent_I.sum() == counts["features.0"]
    assert silent_I[:3].all()
    assert not silent_I[16:].any()


@pytest.mark.parametrize("algo", [PPO, SAC, TD3])
def test_a_silent_map_of_one_extractor_leaves_those_who_see_through_another_alone(algo):
    model = on_images(algo, "MoeCnnPolicy", share_features_extractor=False)
    own = model.policy if algo is PPO else model.policy.actor
    silence_maps(own.features_extractor)
    obs = images(model)
    before = outputs(model.policy, obs)
    counts = redo(model.policy, obs, tau=0.0)
    assert counts["features.0"] >= 3
    th.testing.assert_close(outputs(model.policy, obs), before)
