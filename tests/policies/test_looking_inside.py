"""policy.routing, policy.get_expert and the names of layers: looking changes nothing."""

import re

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC

import sb3_moe
from sb3_moe.policies.networks import networks_of

NAMES = {
    ("PPO", "middle"): ["pi.middle", "vf.middle"],
    ("PPO", "all"): ["pi.all.0", "pi.all.1", "pi.head", "vf.all.0", "vf.all.1", "vf.head"],
    ("PPO", "big"): ["pi.big", "vf.big"],
    ("DQN", "all"): ["qf.all.0", "qf.all.1", "qf.head"],
    ("QRDQN", "big"): ["qf.big"],
    ("TD3", "middle"): ["pi.middle", "qf0.middle", "qf1.middle"],
    ("SAC", "big"): ["pi.big", "qf0.big", "qf1.big"],
    # Mean and standard deviation are heads of their own.
    ("SAC", "final"): ["pi.mu", "pi.log_std", "qf0.final", "qf1.final"],
    ("RecurrentPPO", "middle"): ["pi.middle", "vf.middle"],
}
TWO = [8, 8]


def alias_of(algorithm):
    return "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"


def make(algorithm, **options):
    return arena.make(algorithm, alias_of(algorithm), **{"net_arch": TWO, **options})


@pytest.mark.parametrize(("algorithm", "placement"), NAMES)
def test_layers_are_named_by_network_and_placement(algorithm, placement):
    model = make(algorithm, placement=placement)
    assert list(model.policy.moe_layers()) == NAMES[algorithm, placement]
    routing = model.policy.routing(arena.observe(model))
    assert set(routing) == set(NAMES[algorithm, placement])


def modes(policy):
    return [module.training for module in policy.modules()]


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "TD3", "CrossQ", "RecurrentPPO"])
def test_looking_changes_no_mode_no_weight_and_no_bias(algorithm):
    model = arena.train(make(algorithm, router="top_k", bias_rate=0.1))
    policy = model.policy
    before_modes = modes(policy)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    biases = [t for name, t in before.items() if "running_bias" in name]
    assert any(before_modes)
    assert any(bias.any() for bias in biases)
    policy.routing(arena.observe(model))
    policy.get_expert("pi" if "pi" in networks_of(policy).modules() else "qf", 0)
    assert modes(policy) == before_modes
    for name, tensor in policy.state_dict().items():
        assert th.equal(tensor, before[name]), name
    for layer in policy.moe_layers().values():
        assert not layer._forward_hooks


def test_routing_takes_observations_as_an_environment_gives_them():
    model = make("PPO")
    obs = arena.observe(model, 3)
    batch = model.policy.routing(obs)["pi.middle"].gates_BNE
    single = model.policy.routing(th.as_tensor(obs[1]))["pi.middle"].gates_BNE
    th.testing.assert_close(single, batch[1:2])
    env = arena.Arena(arena.with_task(arena.FLAT))
    policy = arena.make("PPO", "MoeMultiInputPolicy", env, net_arch=TWO).policy
    obs = {"obs": th.rand(3, 5), "task_id": th.arange(3)}
    batch = policy.routing(obs)["pi.middle"].gates_BNE
    alone = policy.routing({key: each[2] for key, each in obs.items()})["pi.middle"].gates_BNE
    th.testing.assert_close(alone, batch[2:])


def test_routing_of_images_scales_and_transposes_as_predicting_does():
    model = arena.make("PPO", "MoeCnnPolicy", arena.Arena(arena.SB3_IMAGE), net_arch=[8])
    obs = arena.observe(model, 2)
    tensors, _ = model.policy.obs_to_tensor(obs)
    expected = model.policy.extract_features(tensors)
    weight = model.policy.moe_layers()["pi.middle"].router.weight_RK
    gates = model.policy.routing(obs)["pi.middle"].gates_BNE[:, 0]
    th.testing.assert_close(gates, (expected @ weight).softmax(-1).detach())


@pytest.mark.parametrize("shape", [(2,), (2, 3)])
def test_actions_are_given_as_the_environment_takes_them(shape):
    env = arena.Arena(arena.FLAT, spaces.Box(-2, 2, shape))
    model = SAC("MoeMlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0)
    obs = arena.observe(model, 3)
    own = model.predict(obs, deterministic=True)[0]
    asked = model.policy.routing(obs, own)["qf0.middle"].gates_BNE
    th.testing.assert_close(model.policy.routing(obs)["qf0.middle"].gates_BNE, asked)
    policy, obs = make("PPO").policy, arena.observe(make("PPO"), 3)  # which judges none
    seen = policy.routing(obs, np.zeros(3))["vf.middle"].gates_BNE
    th.testing.assert_close(policy.routing(obs)["vf.middle"].gates_BNE, seen)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_actions_of_another_shape_are_refused(shape):
    model = make("SAC")
    text = re.escape(f"`actions` must have the shape (2,), alone or in rows, got {shape}")
    with pytest.raises(ValueError, match=text):
        model.policy.routing(arena.observe(model, 1), np.zeros(shape, np.float32))


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "TD3"])
def test_an_expert_comes_as_plain_modules_that_compute_the_same(algorithm):
    options = {"placement": "big", "router": "top_k", "num_experts": 3}
    model = make(algorithm, **options)
    policy = model.policy
    obs = th.as_tensor(arena.observe(model, 10))
    name = "qf" if algorithm == "DQN" else "pi"
    network = {"PPO": "action_net", "DQN": "q_net", "TD3": "actor"}[algorithm]
    after = th.nn.Tanh() if algorithm == "TD3" else th.nn.Identity()
    out = getattr(policy, network)(obs)
    routing = policy.routing(obs)[f"{name}.big"]
    for i, k in enumerate(routing.experts_BNk[:, 0, 0].tolist()):
        expected = after(routing.gates_BNE[i, 0, k] * policy.get_expert(name, k)(obs[i]))
        th.testing.assert_close(out[i], expected)


def test_no_such_expert_or_network_is_an_error():
    policy = make("SAC", placement={"pi": "none"}, num_experts=3).policy
    with pytest.raises(ValueError, match=r"`k` must be in \[0, num_experts=3\) of qf0.*, got 3"):
        policy.get_expert("qf0", 3)
    with pytest.raises(TypeError, match="`k` must be an int, got 'CartPole'"):
        policy.get_expert("qf0", "CartPole")
    with pytest.raises(ValueError, match=r"`network` must be one of \['qf0', 'qf1'\], .* got 'pi'"):
        policy.get_expert("pi", 0)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ({"num_expert": 4}, "'num_expert'; did you mean 'num_experts'"),
        ({"shape": 4}, "'shape'; what a router or an expert of your own takes goes into router_kw"),
        ({"encoder": "impala"}, "'encoder'; it belongs in features_extractor_kwargs"),
    ],
)
def test_a_misspelt_argument_is_named_with_a_cure(argument, hint):
    with pytest.raises(TypeError, match=f"MoeMlpPolicy got an unexpected keyword argument {hint}"):
        PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=argument)


def test_routing_of_a_model_is_that_of_its_policy_and_others_are_refused():
    model = make("SAC")
    obs = arena.observe(model)
    for given in (model, model.policy):
        found = sb3_moe.routing(given, obs)
        assert list(found) == list(model.policy.routing(obs))
        for name, routing in model.policy.routing(obs).items():
            assert th.equal(routing.gates_BNE, found[name].gates_BNE)
    with pytest.raises(TypeError, match=r"`model` must have one of .*, got ActorCriticPolicy; "):
        sb3_moe.routing(arena.make("PPO", "MlpPolicy"), np.zeros((1, 5)))
