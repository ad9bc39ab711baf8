"""Experts that run together against separate networks, one plain module per expert."""

import copy
import math

import pytest
import torch as th
from own_parts import Skipping, mlp_experts
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from sb3_moe.layers import (
    MLPExpert,
    RouterInput,
    SeparateNetworks,
    SparseMoE,
    StackedNetwork,
)
from sb3_moe.layers import experts as experts_module
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.layers.registry import simba_block

IMAGE = (2, 6, 6)


def mlp():
    nested = nn.Sequential(nn.Linear(5, 7), nn.Tanh())
    return nn.Sequential(nested, nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def without_bias():
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))


def residual():
    block = nn.Sequential(nn.ReLU(), nn.Linear(5, 5))
    return nn.Sequential(Residual(block), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def encoder(extra=4):
    convs = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 2))
    return nn.Sequential(ImageEncoder(convs, IMAGE), nn.ReLU(), nn.Linear(12 + extra, 3))


class Swish(nn.Module):
    """A learned activation of a user's own, that knows nothing of experts."""

    def __init__(self):
        super().__init__()
        self.beta = nn.Parameter(th.randn(()))

    def forward(self, x):
        return x * (self.beta * x).sigmoid()


def started_at_random(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def prelu():
    one, many = started_at_random(nn.PReLU()), started_at_random(nn.PReLU(6))
    return nn.Sequential(nn.Linear(5, 7), one, nn.Linear(7, 6), many, nn.Linear(6, 3))


def activations_with_a_dim():
    softmax = nn.Softmax(dim=1), nn.Linear(7, 6), nn.LogSoftmax(dim=1)
    return nn.Sequential(nn.Linear(5, 7), *softmax, nn.Linear(6, 3))


def norm_first():
    norm = started_at_random(nn.LayerNorm(5))
    return nn.Sequential(norm, started_at_random(nn.PReLU(5)), Swish(), nn.Linear(5, 3))


def norm_last():
    """SimBa's hidden layers, whose last one is a normalization."""
    return nn.Sequential(
        nn.Linear(5, 3), simba_block(3, nn.ReLU()), started_at_random(nn.LayerNorm(3))
    )


class Doubled(nn.Linear):
    """A linear layer of a user's own, which computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def own_linear_last():
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), Doubled(7, 3))


def odd_activations_of_images():
    convs = nn.Conv2d(2, 3, 3), started_at_random(nn.PReLU(3)), nn.Conv2d(3, 3, 2)
    acts = Swish(), nn.Conv2d(3, 2, 2), nn.Softmax2d()
    return nn.Sequential(ImageEncoder(nn.Sequential(*convs, *acts), IMAGE), nn.Linear(8, 3))


BUILDERS = {
    "linear": (lambda: nn.Linear(5, 3), (5,)),
    "mlp": (mlp, (5,)),
    "without_bias": (without_bias, (5,)),
    "residual": (residual, (5,)),
    "encoder": (encoder, (76,)),
    "prelu": (prelu, (5,)),
    "activations_with_a_dim": (activations_with_a_dim, (5,)),
    "norm_first": (norm_first, (5,)),
    "norm_last": (norm_last, (5,)),
    "own_linear_last": (own_linear_last, (5,)),
    "odd_activations_of_images": (odd_activations_of_images, (72,)),
}
# What `grouped_mm` can serve.
GROUPED = ("linear", "mlp", "without_bias", "residual", "norm_last")


@pytest.fixture(params=BUILDERS)
def builder(request):
    th.manual_seed(0)
    return BUILDERS[request.param]


def build(builder, num_experts=3, dtype=th.float64):
    make, shape = builder
    plain = [make().to(dtype) for _ in range(num_experts)]
    return plain, StackedNetwork(plain), th.randn(6, *shape, dtype=dtype, requires_grad=True)


def chosen_gates(num_experts, top_k, dtype=th.float64, rows=6):
    gates = th.rand(rows, num_experts, dtype=dtype)
    gates[:, 1:2] = 0.0  # an expert that nobody chooses
    chosen = gates.topk(top_k, dim=-1).indices
    return chosen, th.zeros_like(gates).scatter(1, chosen, gates.gather(1, chosen))


def gated(plain, x, gates):
    return sum(gates[:, k : k + 1] * module(x) for k, module in enumerate(plain))


def assert_same(network, plain, fast, slow, x, **tolerance):
    """Compare with separate networks, whose gradients ``StackedNetwork`` stacks too."""
    th.testing.assert_close(fast, slow, **tolerance)
    direction = th.randn_like(fast)
    (x_fast,) = th.autograd.grad((fast * direction).sum(), [x], retain_graph=True)
    (x_slow,) = th.autograd.grad((slow * direction).sum(), [x], retain_graph=True)
    th.testing.assert_close(x_fast, x_slow, **tolerance)
    (fast * direction).sum().backward()
    (slow * direction).sum().backward()
    for module in plain:
        for parameter in module.parameters():
            parameter.data.copy_(th.zeros(()) if parameter.grad is None else parameter.grad)
    for parameter, gradient in zip(
        network.parameters(), StackedNetwork(plain).parameters(), strict=True
    ):
        # An expert that nobody chose has no gradient where it is a module of its own.
        given = th.zeros_like(parameter) if parameter.grad is None else parameter.grad
        th.testing.assert_close(given, gradient.detach(), **tolerance)


@pytest.mark.parametrize("num_experts", [1, 3])
def test_every_expert_on_the_same_rows_equals_separate_networks(builder, num_experts):
    plain, network, x = build(builder, num_experts)
    slow = th.stack([module(x) for module in plain])
    assert_same(network, plain, network(x), slow, x)


def test_a_mixture_equals_the_gated_sum_of_separate_networks(builder):
    plain, network, x = build(builder)
    gates = th.rand(6, 3, dtype=th.float64)
    assert_same(network, plain, network.mixture(x, gates), gated(plain, x, gates), x)


@pytest.mark.parametrize(("num_experts", "top_k"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("wide_up_to", [-math.inf, math.inf])
def test_selected_experts_equal_separate_networks(
    monkeypatch, builder, num_experts, top_k, wide_up_to
):
    monkeypatch.setattr(experts_module, "WIDE_UP_TO", {"cpu": wide_up_to})
    plain, network, x = build(builder, num_experts)
    chosen, gates = chosen_gates(num_experts, top_k)
    fast = network.selected(x, chosen, gates)
    assert_same(network, plain, fast, gated(plain, x, gates), x)


@pytest.mark.skipif(not hasattr(nn.functional, "grouped_mm"), reason="torch lacks it")
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("name", GROUPED)
def test_selected_experts_by_grouped_mm_equal_separate_networks(monkeypatch, name, top_k):
    monkeypatch.setattr(experts_module, "WIDE_UP_TO", {"cpu": -math.inf})
    th.manual_seed(0)
    monkeypatch.setattr(experts_module, "FEW_EXPERTS", 0)
    plain, network, x = build(BUILDERS[name], dtype=th.float32)
    calls, grouped = [], network._grouped
    monkeypatch.setattr(network, "_grouped", lambda *args: calls.append(1) or grouped(*args))
    chosen, gates = chosen_gates(3, top_k, th.float32)
    fast = network.selected(x, chosen, gates)
    assert calls == [1]
    assert_same(network, plain, fast, gated(plain, x, gates), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "mlp", "without_bias", "residual", "norm_first"])
def test_rows_of_its_own_for_each_expert_equal_separate_networks(name):
    th.manual_seed(0)
    plain, network, _ = build(BUILDERS[name])
    x = th.randn(3, 4, 5, dtype=th.float64, requires_grad=True)
    slow = th.stack([module(rows) for module, rows in zip(plain, x, strict=True)])
    assert_same(network, plain, network(x), slow, x)


def test_expert_k_comes_back_as_it_was_given(builder):
    plain, network, x = build(builder)
    for k, module in enumerate(plain):
        th.testing.assert_close(network.expert(k)(x), module(x), rtol=0, atol=0)
    again = StackedNetwork([network.expert(k) for k in range(3)])
    th.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_shares_are_all_weights_one_expert_after_the_other(builder):
    plain, network, _ = build(builder)
    shares = network.shares()
    assert {share.tensor for share in shares} == set(network.parameters())
    for k, module in enumerate(plain):
        own = [
            share.tensor.view(share.num_experts, -1)[k - share.first]
            for share in shares
            if share.first <= k < share.first + share.num_experts
        ]
        numbers = [th.cat([t.flatten() for t in ts]).sort()[0] for ts in (own, module.parameters())]
        th.testing.assert_close(*numbers, rtol=0, atol=0)


@pytest.mark.parametrize("kind", [MLPExpert, Skipping])
def test_scaling_each_expert_scales_its_output(kind):
    made = [kind(5, 7, 3, nn.Tanh()) for _ in range(3)]
    network = StackedNetwork(made) if kind is MLPExpert else SeparateNetworks(made, 3)
    x, before = th.randn(4, 5), [copy.deepcopy(each) for each in made]
    network.scale(2.0)
    for k, old in enumerate(before):
        if kind is Skipping:  # its last linear layer, and no more than that, is known
            old.around.requires_grad_(False).weight.mul_(2.0)
            old.around.bias.mul_(2.0)
            th.testing.assert_close(network.expert(k)(x), old(x))
        else:
            th.testing.assert_close(network.expert(k)(x), 2.0 * old(x))


def test_an_expert_taken_out_shares_no_memory_and_leaves_the_random_stream_alone():
    network = mlp_experts(2, 5, 7, 3)
    th.manual_seed(3)
    expected = th.rand(1)
    th.manual_seed(3)
    taken = network.expert(1)
    assert th.rand(1) == expected
    before = network.state_dict()["last.weight"].clone()
    with th.no_grad():
        taken[-1].weight.zero_()
    assert network.state_dict()["last.weight"].equal(before)


# Statistics over the batch.


def renorm_first():
    return nn.Sequential(
        BatchRenorm1d(5), nn.Linear(5, 7), nn.ReLU(), BatchRenorm1d(7), nn.Linear(7, 3)
    )


def renorm_inside():
    return nn.Sequential(nn.Linear(5, 7), BatchRenorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def batch_norm():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.Linear(7, 3))


@pytest.mark.parametrize("build_one", [renorm_first, renorm_inside, batch_norm])
@pytest.mark.parametrize("warm", [False, True])
def test_batch_statistics_are_each_experts_own(build_one, warm):
    th.manual_seed(0)
    plain = [build_one().double() for _ in range(3)]
    if warm:
        for module in plain:
            for norm in module.modules():
                norm.warmup_steps = -1
    network, x = StackedNetwork(plain), th.randn(8, 5, dtype=th.float64)
    for _ in range(3):
        slow = th.stack([module(x) for module in plain])
        th.testing.assert_close(network(x), slow)
    for module in [*plain, network]:
        module.eval()
    th.testing.assert_close(network(x), th.stack([module(x) for module in plain]))
    for k, module in enumerate(plain):
        th.testing.assert_close(network.expert(k).eval()(x), module(x))
    th.testing.assert_close(network.state_dict(), StackedNetwork(plain).state_dict())
    by_expert = {tensor for tensor in network.buffers() if tensor.dim()} | {*network.parameters()}
    assert {share.tensor for share in network.shares()} == by_expert


def test_with_batch_statistics_every_expert_sees_every_row(monkeypatch):
    monkeypatch.setattr(experts_module, "WIDE_UP_TO", {"cpu": -math.inf})
    network, x = StackedNetwork([renorm_inside() for _ in range(3)]), th.randn(6, 5)
    other = copy.deepcopy(network)
    gates = nn.functional.one_hot(th.tensor([0, 0, 1, 1, 2, 2]), 3).float()
    selected = network.selected(x, gates.argmax(1, keepdim=True), gates)
    th.testing.assert_close(selected, other.mixture(x, gates))
    th.testing.assert_close(network.state_dict(), other.state_dict())


# What others rely on.


def test_hooks_on_activations_see_one_row_of_units_per_expert(monkeypatch):
    monkeypatch.setattr(experts_module, "WIDE_UP_TO", {"cpu": -math.inf})
    network, seen = mlp_experts(3, 5, 7, 2), []
    network.layers[1].register_forward_hook(lambda *args: seen.append(args[2].shape))
    network(th.randn(4, 5))
    network.mixture(th.randn(4, 5), th.rand(4, 3))
    network(th.randn(3, 4, 5))
    network.needs_all_rows = True
    network.selected(th.randn(4, 5), *chosen_gates(3, 1, th.float32, rows=4))
    assert seen == [(3, 4, 7)] * 4


def test_the_output_is_linear_in_what_the_last_layers_read():
    network, x = mlp_experts(3, 5, 7, 2), th.randn(4, 5)
    last = network.last
    y = th.einsum("teh,eho->eto", network.hidden(x), network.last.weight_EIO)
    th.testing.assert_close(y + last.bias_EO.unsqueeze(1), network(x))
    assert network.has_hidden
    assert not StackedNetwork([nn.Linear(5, 2)] * 2).has_hidden


def test_rows_are_sorted_once_that_saves_more_than_it_costs():
    network = mlp_experts(8, 64, 64, 64)
    router = SparseMoE(network, RouterInput(features=64, num_experts=8))
    assert network.macs * 7 * 69 < experts_module.WIDE_UP_TO["cpu"] < network.macs * 7 * 70
    calls, sorted_rows = [], network._on_sorted_rows
    network._on_sorted_rows = lambda *args: calls.append(1) or sorted_rows(*args)
    router(th.randn(69, 1, 64))
    assert calls == []
    y, _ = router(x := th.randn(70, 1, 64))
    assert calls == [1]
    network.needs_all_rows = True
    th.testing.assert_close(router(x)[0], y)
    assert calls == [1]


def test_where_matrices_are_to_be_padded_sorting_costs_more():
    assert mlp_experts(8, 64, 64, 64).padded == 0
    assert mlp_experts(8, 63, 64, 64).padded == 8 * 63 * 64
    few, many = mlp_experts(3, 63, 64, 64), mlp_experts(8, 63, 64, 64)
    assert not few._groups(th.randn(2, 63))
    assert many._groups(th.randn(2, 63)) == hasattr(nn.functional, "grouped_mm")


@pytest.mark.parametrize("make", [StackedNetwork, lambda made: SeparateNetworks(made, 3)])
def test_no_experts_and_different_ones_are_errors(make):
    with pytest.raises(ValueError, match="`experts` must hold at least 1 expert, got 0"):
        make([])
    with pytest.raises(ValueError, match=r"`experts` must be alike, got .*=3.*expert 1, .*=4"):
        make([nn.Linear(5, 3), nn.Linear(5, 4)])


@pytest.mark.parametrize("odd", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}])
def test_a_convolution_of_an_odd_kind_is_an_error(odd):
    convs = nn.Sequential(nn.Conv2d(2, 4, 3, **odd))
    expert = nn.Sequential(ImageEncoder(convs, IMAGE), nn.Linear(64, 3))
    with pytest.raises(TypeError, match=r"must have groups=1, dilation=1 and padding_mode"):
        StackedNetwork([expert])
