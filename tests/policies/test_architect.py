"""From dense networks to networks: what is replaced, how wide, and what it computes."""

import itertools

import pytest
import torch as th
from own_parts import Skipping
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_moe.layers import MoELayer, SeparateNetworks, SoftMoE
from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions

FLAT = Layout(x_dim=5)
TASKS = Layout(x_dim=5, num_tasks=3)
MAP = Layout(x_dim=2 * 3 * 4, map_shape=(2, 3, 4), num_tasks=3)
CRITIC = Layout(x_dim=5, num_tasks=3, action_dim=2)


def network(layout=FLAT, hidden=(8, 6), out=2, **options):
    dense = create_mlp(layout.features_dim + layout.action_dim, out, list(hidden))
    return Architect(MoEOptions(**options), layout).network(dense)


def kinds(made):
    return ["MoE" if isinstance(b, MoELayer) else type(b).__name__ for b in made.blocks]


def layers(made):
    return [m for m in made.modules() if isinstance(m, MoELayer)]


def shapes(made):
    """Return (inputs, outputs) of each layer's experts."""
    experts = [layer.experts.expert(0) for layer in layers(made)]
    return [
        (linears[0].in_features, linears[-1].out_features)
        for linears in ([m for m in e.modules() if isinstance(m, nn.Linear)] for e in experts)
    ]


def one_hot(*tasks):
    return th.nn.functional.one_hot(th.tensor(tasks), 3).float()


@pytest.mark.parametrize(
    ("placement", "around", "sizes"),
    [
        ("none", ["Linear", "ReLU", "Linear", "ReLU", "Linear"], []),
        ("middle", ["Linear", "ReLU", "MoE", "Linear"], [(8, 6)]),
        ("final", ["Linear", "ReLU", "Linear", "ReLU", "MoE"], [(6, 2)]),
        ("all", ["MoE", "MoE", "MoE"], [(5, 8), (8, 6), (6, 2)]),
        ("big", ["MoE"], [(5, 2)]),
    ],
)
def test_a_placement_replaces_these_layers(placement, around, sizes):
    made = network(placement=placement)
    assert kinds(made) == around
    assert shapes(made) == sizes


@pytest.mark.parametrize("activation", [nn.PReLU, lambda: nn.Softmax(dim=1)])
@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("middle", [["Linear", "act", "Linear"]]),
        ("all", [["Linear", "act", "Linear"]] * 2 + [["Linear"]]),
        ("big", [["Linear", "act", "Linear", "act", "Linear"]]),
    ],
)
def test_learned_activations_are_activations_and_each_expert_has_its_own(
    placement, expected, activation
):
    dense = create_mlp(5, 2, [8, 6], activation_fn=activation)
    made = Architect(MoEOptions(placement=placement, num_experts=3), FLAT).network(dense)
    kind = type(activation())
    found = [list(layer.experts.expert(1)) for layer in layers(made)]
    assert [["act" if type(m) is kind else type(m).__name__ for m in e] for e in found] == expected
    # As many slopes as SB3's dense layer has, one, and not one for each unit.
    sizes = {p.numel() for e in found for m in e if type(m) is kind for p in m.parameters()}
    assert sizes <= {1}


@pytest.mark.parametrize("placement", ["middle", "all", "big"])
def test_expert_width_changes_hidden_layers_and_not_the_output(placement):
    made = network(placement=placement, expert_width=11)
    for layer in layers(made)[: None if placement == "big" else 1]:
        linears = [m for m in layer.experts.expert(0) if isinstance(m, nn.Linear)]
        assert {linear.out_features for linear in linears[:-1]} == {11}
    assert made(th.zeros(3, 5)).shape == (3, 2)


@pytest.mark.parametrize(
    ("placement", "expected", "around"),
    [
        ("final", [(6, 2)], ["Linear", "ReLU", "Linear", "ReLU", "MoE"]),
        ("all", [(5, 8), (8, 6), (6, 2)], ["MoE"] * 3),
        ("body", [(5, 6)], ["MoE", "Linear"]),
        ("big", [(5, 2)], ["MoE"]),
    ],
)
def test_a_kind_of_expert_stands_for_whatever_its_placement_replaces(placement, expected, around):
    made = network(placement=placement, expert="simba", expert_width=11)
    assert shapes(made) == expected
    assert kinds(made) == around
    inside = [m for m in layers(made)[0].experts.expert(0) if isinstance(m, nn.Linear)]
    assert inside[0].out_features == 11
    with_class = network(placement=placement, expert=Skipping)
    assert kinds(with_class) == around
    assert isinstance(layers(with_class)[0].experts, SeparateNetworks)


def test_linear_experts_have_the_activation_behind_their_sum_but_for_heads():
    assert kinds(network(placement="body", expert="linear")) == ["MoE", "ReLU", "Linear"]
    assert kinds(network(placement="final", expert="linear"))[-1] == "MoE"
    assert kinds(network(placement="big", expert="linear")) == ["MoE"]


@pytest.mark.parametrize("placement", ["middle", "final", "all", "big"])
@pytest.mark.parametrize(
    ("layout", "task_input"),
    [(FLAT, None), *itertools.product([TASKS, CRITIC], ["both", "router", "experts", "none"])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_network_equals_its_layers_written_out(placement, layout, task_input):
    """Follow the input through plain experts, with the id and the action where they belong."""
    made = network(layout, placement=placement, task_input=task_input, num_experts=2)
    x, task, action = th.randn(4, 5), one_hot(0, 1, 2, 1)[:, : layout.num_tasks], th.randn(4, 2)
    action = action[:, : layout.action_dim]
    experts_task = task if task_input in ("both", "experts") else task[:, :0]
    router_task = task if task_input in ("both", "router") else task[:, :0]
    hidden = x
    for i, block in enumerate(made.blocks):
        first = i == 0
        seen = th.cat([hidden, experts_task, action], 1) if first else hidden
        if isinstance(block, MoELayer):
            router_in = th.cat([hidden, router_task, *([action] if first else [])], 1)
            gates = (router_in @ block.router.weight_RK).softmax(-1)
            outs = th.stack([block.experts.expert(k)(seen) for k in range(2)], 1)
            hidden = (outs * gates.unsqueeze(-1)).sum(1)
        else:
            hidden = block(seen)
    actions = action if layout.action_dim else None
    th.testing.assert_close(made(th.cat([x, task], 1), actions), hidden)


def test_the_last_tanh_comes_after_the_experts_are_combined():
    dense = create_mlp(5, 2, [8], squash_output=True)
    for placement in ("final", "all", "big"):
        made = Architect(MoEOptions(placement=placement), FLAT).network(dense)
        assert kinds(made)[-1] == "Tanh"
        assert not any(isinstance(m, nn.Tanh) for m in layers(made)[-1].modules())


@pytest.mark.parametrize(("tokens", "expert"), [("conv", 2), ("feature", 12)])
def test_tokens_of_a_map_are_flattened_not_pooled(tokens, expert):
    made = network(MAP, hidden=(8,), tokens=tokens)
    # An expert's output is as wide as the bare token; the id was appended to the input.
    assert shapes(made) == [(expert + 3, expert)]
    assert made.blocks[1].in_features == 24
    assert made(th.zeros(2, 27)).shape == (2, 2)


@pytest.mark.parametrize(("tokens", "slots"), [("conv", 3), ("feature", 1)])
def test_slots_are_by_default_tokens_over_experts_rounded_up(tokens, slots):
    layer = layers(network(MAP, hidden=(8,), tokens=tokens))[0]
    assert isinstance(layer, SoftMoE)
    assert layer.num_slots == slots
    assert layers(network(MAP, hidden=(8,), tokens=tokens, num_slots=5))[0].num_slots == 5


@pytest.mark.parametrize("placement", ["middle", "final", "all", "big"])
def test_norms_are_kept_around_the_experts(placement):
    norms = [nn.BatchNorm1d(width) for width in (5, 8, 8)]
    hidden = nn.Linear(5, 8), nn.ReLU(), norms[1], nn.Linear(8, 8), nn.ReLU(), norms[2]
    dense = [norms[0], *hidden]
    made = Architect(MoEOptions(placement=placement), FLAT).network([*dense, nn.Linear(8, 2)])
    assert [norm.num_features for norm in made.norms] == [5]
    inner = made.blocks if placement != "big" else layers(made)[0].experts.expert(0)
    assert [m.num_features for m in inner if isinstance(m, nn.BatchNorm1d)] == [8, 8]
    assert made(th.zeros(3, 5)).shape == (3, 2)


def test_what_does_not_fit_the_input_is_an_error():
    message = "`tokens`='conv' with `placement`='middle' needs exactly one hidden .* has 2"
    with pytest.raises(ValueError, match=message):
        network(MAP, hidden=(8, 8), tokens="conv")
    with pytest.raises(ValueError, match="`task_input`='none' needs a task id in the observation"):
        network(task_input="none")
    with pytest.raises(ValueError, match=r"`placement`='body' replaces all hidden .* has none"):
        network(hidden=(), placement="body")


def test_experts_of_all_hidden_layers_hold_the_blocks_that_stand_in_their_place():
    expert = layers(network(placement="body", block="simba"))[0].experts.expert(0)
    inside = [type(m) for m in expert.modules() if isinstance(m, nn.Linear | nn.LayerNorm)]
    # An embedding, a norm and two layers for each hidden layer, and a norm behind the last.
    assert inside == [nn.Linear, nn.LayerNorm, nn.Linear, nn.Linear] * 2 + [nn.LayerNorm]


@pytest.mark.parametrize(
    ("options", "hidden"),
    [
        ({"block": "layer_norm", "placement": "final"}, []),
        ({"block": "layer_norm", "placement": "big"}, []),
        ({"block": "simba", "placement": "middle"}, [8]),
    ],
)
def test_a_block_that_would_stand_nowhere_is_refused(options, hidden):
    with pytest.raises(ValueError, match=r"`block`=.* needs a hidden layer that isn't replaced"):
        network(hidden=hidden, **options)
