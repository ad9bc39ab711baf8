"""Initial weights scaled so that experts start as strong as the dense layers they stand for."""

import copy

import arena
import own_parts
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from benchmarks import start_scale
from sb3_moe.layers import MoELayer
from sb3_moe.measures.resets import fresh_copy
from sb3_moe.policies import dqn
from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.registration import TABLE

SPACE, ACTIONS = spaces.Box(-1, 1, (5,)), spaces.Discrete(4)
FLAT, TASKS = Layout(x_dim=5), Layout(x_dim=5, num_tasks=4)
WIDTHS, OUTPUTS = [64, 48], 8
# The dense layers that each layer of experts stands for, by their outputs, and whether the experts
# hold the last one's activation, by placement.
STANDS_FOR = {
    "middle": [([48], True)],
    "final": [([8], False)],
    "all": [([64], True), ([48], True), ([8], False)],
    "body": [([64, 48], False)],
    "big": [([64, 48, 8], False)],
}


def rms(x):
    return x.square().mean().sqrt().item()


def probe(layout, rows=4096):
    x = th.randn(rows, layout.x_dim, generator=th.Generator().manual_seed(9))
    tasks = nn.functional.one_hot(th.arange(rows) % max(layout.num_tasks, 1))
    return th.cat([x, tasks], dim=1) if layout.num_tasks else x


def network(layout=FLAT, seed=3, widths=WIDTHS, **options):
    th.manual_seed(seed)
    dense = create_mlp(layout.features_dim, OUTPUTS, widths)
    return Architect(MoEOptions(**{"match_scale": True} | options), layout).network(dense)


@th.no_grad()
def dense_size(x, widths, activated):
    """Return the size of what 100 dense networks of these widths make of rows."""
    outputs = []
    for _ in range(100):
        y = x
        for i, width in enumerate(widths):
            y = nn.Linear(y.shape[1], width)(y)
            y = y.relu() if activated or i + 1 < len(widths) else y
        outputs.append(y)
    return rms(th.stack(outputs))


def assert_as_strong(made, layout=FLAT, placement="middle"):
    """Compare the size of each layer's output with that of the dense layers on its input."""
    seen = []
    for layer in (m for m in made.modules() if isinstance(m, MoELayer)):
        layer.register_forward_hook(lambda m, args, output: seen.append((args[0], output[0])))
    made.eval()(probe(layout))
    for (x, y), (widths, activated) in zip(seen, STANDS_FOR[placement], strict=True):
        assert rms(y) == pytest.approx(dense_size(x[:512], widths, activated), rel=0.1)


@pytest.mark.covering
@pytest.mark.parametrize("placement", STANDS_FOR)
@pytest.mark.parametrize("router", start_scale.ROUTERS)
def test_each_layer_starts_as_strong_as_the_dense_one_it_stands_for(placement, router):
    layout = TASKS if router == "task" else FLAT
    options = {"placement": placement, "num_experts": 4, **start_scale.ROUTERS[router]}
    assert_as_strong(network(layout, **options), layout, placement)


@pytest.mark.parametrize("num_experts", [2, 64])
def test_so_it_is_for_any_number_of_experts(num_experts):
    assert_as_strong(network(placement="middle", router="top_k", num_experts=num_experts))


def test_so_it_is_for_the_map_that_its_tokens_make():
    layout = Layout(x_dim=24, map_shape=(2, 3, 4))
    layer = network(layout, widths=[64], tokens="conv").blocks[0]
    tokens_BNF = probe(layout).view(-1, 2, 12).transpose(1, 2)
    wanted = dense_size(tokens_BNF.flatten(1)[:512], [24], activated=True)
    assert rms(layer.eval()(tokens_BNF)[0]) == pytest.approx(wanted, rel=0.1)


# What is scaled, and what stays.


def both(policy_class, actions=ACTIONS, **options):
    """Return two policies of one seed, without and with the option, and the next random number."""
    made = []
    for match_scale in (False, True):
        th.manual_seed(1)
        given = {"net_arch": [8, 8], "num_experts": 3, "match_scale": match_scale} | options
        policy = policy_class(SPACE, actions, lambda _: 1e-3, **given)
        made.append((policy, th.rand(()).item()))
    return zip(*made, strict=True)


def scaled(policy):
    """Return the experts' last weights, by identity."""
    experts = [m.experts for m in policy.modules() if isinstance(m, MoELayer)]
    return {id(p) for each in experts for p in each.last.parameters()}


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "QRDQN"])
def test_a_layers_last_weights_get_one_factor_and_nothing_else_changes(algorithm):
    policy_class = arena.algorithm_class(algorithm).policy_aliases[TABLE[algorithm].aliases[0]]
    actions = arena.actions_of(algorithm)
    (off, on), (number, same) = both(policy_class, actions, placement="all")
    assert number == same
    last, factors = scaled(on), []
    for before, after in zip(off.parameters(), on.parameters(), strict=True):
        if id(after) not in last:
            assert th.equal(before, after)
        elif before.any():
            ratios = (after / before)[before != 0]
            th.testing.assert_close(ratios, ratios.mean().expand_as(ratios))
            factors.append(ratios.mean().item())
    assert max(abs(factor - 1) for factor in factors) > 0.01


# New starts.


def test_a_fresh_copy_is_scaled_as_the_policy_was():
    th.manual_seed(3)
    policy = dqn.MoeMlpPolicy(SPACE, ACTIONS, lambda _: 1e-3, num_experts=16, match_scale=True)
    before = copy.deepcopy(policy.state_dict())
    th.manual_seed(3)
    fresh = fresh_copy(policy).state_dict()
    assert all(th.equal(fresh[name], before[name]) for name in before)


# Parts of the user's own.


class Scaling(own_parts.Skipping):
    def scale_outputs(self, factor):
        for linear in (self.outside, self.around):
            for parameter in linear.parameters():
                parameter.mul_(factor)


class Bent(own_parts.Skipping):
    """An expert whose output doesn't grow with its last weights."""

    def forward(self, x):
        return super().forward(x).tanh()


@pytest.mark.parametrize(
    "options", [{"router": own_parts.Tempered}, {"expert": Scaling}], ids=["router", "expert"]
)
def test_parts_of_the_users_own_are_measured_like_any(options):
    assert_as_strong(network(placement="middle", num_experts=16, **options))


def test_what_does_not_follow_its_experts_weights_is_refused():
    with pytest.raises(ValueError, match=r"`match_scale`=True .* `router`='soft' the"):
        network(placement="middle", expert=Bent)
