"""New starts for dormant neurons, heads and whole networks: what changes, and what does not."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC
from torch import nn
from watched import batch, outputs, silence

import sb3_moe
from sb3_moe.callbacks.probing import hold_router
from sb3_moe.layers.stacked import StackedLinear
from sb3_moe.measures import (
    measure_layers,
    policy_activations,
    redo,
    reset_heads,
    shrink_and_perturb,
)
from sb3_moe.measures.hidden import heads
from sb3_moe.measures.resets import fresh_copy, moments, resettable_layers
from sb3_moe.policies.networks import networks_of

KINDS = [
    ("MlpPolicy", {}),
    ("MoeMlpPolicy", {}),
    ("MoeMlpPolicy", {"router": "top_k"}),
    ("MoeMlpPolicy", {"placement": "big", "num_experts": 3}),
]
CONV_KINDS = [("MoeCnnPolicy", {"placement": "middle"}), ("MoeCnnPolicy", {"placement": "big"})]


def trained(policy, kwargs, algo=PPO):
    """Train for a few steps, so that Adam's moments are there."""
    kwargs = {"net_arch": [12, 10], "activation_fn": nn.ReLU} | kwargs
    env = gym.make("CartPole-v1" if algo is not SAC else "Pendulum-v1")
    options = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
    if algo is not PPO:
        options = {"learning_starts": 8, "buffer_size": 64}
    if policy == "MoeCnnPolicy":
        env = gym.wrappers.TransformObservation(
            env,
            lambda _: np.random.default_rng(0).integers(0, 2, (6, 6, 3), np.uint8),
            gym.spaces.Box(0, 1, (6, 6, 3), np.uint8),
        )
    model = algo(policy, env, policy_kwargs=kwargs, device="cpu", seed=0, **options)
    model.learn(32)
    return model


@pytest.mark.parametrize(("policy", "kwargs"), [*KINDS, *CONV_KINDS], ids=str)
def test_at_tau_zero_only_dormant_units_change_and_the_function_does_not(policy, kwargs):
    model = trained(policy, kwargs)
    silence(model.policy)
    obs, before = batch(model, 64), fresh_copy(model.policy)
    before.load_state_dict(model.policy.state_dict())
    counts = redo(model.policy, obs, tau=0.0)
    assert all(count >= 3 for count in counts.values())
    th.testing.assert_close(outputs(model.policy, obs), outputs(before, obs))
    activations = policy_activations(before, obs)
    for was, now in zip(resettable_layers(before), resettable_layers(model.policy), strict=True):
        assert was.name == now.name
        dormant_EH = activations[was.name].activity_EH == 0
        for parameter, new in zip(was.feeder.parameters(), now.feeder.parameters(), strict=True):
            assert (parameter != new).any()
        check_rows(was.feeder, now.feeder, dormant_EH)


def check_rows(old, new, dormant_EH):
    """Compare what leads into awake units, layer by layer, as plain matrices."""
    if isinstance(old, StackedLinear):
        old_EOI, new_EOI = old.weight_EOI, new.weight_EOI
    elif hasattr(old, "weight_EOIhw"):
        old_EOI, new_EOI = old.weight_EOIhw.flatten(2), new.weight_EOIhw.flatten(2)
    else:
        old_EOI, new_EOI = old.weight.flatten(1)[None], new.weight.flatten(1)[None]
    same = old_EOI == new_EOI
    # An awake unit may lose what it gets from a dormant one before it: those weights are zero.
    assert (same | (new_EOI == 0))[~dormant_EH].all()
    assert not same[dormant_EH].all()


class TwoTasks(gym.Env):
    """Random observations of two tasks."""

    observation_space = gym.spaces.Dict(
        {"obs": gym.spaces.Box(-1, 1, (5,)), "task_id": gym.spaces.Discrete(2)}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), float(action), False, False, {}


def one_expert_per_task(router):
    """Train a little, with an expert's unit 1 silent in both."""
    kwargs = {"net_arch": [8], "activation_fn": nn.ReLU, "router": router, "num_experts": 2}
    options = {"n_steps": 16, "batch_size": 16, "device": "cpu", "seed": 0}
    model = PPO("MoeMultiInputPolicy", TwoTasks(), policy_kwargs=kwargs, **options).learn(16)
    layer = model.policy.moe_layers()["pi.middle"]
    layer.experts.layers[0].bias_EO.data[:, 1] = -1e4
    if router == "top_k":
        # Its last two inputs are the one-hot task id.
        layer.router.weight_RK.data[-2:] = 1e3 * th.eye(2)
    return model, layer.experts


@pytest.mark.parametrize("router", ["task", "top_k"])
def test_an_expert_that_no_row_reached_stays_as_it_is(router):
    model, experts = one_expert_per_task(router)
    stored = {p: [p, *moments(model.policy)[p]] for p in experts.parameters()}
    before = {p: [tensor.clone() for tensor in tensors] for p, tensors in stored.items()}
    obs = {"obs": np.random.default_rng(0).normal(size=(32, 5)), "task_id": np.zeros(32, int)}
    redo(model.policy, obs, tau=0.1)
    assert (experts.last.weight_EOI[0, :, 1] == 0).all()
    for parameter, tensors in stored.items():
        for now, was in zip(tensors, before[parameter], strict=True):
            assert th.equal(now[1], was[1])
    assert measure_layers(model.policy, [obs])["dormant/pi.0"] >= 0.5


@pytest.mark.parametrize(("policy", "kwargs"), KINDS, ids=str)
def test_heads_start_anew_and_all_else_stays(policy, kwargs):
    model = trained(policy, kwargs)
    before = copy.deepcopy(model.policy.state_dict())
    reset_heads(model.policy)
    inside = {id(p) for head in heads(model.policy) for p in head.parameters()}
    assert inside
    for name, parameter in model.policy.named_parameters():
        if id(parameter) not in inside:
            assert th.equal(parameter, before[name])
    weights = [p for head in heads(model.policy) for p in head.parameters() if p.dim() > 1]
    old = {id(p): before[name] for name, p in model.policy.named_parameters()}
    assert all(not th.equal(p, old[id(p)]) for p in weights)
    # Not even the count of steps, behind which averages that begin at 0 would be too large.
    known = [p for each in networks_of(model.policy).every_optimizer() for p in each.state]
    assert known
    assert not {id(p) for p in known} & {id(p) for p in weights}


def test_a_head_starts_anew_that_the_policy_has_under_two_names():
    policy = PPO("MlpPolicy", "CartPole-v1").policy
    policy.also = policy.action_net
    before = policy.action_net.weight.detach().clone()
    reset_heads(policy)
    assert not th.equal(policy.action_net.weight, before)


def test_new_heads_leave_a_map_alone_that_all_layers_share():
    kwargs = {"placement": "all", "router": "embedding", "router_kwargs": {"shared": True}}
    options = {"n_steps": 16, "batch_size": 16, "policy_kwargs": {"net_arch": [8], **kwargs}}
    policy = PPO("MoeMultiInputPolicy", TwoTasks(), **options).learn(16).policy
    before = {name: each.clone() for name, each in policy.state_dict().items()}
    stored = {p: [m.clone() for m in averages] for p, averages in moments(policy).items()}
    reset_heads(policy)
    for head in heads(policy):
        assert not {*head.experts.parameters()} & moments(policy).keys()
        shared = head.task_weights.weight_KW
        assert all(map(th.equal, moments(policy)[shared], stored[shared]))
    now = policy.state_dict()
    maps = [name for name in now if name.endswith("weight_KW")]
    assert maps
    assert all(th.equal(now[name], before[name]) for name in maps)
    assert any(not th.equal(now[name], before[name]) for name in now)


def test_a_layer_beside_a_task_embedding_is_treated():
    kwargs = {"placement": "none", "task_embedding": 3, "net_arch": [8]}
    policy = PPO("MoeMultiInputPolicy", TwoTasks(), policy_kwargs=kwargs).policy
    assert [layer.name for layer in resettable_layers(policy)] == ["pi.0", "vf.0"]


def test_shrinking_and_perturbing_mixes_old_weights_and_new_ones():
    model = trained("MoeMlpPolicy", {})
    before = copy.deepcopy(model.policy.state_dict())
    th.manual_seed(5)
    shrink_and_perturb(model.policy, 0.7, 0.1)
    th.manual_seed(5)
    fresh = model.policy.__class__(**model.policy._get_constructor_parameters()).state_dict()
    for name, parameter in model.policy.named_parameters():
        th.testing.assert_close(parameter.data, 0.7 * before[name] + 0.1 * fresh[name])
    assert not model.policy.optimizer.state


@pytest.mark.parametrize("holds", ["experts", "router", "a random router"])
def test_units_that_something_held_still_reads_stay_as_they_are_and_are_not_counted(holds):
    router = "random" if holds == "a random router" else "soft"
    model = trained("MoeMlpPolicy", {"num_experts": 2, "router": router})
    mixture = model.policy.moe_layers()["pi.middle"]
    dense = model.policy.mlp_extractor.policy_net.blocks[0]
    dense.bias.data[:3] = -1e4  # dead
    experts = mixture.experts.expert(0)
    if holds == "experts":
        sb3_moe.freeze_experts(model, [0])
    elif holds == "router":
        hold_router(mixture, True)
    obs = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    tensors = model.policy.obs_to_tensor(obs)[0]
    before = model.policy.get_distribution(tensors).distribution.logits
    counts = redo(model.policy, obs, tau=0.0)
    th.testing.assert_close(model.policy.get_distribution(tensors).distribution.logits, before)
    assert dense.bias[:3].tolist() == [-1e4] * 3
    assert counts["pi.0"] == 0
    if holds == "experts":
        for layer, old in zip(mixture.experts.expert(0), experts, strict=True):
            for name, tensor in old.state_dict().items():
                assert th.equal(layer.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "remedy",
    [shrink_and_perturb, reset_heads, lambda policy: redo(policy, np.ones((8, 4)), tau=9.0)],
    ids=["shrink_and_perturb", "reset_heads", "redo"],
)
def test_remedies_leave_frozen_experts_as_they_are(remedy):
    model = trained("MoeMlpPolicy", {"placement": "big", "num_experts": 3})
    sb3_moe.freeze_experts(model, [0, 2])
    experts = model.policy.moe_layers()["pi.big"].experts
    before = [p.detach().clone() for p in experts.parameters()]
    averages = model.policy.optimizer.state
    then = [averages[p]["exp_avg"].clone() for p in experts.parameters()]
    remedy(th.compile(model.policy, backend="eager"))
    for parameter, old, average in zip(experts.parameters(), before, then, strict=True):
        assert th.equal(parameter[[0, 2]], old[[0, 2]])
        assert th.equal(averages[parameter]["exp_avg"][[0, 2]], average[[0, 2]])
    assert any(
        not th.equal(p[1], old[1]) for p, old in zip(experts.parameters(), before, strict=True)
    )


RECURRENT = RecurrentPPO.policy_aliases["MlpLstmPolicy"]


@pytest.mark.parametrize(
    ("policy_class", "kwargs"),
    [
        (PPO.policy_aliases["MlpPolicy"], {"ortho_init": False}),
        (PPO.policy_aliases["MoeMlpPolicy"], {"share_features_extractor": False}),
        (MaskablePPO.policy_aliases["CnnPolicy"], {"share_features_extractor": False}),
        (RECURRENT, {"lstm_hidden_size": 8, "n_lstm_layers": 2}),
        (RECURRENT, {"lstm_hidden_size": 8, "shared_lstm": True, "enable_critic_lstm": False}),
        (SAC.policy_aliases["MlpPolicy"], {"n_critics": 3}),
        (SAC.policy_aliases["CnnPolicy"], {"share_features_extractor": True}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_fresh_copy_starts_as_the_constructor_starts_a_policy(policy_class, kwargs):
    cnn = "Cnn" in policy_class.__name__
    space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8) if cnn else gym.spaces.Box(-1, 1, (4,))
    box = policy_class in SAC.policy_aliases.values()
    actions = gym.spaces.Box(-1, 1, (2,)) if box else gym.spaces.Discrete(2)
    th.manual_seed(3)
    policy = policy_class(space, actions, lambda _: 1e-3, **kwargs)
    before = copy.deepcopy(policy.state_dict())
    for parameter in policy.parameters():
        parameter.data.mul_(2.0)
    th.manual_seed(3)
    fresh = fresh_copy(policy).state_dict()
    assert list(fresh) == list(before)
    assert all(th.equal(fresh[name], before[name]) for name in before)
