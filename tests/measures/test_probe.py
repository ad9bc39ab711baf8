"""Reading the hidden layers of real policies and of mixtures."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.layers import (
    ExpertChoiceMoE,
    RouterInput,
    SoftMoE,
    UniformMoE,
    experts,
    mlp_experts,
)
from sb3_moe.measures import (
    hidden_layers,
    measure_ntk,
    measure_weights,
    ntk_rank,
    policy_activations,
    redo,
)
from sb3_moe.measures.activations import as_ETHP, recording, row_gates
from sb3_moe.measures.experts import expert_outputs
from sb3_moe.measures.plasticity import tower_outputs


def batch(model, n=5):
    return np.stack([model.observation_space.sample() for _ in range(n)])


@pytest.mark.parametrize(
    ("algo", "alias", "env_id", "towers"),
    [
        (PPO, "MlpPolicy", "CartPole-v1", ["pi", "vf"]),
        (RecurrentPPO, "MlpLstmPolicy", "CartPole-v1", ["pi", "vf"]),
        (DQN, "MlpPolicy", "CartPole-v1", ["qf"]),
        (QRDQN, "MlpPolicy", "CartPole-v1", ["qf"]),
        (SAC, "MlpPolicy", "Pendulum-v1", ["pi", "qf0", "qf1"]),
        (TD3, "MlpPolicy", "Pendulum-v1", ["pi", "qf0", "qf1"]),
    ],
)
def test_every_hidden_layer_of_every_tower_is_read(algo, alias, env_id, towers):
    options = {} if issubclass(algo, OnPolicyAlgorithm) else {"buffer_size": 10}
    model = algo(alias, env_id, policy_kwargs={"net_arch": [8, 6]}, device="cpu", **options)
    shapes = {
        name: tuple(a.values_ETHP.shape)
        for name, a in policy_activations(model.policy, batch(model)).items()
    }
    expected = {f"{tower}.{i}": (1, 5, (8, 6)[i], 1) for tower in towers for i in (0, 1)}
    assert shapes == expected


def test_what_is_read_is_what_the_tower_computes():
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [8]}, device="cpu")
    obs = batch(model)
    read = policy_activations(model.policy, obs)["pi.0"].values_ETHP[0, :, :, 0]
    th.testing.assert_close(read, model.policy.mlp_extractor.policy_net(th.as_tensor(obs)))


def test_the_policys_mode_is_left_as_it_was():
    model = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    model.policy.set_training_mode(True)
    policy_activations(model.policy, batch(model))
    assert model.policy.training


def test_a_policy_without_hidden_layers_says_which_activations_are_known():
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": []}, device="cpu")
    with pytest.raises(
        ValueError, match=r"a hidden layer whose activation is one of .*Tanh, got none"
    ):
        policy_activations(model.policy, batch(model))


def read_layer(layer, x):
    """Return (rows' hidden values, rows' outputs, layer's output, rows' gates)."""
    with recording({"act": layer.experts.layers[1]}) as outputs, th.no_grad():
        y, routing = layer(x)
    values_ETHP = as_ETHP(outputs["act"][0], layer.num_experts)
    rows_ETO = layer.experts.last(values_ETHP[..., 0])
    return rows_ETO, y, row_gates(layer, routing)


SEES = RouterInput(features=4, num_experts=3, num_tokens=6)


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("slots", [1, 2])
def test_gates_of_rows_make_up_a_soft_layers_output(tokens, slots):
    layer = SoftMoE(mlp_experts(3, 4, 5, 2), SEES, num_slots=slots)
    x = th.randn(7, 4) if tokens == 1 else th.randn(7, tokens, 4)
    rows_ETO, y, gates_TE = read_layer(layer, x)
    weighted_TO = th.einsum("eto,te->to", rows_ETO, gates_TE)
    per_sample_BO = weighted_TO.view(7, -1, 2).sum(1)
    th.testing.assert_close(per_sample_BO, y.view(7, tokens, 2).mean(1))


def test_gates_of_rows_make_up_an_expert_choice_layers_output():
    layer = ExpertChoiceMoE(mlp_experts(3, 4, 5, 2), SEES, top_k=2)
    rows_ETO, y_BNO, gates_TE = read_layer(layer, th.randn(7, 6, 4))
    weighted_TO = th.einsum("eto,te->to", rows_ETO, gates_TE)
    th.testing.assert_close(weighted_TO.view(7, -1, 2).sum(1), y_BNO.sum(1))


def test_a_stacked_layer_reads_the_same_as_the_plain_experts_it_stands_for():
    layer, x_TI = UniformMoE(mlp_experts(3, 4, 5, 2), SEES), th.randn(9, 4)
    with recording({"act": layer.experts.layers[1]}) as outputs, th.no_grad():
        layer(x_TI)
    values_ETHP = as_ETHP(outputs["act"][0], 3)
    for k in range(3):
        th.testing.assert_close(values_ETHP[k, :, :, 0], layer.experts.expert(k)[:2](x_TI))


def small_cnn(**kwargs):
    env = gym.make("CartPole-v1")
    env.observation_space = gym.spaces.Box(0, 1, (6, 6, 3), np.uint8)
    return PPO("MoeCnnPolicy", env, policy_kwargs=kwargs, device="cpu", seed=0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tokens": "conv", "num_slots": 2},
        {"tokens": "conv", "router": "top_k"},
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
        assert (parts[name].gates_TE is None) == (one.gates_TE is None)
        if one.gates_TE is not None:
            assert one.gates_TE.shape == one.values_ETHP.shape[1::-1]
            th.testing.assert_close(parts[name].gates_TE, one.gates_TE)


@pytest.mark.parametrize("algo", [DQN, SAC, TD3, QRDQN])
def test_mixtures_of_every_algorithm_are_read(algo):
    env_id = "CartPole-v1" if algo in (DQN, QRDQN) else "Pendulum-v1"
    model = algo("MoeMlpPolicy", env_id, policy_kwargs={"net_arch": [8, 6]}, buffer_size=10)
    read = policy_activations(model.policy, batch(model))
    assert all(each.values_ETHP.shape[0] == 4 for name, each in read.items() if name[-1] == "1")
    assert all(each.gates_TE is not None for name, each in read.items() if name[-1] == "1")
    assert measure_weights(model.policy)
    ranks = measure_ntk(model.policy, [batch(model)], size=4)
    assert {name.removeprefix("ntk_rank/") for name in ranks} == {n.split(".")[0] for n in read}


def test_a_token_that_is_not_sent_to_an_expert_counts_as_zeros_there():
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"router": "top_k"}, device="cpu")
    obs = batch(model, 40)
    read = policy_activations(model.policy, obs)["pi.1"]
    chosen_T = model.policy.routing(obs)["pi.middle"].experts_BNk[:, 0, 0]
    for k in range(4):
        silent_T = read.values_ETHP[k].abs().sum(dim=(1, 2)) == 0
        assert (silent_T == (chosen_T != k)).all()


def test_a_critics_kernel_counts_its_own_features_extractor():
    env = gym.make("Pendulum-v1")
    env.observation_space = gym.spaces.Box(0, 1, (6, 6, 3), np.uint8)
    kwargs = {"net_arch": [8]}
    model = SAC("MoeCnnPolicy", env, policy_kwargs=kwargs, buffer_size=8, device="cpu")
    obs, critic = batch(model, 6), model.policy.critic
    parameters = [*critic.qf0.parameters(), *critic.features_extractor.parameters()]
    expected = ntk_rank(tower_outputs(model.policy, obs)["qf0"], parameters)
    measured = measure_ntk(model.policy, [obs], size=6)["ntk_rank/qf0"]
    assert measured == pytest.approx(expected)
    bare = ntk_rank(tower_outputs(model.policy, obs)["qf0"], list(critic.qf0.parameters()))
    assert measured != pytest.approx(bare)


def test_a_recurrent_policys_kernel_counts_the_lstm():
    kwargs = {"net_arch": [8], "lstm_hidden_size": 8}
    model = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    policy, obs = model.policy, batch(model, 6).clip(-3, 3)
    parts = [policy.lstm_critic, policy.mlp_extractor.value_net, policy.value_net]
    parameters = [parameter for part in parts for parameter in part.parameters()]
    expected = ntk_rank(tower_outputs(policy, obs)["vf"], parameters)
    assert measure_ntk(policy, [obs], size=6)["ntk_rank/vf"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "space", [gym.spaces.MultiDiscrete([2, 3]), gym.spaces.MultiBinary(3)], ids=str
)
def test_an_actor_of_several_discrete_actions_is_measured_by_their_probability(space):
    env = gym.make("CartPole-v1")
    env.action_space = space
    model = PPO("MlpPolicy", env, device="cpu")
    obs = batch(model).clip(-3, 3)
    distribution = model.policy.get_distribution(model.policy.obs_to_tensor(obs)[0])
    log_prob_T = distribution.log_prob(distribution.mode())
    th.testing.assert_close(tower_outputs(model.policy, obs)["pi"], log_prob_T)


class OwnReLU(nn.ReLU):
    """A class of the user's own, which each expert of a stack has for itself."""


class AroundReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ReLU()

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("own", [OwnReLU, AroundReLU])
@pytest.mark.parametrize(
    ("router", "placement"), [("soft", "middle"), ("top_k", "middle"), ("soft", "big")]
)
def test_an_activation_of_the_users_own_is_read_and_restarted_as_torchs(own, router, placement):
    found = []
    for activation in (nn.ReLU, own):
        kwargs = {"router": router, "placement": placement, "activation_fn": activation}
        model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=kwargs, seed=0, device="cpu")
        obs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
        read = policy_activations(model.policy, obs)
        found.append(({name: a.values_ETHP for name, a in read.items()}, redo(model.policy, obs)))
    th.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class Series(BaseFeaturesExtractor):
    """A convolution over time."""

    def __init__(self, space):
        super().__init__(space, 6)
        self.net = nn.Sequential(nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten())

    def forward(self, obs):
        return self.net(obs[:, None])


def test_layers_whose_axis_of_units_is_not_known_are_left_out():
    kwargs = {"features_extractor_class": Series}
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")
    found = policy_activations(model.policy, batch(model))
    assert {"features.0"} == {la.name for la in hidden_layers(model.policy)} - set(found)
    redo(model.policy, batch(model))


class Normed(nn.Sequential):
    def __init__(self, in_features, width, out_features, activation):
        first = nn.Linear(in_features, width)
        super().__init__(first, nn.BatchNorm1d(width), activation, nn.Linear(width, out_features))


def test_looking_at_what_experts_say_changes_none_of_their_running_averages():
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"expert": Normed}, device="cpu")
    model.policy.set_training_mode(True)
    before = {name: each.clone() for name, each in model.policy.named_buffers()}
    expert_outputs(model.policy, batch(model))
    assert before
    assert all(th.equal(each, before[name]) for name, each in model.policy.named_buffers())
