"""A router, a kind of expert and a placement of the user's own go everywhere that ours go."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import own_parts
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import CallbackList
from torch import nn

import sb3_moe
from sb3_moe.callbacks import PlasticityCallback, RoutingCallback
from sb3_moe.layers import MoELayer, SeparateNetworks, register_router
from sb3_moe.measures import (
    expert_outputs,
    matching_net_arch,
    measure_layers,
    measure_weights,
    redo,
)
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.placements import PLACEMENTS, Placement, register_placement
from sb3_moe.study.config import named_architecture
from sb3_moe.watching.figures import draw_last_gates

ROUTER = {"router": "own_parts:Tempered", "router_kwargs": {"temperature": 2.0}}
EXPERT = {"expert": "own_parts:Skipping", "expert_kwargs": {"scale": 0.5}}
PLACE = {"placement": own_parts.ENDS}
CASES = {"router": ROUTER, "expert": EXPERT, "placement": PLACE, "all": ROUTER | EXPERT | PLACE}
ALGORITHMS = {
    "PPO": (PPO, "CartPole-v1", {"n_steps": 32, "batch_size": 16, "n_epochs": 2}),
    "DQN": (DQN, "CartPole-v1", {"learning_starts": 16, "batch_size": 8, "buffer_size": 64}),
    "SAC": (SAC, "Pendulum-v1", {"learning_starts": 40, "batch_size": 8, "buffer_size": 64}),
}


def make(algorithm="PPO", **policy_kwargs):
    kind, env, arguments = ALGORITHMS[algorithm]
    arguments = arguments | {"seed": 0, "device": "cpu"}
    kwargs = {"net_arch": [12, 8], "num_experts": 3} | policy_kwargs
    return kind("MoeMlpPolicy", env, policy_kwargs=kwargs, **arguments)


def observations(model, count=32):
    model.observation_space.seed(0)
    low = np.maximum(model.observation_space.low, -2)
    high = np.minimum(model.observation_space.high, 2)
    rng = np.random.default_rng(0)
    return rng.uniform(low, high, (count, *low.shape)).astype(np.float32)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", CASES)
def test_parts_of_ones_own_learn_and_are_looked_into(algorithm, case, tmp_path, capsys):
    model = make(algorithm, **CASES[case])
    policy, obs = model.policy, observations(model)
    watch = [
        RoutingCallback(25, probe=[obs], log_path=tmp_path),
        PlasticityCallback(25, probe=[obs]),
    ]
    before = {name: p.clone() for name, p in policy.named_parameters()}
    model.learn(64, callback=CallbackList(watch))
    changed = {name for name, p in policy.named_parameters() if not th.equal(p, before[name])}
    assert any("experts" in name for name in changed)
    if case != "expert":
        assert any("scores" in name or "router" in name for name in changed)

    budget = sb3_moe.describe(model)
    words = capsys.readouterr().out
    assert budget.total.active == budget.total.parameters
    assert ("tempered router" in words) == ("router" in CASES[case])
    assert ("ends" in words) == ("placement" in CASES[case])

    routings = policy.routing(obs)
    assert set(routings) == set(policy.moe_layers())
    assert all(routing.gates_BNE.shape == (32, 1, 3) for routing in routings.values())
    outputs = expert_outputs(policy, obs)
    network = next(iter(routings)).split(".")[0]
    assert len(outputs) == len(routings)
    assert isinstance(policy.get_expert(network, 0), nn.Module)
    measures = measure_layers(policy, [obs]) | measure_weights(policy)
    assert all(np.isfinite(np.asarray(value)).all() for value in measures.values())
    assert draw_last_gates(tmp_path).axes


@pytest.mark.parametrize("case", CASES)
def test_redo_at_tau_zero_keeps_what_a_policy_with_parts_of_ones_own_computes(case):
    policy = make(net_arch=[12, 10, 8], activation_fn=nn.ReLU, **CASES[case]).policy
    with th.no_grad():
        for dense in (0, 2):
            policy.mlp_extractor.policy_net.blocks[dense].bias[:3] = -1e3
    obs = observations(make())
    before = policy.get_distribution(policy.obs_to_tensor(obs)[0]).distribution.logits
    counts = redo(policy, obs, tau=0.0)
    after = policy.get_distribution(policy.obs_to_tensor(obs)[0]).distribution.logits
    th.testing.assert_close(after, before)
    # Nothing tells how an expert of one's own reads what comes before it.
    assert counts["pi.0"] >= 3
    assert ("pi.1" in counts) == ("expert" not in CASES[case])
    assert counts.get("pi.1", 3) >= 3


def test_a_new_process_loads_what_can_be_imported_there(tmp_path):
    models = {algorithm: make(algorithm, **CASES["all"]) for algorithm in ALGORITHMS}
    for algorithm, model in models.items():
        model.save(tmp_path / algorithm)
        np.save(tmp_path / f"{algorithm}-obs.npy", observations(model, 4))
    code = """
import numpy as np, sb3_moe
from stable_baselines3 import DQN, PPO, SAC
for algorithm in (DQN, PPO, SAC):
    name = algorithm.__name__
    model = algorithm.load(name, device="cpu")
    np.save(f"{name}.npy", model.predict(np.load(f"{name}-obs.npy"), deterministic=True)[0])
"""
    root = Path(__file__).parent
    path = ":".join(map(str, (root, root.parent, root.parent / "envs")))
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
    for algorithm, model in models.items():
        expected = model.predict(observations(model, 4), deterministic=True)[0]
        found = np.load(tmp_path / f"{algorithm}.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_dense_twin_of_a_policy_with_parts_of_ones_own_is_found(case):
    model = make(**CASES[case])
    spaces_ = model.observation_space, model.action_space
    kwargs = {"net_arch": [12, 8], "num_experts": 3} | CASES[case]
    found = matching_net_arch(type(model.policy), *spaces_, kwargs)
    assert all(width > 12 for width in found["pi"][:1])


def test_options_of_ones_own_are_checked_by_their_names():
    with pytest.raises(
        TypeError, match=r"`router_kwargs` .* 'tempered', \['temperature'\], got 't"
    ):
        MoEOptions(router=own_parts.Tempered, router_kwargs={"temprature": 2.0})
    with pytest.raises(TypeError, match=r"`expert_kwargs` .* \['scale'\], got 'scala'"):
        MoEOptions(expert="own_parts:Skipping", expert_kwargs={"scala": 2.0})
    own = r"`top_k`=2 needs `router` .* got 'tempered'"
    with pytest.raises(ValueError, match=own):
        MoEOptions(router="own_parts:Tempered", top_k=2)
    with pytest.raises(TypeError, match=r"`router` must be a subclass of MoELayer, .*Skipping"):
        MoEOptions(router="own_parts:Skipping")
    with pytest.raises(ValueError, match=r"`router`='own_parts:Nothing' must name a class .*Not"):
        MoEOptions(router="own_parts:Nothing")
    with pytest.raises(ValueError, match=r"did you mean 'soft'"):
        MoEOptions(router="sofd")
    with pytest.raises(TypeError, match=r"`router_kwargs` must be a dict of arguments, got 3"):
        MoEOptions(router_kwargs=3)


class Zeroed(own_parts.Tempered):
    """Scores that begin at 0, all gates even."""

    def __init__(self, experts, sees, **options):
        super().__init__(experts, sees, **options)
        nn.init.zeros_(self.scores.weight)
        nn.init.constant_(self.scores.bias, 0.5)


@pytest.mark.parametrize("placement", ["middle", "all", "final", "body", "big"])
def test_a_router_of_ones_own_begins_as_it_says_in_every_placement(placement):
    layers = make(router=Zeroed, placement=placement).policy.moe_layers().values()
    for layer in layers:
        assert not layer.scores.weight.any()
        assert (layer.scores.bias == 0.5).all()


def test_a_router_acts_once_between_two_updates_however_often_modes_are_set():
    class Counting(own_parts.Tempered):
        updates = 0

        def between_updates(self):
            self.updates += 1

    model = make(router=Counting)
    layer = model.policy.moe_layers()["pi.middle"]
    for mode in (False, False, True, False, False, True, True, False):
        model.policy.set_training_mode(mode)
    assert layer.updates == 3  # one before the first


def test_a_layer_that_sees_part_of_the_input_is_no_reader_of_every_unit():
    class Narrow(own_parts.Tempered):
        def __init__(self, experts, sees, **options):
            super().__init__(experts, sees, **options)
            self.scores = nn.Linear(2, sees.num_experts)

        def route(self, x, router_x):
            return super().route(x, router_x[..., -2:])

    model = make(router=Narrow)
    redo(model.policy, observations(model), tau=0.1)  # leaves alone what nothing tells of


def test_a_router_learns_from_the_auxiliary_losses_that_its_class_names():
    assert MoEOptions(router=own_parts.Tempered, balance_coef=0.1).aux.balance == 0.1
    own = r"`z_coef`=0.1 needs `router` to be one of .* got 'tempered'"
    with pytest.raises(ValueError, match=own):
        MoEOptions(router=own_parts.Tempered, z_coef=0.1)
    layer = make(router=own_parts.Tempered, balance_coef=0.1).policy.moe_layers()["pi.middle"]
    x = th.randn(8, 1, 12)
    layer(x)[0].sum().backward()
    layer.aux = None
    with_loss = layer.scores.weight.grad.clone()
    layer.scores.weight.grad = None
    layer(x)[0].sum().backward()
    assert not th.equal(layer.scores.weight.grad, with_loss)


def test_a_registered_router_and_placement_go_by_their_names(monkeypatch):
    from sb3_moe.layers.registry import ROUTERS

    monkeypatch.setattr(ROUTERS, "_classes", dict(ROUTERS._classes))
    monkeypatch.setattr("sb3_moe.policies.placements.PLACEMENTS", PLACEMENTS)
    register_router(own_parts.Tempered)
    register_placement(own_parts.ENDS)
    try:
        architecture = named_architecture("tempered-ends", {"num_experts": 3})
        assert named_architecture("tempered-ends-pi").policy_kwargs["router"] == "tempered"
        assert architecture.policy_kwargs["num_experts"] == 3
        with pytest.raises(ValueError, match=r"`router` 'tempered' is Tempered of own_parts alr"):
            register_router(type("Tempered2", (MoELayer,), {"name": "tempered"}))
        other = Placement(name="ends", meaning="", head="own")
        with pytest.raises(ValueError, match=r"`placement` 'ends' is .* already"):
            register_placement(other)
    finally:
        PLACEMENTS.pop("ends")


@pytest.mark.parametrize("case", [EXPERT, {"expert": own_parts.Skipping}])
def test_experts_that_are_no_row_of_layers_run_one_after_the_other(case):
    layer = make(**case).policy.moe_layers()["pi.middle"]
    experts = layer.experts
    assert isinstance(experts, SeparateNetworks)
    x_TI = th.randn(6, 12)
    each = th.stack([experts.expert(k)(x_TI) for k in range(3)])
    th.testing.assert_close(experts.every(x_TI), each)
    gates_TE = th.rand(6, 3).softmax(-1)
    th.testing.assert_close(experts.mixture(x_TI, gates_TE), (each * gates_TE.T[..., None]).sum(0))
    chosen_T1 = th.tensor([[0], [1], [2], [0], [1], [0]])
    gates_TE = th.zeros(6, 3).scatter(1, chosen_T1, 0.7)
    by_hand = th.stack([0.7 * each[int(k), t] for t, k in enumerate(chosen_T1)])
    th.testing.assert_close(experts.selected(x_TI, chosen_T1, gates_TE), by_hand)
    th.testing.assert_close(0.7 * experts._on_sorted_rows(x_TI, chosen_T1)[:, 0], by_hand)


def test_an_expert_that_returns_other_rows_is_refused():
    class Wrong(nn.Linear):
        def __init__(self, in_features, width, out_features, activation):
            super().__init__(in_features, out_features + 1)

    with pytest.raises(ValueError, match=r"the output of \(2,\) rows must have the shape \(2, 8\)"):
        make(expert=Wrong)


# New options, each by what it does.


def one_network(**options):
    return make("DQN", **options).policy.q_net.q_net


def test_an_expert_of_the_body_is_all_hidden_layers_and_the_activation_follows_the_sum():
    net = one_network(placement="body", num_experts=1, router="uniform")
    layer = next(m for m in net.modules() if isinstance(m, MoELayer))
    expert = layer.experts.expert(0)
    assert [type(m) for m in expert] == [nn.Linear, nn.ReLU, nn.Linear]
    x = th.randn(5, 4)
    th.testing.assert_close(net(x), net.blocks[-1](th.relu(expert(x))))
    with pytest.raises(ValueError, match=r"`placement`='body' replaces all hidden layers .* none"):
        one_network(placement="body", net_arch=[])


def multi_task(algorithm, **policy_kwargs):
    kind, name, arguments = ALGORITHMS[algorithm]
    env = gym.make(name)
    low, high = env.observation_space.low, env.observation_space.high
    bounds = [np.append(b, end).astype(np.float32) for b, end in ((low, [0, 0]), (high, [1, 1]))]
    wide = spaces.Box(*bounds, dtype=np.float32)
    env = gym.wrappers.TransformObservation(
        env, lambda obs: np.append(obs, [0, 1]).astype(np.float32), wide
    )
    kwargs = {"net_arch": [12, 8], "features_extractor_kwargs": {"num_tasks": 2}} | policy_kwargs
    return kind("MoeMlpPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **arguments)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("placement", ["none", "middle", "final", "all", "body", own_parts.ENDS])
def test_each_task_has_its_own_head_with_any_placement(algorithm, placement, tmp_path):
    model = multi_task(algorithm, placement=placement, head_router="task")
    model.learn(48)
    obs = np.concatenate([observations(model, 6)[:, :-2], np.eye(2)[[0, 1] * 3]], 1)
    routings = model.policy.routing(obs.astype(np.float32))
    network = model.policy.network_names[0]
    last = [routing for name, routing in routings.items() if name.startswith(network)][-1]
    assert last.experts_BNk.flatten().tolist() == [0, 1] * 3
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", device="cpu")
    kept = again.policy.state_dict()
    assert all(th.equal(value, kept[name]) for name, value in model.policy.state_dict().items())


def test_a_placement_without_its_hidden_layer_is_refused():
    third = Placement(name="third", meaning="", hidden=2)
    with pytest.raises(
        ValueError, match=r"`placement`='third' replaces hidden layer 2, .* 2: give"
    ):
        make(placement=third)
