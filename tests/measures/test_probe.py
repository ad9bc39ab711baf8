"""Reading the hidden layers of real policies and of mixtures."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from torch import nn
from watched import batch, outputs

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.layers import experts
from sb3_moe.measures import measure_ntk, ntk_rank, policy_activations, redo


def test_what_is_read_is_what_the_network_computes():
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
    obs = batch(model)
    read = policy_activations(model.policy, obs)["pi.0"].values_ETHP[0, :, :, 0]
    th.testing.assert_close(read, model.policy.mlp_extractor.policy_net(th.as_tensor(obs)))


def small_cnn(**kwargs):
    env = gym.make("CartPole-v1")
    env.observation_space = gym.spaces.Box(0, 1, (6, 6, 3), np.uint8)
    return PPO("MoeCnnPolicy", env, policy_kwargs=kwargs, device="cpu", seed=0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tokens": "conv", "num_slots": 2},
        {"tokens": "conv", "router": "expert_choice"},
        {"placement": "big"},
    ],
    ids=str,
)
def test_experts_one_by_one_read_the_same(kwargs, monkeypatch):
    model = small_cnn(**kwargs)
    obs = batch(model, 8)
    whole = policy_activations(model.policy, obs)
    monkeypatch.setattr(experts, "WIDE_UP_TO", {"cpu": -math.inf})
    parts = policy_activations(model.policy, obs)
    assert set(parts) == set(whole)
    for name, one in whole.items():
        th.testing.assert_close(parts[name].values_ETHP, one.values_ETHP)


def test_a_token_that_is_not_sent_to_an_expert_is_zeros_there_and_does_not_count():
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"router": "top_k"}, device="cpu")
    obs = batch(model, 40)
    read = policy_activations(model.policy, obs)["pi.1"]
    chosen_T = model.policy.routing(obs)["pi.middle"].experts_BNk[:, 0, 0]
    for k in range(4):
        silent_T = read.values_ETHP[k].abs().sum(dim=(1, 2)) == 0
        assert (silent_T == (chosen_T != k)).all()
        mean_H = read.values_ETHP[k, ~silent_T].abs().mean((0, 2)).nan_to_num()
        th.testing.assert_close(read.activity_EH[k], mean_H)


def test_a_critics_kernel_counts_its_own_features_extractor():
    env = gym.make("Pendulum-v1")
    env.observation_space = gym.spaces.Box(0, 1, (6, 6, 3), np.uint8)
    kwargs = {"net_arch": [8]}
    model = SAC("MoeCnnPolicy", env, policy_kwargs=kwargs, buffer_size=8, device="cpu")
    obs, critic = batch(model, 6), model.policy.critic
    parameters = [*critic.qf0.parameters(), *critic.features_extractor.parameters()]
    expected = ntk_rank(outputs(model.policy, obs)["qf0"], parameters)
    measured = measure_ntk(model.policy, [obs], size=6)["ntk_rank/qf0"]
    assert measured == pytest.approx(expected)
    bare = ntk_rank(outputs(model.policy, obs)["qf0"], list(critic.qf0.parameters()))
    assert measured != pytest.approx(bare)


@pytest.mark.parametrize(
    "space", [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3)], ids=str
)
def test_an_actor_of_several_discrete_actions_is_measured_by_their_probability(space):
    env = gym.make("CartPole-v1")
    env.action_space = space
    model = PPO("MlpPolicy", env, device="cpu")
    obs = batch(model)
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(obs)[0])
    log_prob_T = distribution.log_prob(distribution.mode())
    th.testing.assert_close(outputs(model.policy, obs)["pi"], log_prob_T)


class OwnReLU(nn.ReLU):
    """A class of the user's own, which each expert of a stack has for itself."""


@pytest.mark.parametrize(("router", "placement"), [("top_k", "middle"), ("soft", "big")])
def test_an_activation_of_the_users_own_is_read_and_restarted_as_torchs(router, placement):
    found = []
    for activation in (nn.ReLU, OwnReLU):
        kwargs = {"router": router, "placement": placement, "activation_fn": activation}
        model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=0, device="cpu")
        obs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
        read = policy_activations(model.policy, obs)
        found.append(({name: a.values_ETHP for name, a in read.items()}, redo(model.policy, obs)))
    th.testing.assert_close(found[1], found[0], rtol=0, atol=0)
