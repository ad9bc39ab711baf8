"""Routers, kinds of experts and placements of the user's own go everywhere that ours go, and those
that can't work say why before anything is learned."""

import arena
import numpy as np
import own_parts
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from torch import nn

import sb3_moe
from sb3_moe.callbacks import PlasticityCallback, RoutingCallback
from sb3_moe.layers import MoELayer, Routing, register_router
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.measures import expert_outputs, measure_layers, measure_weights, redo
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.placements import PLACEMENTS, Placement, register_placement
from sb3_moe.watching.figures import draw_last_gates

ROUTER = {"router": "own_parts:Tempered", "router_kwargs": {"temperature": 2.0}}
EXPERT = {"expert": "own_parts:Skipping", "expert_kwargs": {"scale": 0.5}}
PLACE = {"placement": own_parts.ENDS}
CASES = {"router": ROUTER, "expert": EXPERT, "placement": PLACE, "all": ROUTER | EXPERT | PLACE}


def make(algorithm="PPO", **options):
    return arena.make(algorithm, **{"net_arch": [12, 8], "num_experts": 3} | options)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
@pytest.mark.parametrize("case", CASES)
def test_parts_of_ones_own_learn_and_are_looked_into(algorithm, case, tmp_path, capsys):
    model = make(algorithm, **CASES[case])
    policy, obs = model.policy, arena.observe(model, 32)
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
    assert len(expert_outputs(policy, obs)) == len(routings)
    assert isinstance(policy.get_expert(next(iter(routings)).split(".")[0], 0), nn.Module)
    measures = measure_layers(policy, [obs]) | measure_weights(policy)
    assert all(np.isfinite(np.asarray(value)).all() for value in measures.values())
    assert draw_last_gates(tmp_path).axes


@pytest.mark.parametrize("case", CASES)
def test_redo_at_tau_zero_keeps_what_a_policy_with_parts_of_ones_own_computes(case):
    policy = make(net_arch=[12, 10, 8], activation_fn=nn.ReLU, **CASES[case]).policy
    with th.no_grad():
        for dense in (0, 2):
            policy.mlp_extractor.policy_net.blocks[dense].bias[:3] = -1e3
    obs = arena.observe(policy, 32)
    before = policy.get_distribution(policy.obs_to_tensor(obs)[0]).distribution.logits
    counts = redo(policy, obs, tau=0.0)
    after = policy.get_distribution(policy.obs_to_tensor(obs)[0]).distribution.logits
    th.testing.assert_close(after, before)
    # Nothing tells how an expert of one's own reads what comes before it.
    assert counts["pi.0"] >= 3
    assert ("pi.1" in counts) == ("expert" not in CASES[case])


def test_options_of_ones_own_are_checked_by_their_names():
    with pytest.raises(TypeError, match=r"of Tempered, \['temperature'\], got 'temprature'; did"):
        MoEOptions(router=own_parts.Tempered, router_kwargs={"temprature": 2.0})
    with pytest.raises(ValueError, match=r"must be `package.module:name`, got .*Nothing"):
        MoEOptions(router="own_parts:Nothing")
    with pytest.raises(ValueError, match=r"`z_coef`=0.1 needs"):
        MoEOptions(router=own_parts.Tempered, z_coef=0.1)


class Zeroed(own_parts.Tempered):
    """Scores that begin at 0, all gates even."""

    def __init__(self, experts, sees, **options):
        super().__init__(experts, sees, **options)
        nn.init.zeros_(self.scores.weight)
        nn.init.constant_(self.scores.bias, 0.5)


def test_a_router_of_ones_own_begins_as_it_says_in_every_placement():
    for placement in ("middle", "all", "final", "body", "big"):
        for layer in make(router=Zeroed, placement=placement).policy.moe_layers().values():
            assert not layer.scores.weight.any()
            assert (layer.scores.bias == 0.5).all()


def test_a_router_learns_from_the_auxiliary_losses_that_its_class_names():
    layer = make(router=own_parts.Tempered, balance_coef=0.1).policy.moe_layers()["pi.middle"]
    x = th.randn(8, 1, 12)
    layer(x)[0].sum().backward()
    layer.aux = None
    with_loss = layer.scores.weight.grad.clone()
    layer.scores.weight.grad = None
    layer(x)[0].sum().backward()
    assert not th.equal(layer.scores.weight.grad, with_loss)


def test_a_registered_router_and_placement_go_by_their_names():
    config = pytest.importorskip("sb3_moe.study.config", reason="needs the cli extra")
    register_router(own_parts.Tempered)
    register_placement(own_parts.ENDS)
    try:
        named = config.named_architecture("tempered-ends").policy_kwargs
        assert (named["router"], named["placement"]) == ("tempered", "ends")
    finally:
        ROUTERS.pop("tempered")
        PLACEMENTS.pop("ends")


def test_a_placement_without_its_hidden_layer_is_refused():
    third = Placement(name="third", meaning="", hidden=2)
    message = r"`placement`='third' replaces hidden layer 2, .* 2: give"
    with pytest.raises(ValueError, match=message):
        make(placement=third)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
@pytest.mark.parametrize("placement", ["none", "middle", "final", "all", "body", own_parts.ENDS])
def test_each_task_has_its_own_head_with_any_placement(algorithm, placement):
    space = spaces.Dict({"obs": arena.FLAT, "task_id": spaces.Discrete(2)})
    env = arena.Arena(space, arena.actions_of(algorithm))
    options = {"placement": placement, "head_router": "task", "net_arch": [12, 8]}
    model = arena.train(arena.make(algorithm, "MoeMultiInputPolicy", env, **options), 24)
    obs = arena.observe(model, 6) | {"task_id": np.arange(6) % 2}
    network = model.policy.network_names[0]
    routings = model.policy.routing(obs).items()
    last = [routing for name, routing in routings if name.startswith(network)][-1]
    assert last.experts_BNk.flatten().tolist() == [0, 1] * 3


# What can't work.


class Routed(MoELayer):
    """Even gates, and whatever a test changes."""

    def __init__(self, experts, sees):
        super().__init__(experts)

    def route(self, x, router_x):
        return self.combine(x, self.gates(x))

    def gates(self, x):
        return th.full((*x.shape[:-1], self.num_experts), 1 / self.num_experts)


class Off(Routed):
    def route(self, x, router_x):
        return x, Routing(th.ones(2, 3))


class Gates(Routed):
    def route(self, x, router_x):
        return self.gates(x)


class Idle(MoELayer):
    def __init__(self, experts, sees):
        super().__init__(experts)


class Needy(Routed):
    def __init__(self, experts, sees, *, sharpness):
        super().__init__(experts, sees)
        self.sharpness = sharpness


class Wide(nn.Linear):
    def __init__(self, in_features, width, out_features, activation):
        super().__init__(in_features, out_features + 1)


SHARP = {"router_kwargs": {"sharpness": 2.0}}
WRONG = [
    ({"router": Off}, ValueError, r"`router`='Off' .* gates \(2, 1, 3\), got"),
    ({"router": Gates}, TypeError, r"`route` of the router 'Gates' must .*combine.*, got Tensor"),
    ({"router": Idle}, NotImplementedError, "Idle must have a method `route`"),
    ({"router": Needy}, TypeError, "required keyword-only argument: 'sharpness'"),
    ({"expert": Wide}, ValueError, r"the output of \(2,\) rows must have the shape \(2, 8\)"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG)
def test_a_part_of_ones_own_that_cannot_work_is_refused_with_what_to_write(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)
    assert make(router=Needy, **SHARP).policy.moe_layers()["pi.middle"].sharpness == 2.0
