"""Stacked networks against separate networks, one plain module per expert."""

import copy

import pytest
import reference
import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm1d
from torch import nn

from sb3_moe.layers import StackedNetwork, mlp_experts, paths
from sb3_moe.layers.encoder import ImageEncoder, Residual

IMAGE = (2, 6, 6)


def mlp():
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3))


def without_bias():
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False))


def nested():
    return nn.Sequential(nn.Sequential(nn.Linear(5, 7), nn.ELU()), nn.Linear(7, 3))


def residual():
    block = nn.Sequential(nn.ReLU(), nn.Linear(5, 5))
    return nn.Sequential(Residual(block), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def activation_first():
    return nn.Sequential(nn.ReLU(), nn.Linear(5, 3))


def encoder(extra=0):
    convs = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 2))
    return nn.Sequential(ImageEncoder(convs, IMAGE), nn.ReLU(), nn.Linear(12 + extra, 3))


def encoder_with_extra_inputs():
    return encoder(extra=4)


def impala():
    block = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1, bias=False))
    convs = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), Residual(block))
    head = [nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(ImageEncoder(convs, IMAGE), *head)


def residual_convolutions_first():
    block = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    return nn.Sequential(ImageEncoder(nn.Sequential(Residual(block)), IMAGE), nn.Linear(72, 3))


def images():
    convs = [nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*convs, nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))


def flat_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.ReLU(), nn.Linear(6, 3))


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


def learned():
    return nn.Sequential(nn.Linear(5, 7), Swish(), nn.Linear(7, 3))


def activations_with_a_dim():
    softmax = nn.Softmax(dim=1), nn.Linear(7, 6), nn.LogSoftmax(dim=1)
    return nn.Sequential(nn.Linear(5, 7), *softmax, nn.Linear(6, 3))


def layer_norm():
    return nn.Sequential(nn.Linear(5, 7), started_at_random(nn.LayerNorm(7)), nn.Linear(7, 3))


def odd_activations_of_images():
    convs = nn.Conv2d(2, 3, 3), started_at_random(nn.PReLU(3)), nn.Conv2d(3, 3, 2)
    acts = Swish(), nn.Conv2d(3, 2, 2), nn.Softmax2d()
    return nn.Sequential(ImageEncoder(nn.Sequential(*convs, *acts), IMAGE), nn.Linear(8, 3))


def odd_activations_first():
    return nn.Sequential(started_at_random(nn.PReLU(5)), Swish(), nn.Linear(5, 3))


def odd_activations_of_images_first():
    convs = nn.Sequential(started_at_random(nn.PReLU()), Swish())
    return nn.Sequential(ImageEncoder(convs, IMAGE), nn.Linear(72, 3))


BUILDERS = {
    nn.Linear: (lambda: nn.Linear(5, 3), (5,)),
    mlp: (mlp, (5,)),
    without_bias: (without_bias, (5,)),
    nested: (nested, (5,)),
    residual: (residual, (5,)),
    activation_first: (activation_first, (5,)),
    encoder: (encoder, (72,)),
    encoder_with_extra_inputs: (encoder_with_extra_inputs, (76,)),
    impala: (impala, (72,)),
    residual_convolutions_first: (residual_convolutions_first, (72,)),
    images: (images, IMAGE),
    flat_images: (flat_images, IMAGE),
    prelu: (prelu, (5,)),
    learned: (learned, (5,)),
    activations_with_a_dim: (activations_with_a_dim, (5,)),
    layer_norm: (layer_norm, (5,)),
    odd_activations_of_images: (odd_activations_of_images, (72,)),
    odd_activations_first: (odd_activations_first, (5,)),
    odd_activations_of_images_first: (odd_activations_of_images_first, (72,)),
}


@pytest.fixture(params=BUILDERS.values(), ids=[build.__name__ for build in BUILDERS])
def builder(request):
    th.manual_seed(0)
    return request.param


@pytest.fixture(params=[1, 3])
def num_experts(request):
    return request.param


@pytest.fixture(params=["batched", "wide", "one by one"])
def path(request, monkeypatch):
    """The ways to run all experts, which the limits choose by size."""
    wide, cache = {"batched": (0, 10**9), "wide": (10**9, 10**9), "one by one": (0, 0)}[
        request.param
    ]
    monkeypatch.setattr(paths, "WIDE_GEMM_LIMIT", wide)
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", cache)


def build(builder, num_experts):
    make, shape = builder
    plain = [make().double() for _ in range(num_experts)]
    return plain, StackedNetwork(plain), th.randn(4, *shape, dtype=th.float64)


def assert_same_gradients(network, plain, fast, slow, x):
    """Compare with separate networks, whose gradients are stacked by ``StackedNetwork`` too."""
    th.testing.assert_close(fast, slow)
    direction = th.randn_like(fast)
    (x_fast,) = th.autograd.grad((fast * direction).sum(), [x], retain_graph=True)
    (x_slow,) = th.autograd.grad((slow * direction).sum(), [x], retain_graph=True)
    th.testing.assert_close(x_fast, x_slow)
    (fast * direction).sum().backward()
    (slow * direction).sum().backward()
    for module in plain:
        for parameter in module.parameters():
            parameter.data.copy_(th.zeros(()) if parameter.grad is None else parameter.grad)
    for parameter, gradient in zip(
        network.parameters(), StackedNetwork(plain).parameters(), strict=True
    ):
        # An expert that nobody picked has no gradient where it is a module of its own.
        given = th.zeros_like(parameter) if parameter.grad is None else parameter.grad
        th.testing.assert_close(given, gradient.detach())


def test_every_expert_on_the_same_rows_equals_separate_networks(builder, num_experts, path):
    plain, network, x = build(builder, num_experts)
    x.requires_grad_()
    slow = th.stack([module(x) for module in plain])
    assert_same_gradients(network, plain, network.every(x), slow, x)


def test_a_mixture_equals_the_gated_sum_of_separate_networks(builder, num_experts, path):
    plain, network, x = build(builder, num_experts)
    x.requires_grad_()
    gates = th.rand(4, num_experts, dtype=th.float64)
    slow = sum(gates[:, k : k + 1] * module(x) for k, module in enumerate(plain))
    assert_same_gradients(network, plain, network.mixture(x, gates), slow, x)


@pytest.mark.parametrize("mask_limit", [-1, 10**9], ids=["sorted", "masked"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_selected_experts_equal_separate_networks(
    builder, num_experts, path, monkeypatch, mask_limit, top_k
):
    top_k = min(top_k, num_experts)
    monkeypatch.setattr(paths, "MASK_LIMIT", mask_limit)
    plain, network, x = build(builder, num_experts)
    x.requires_grad_()
    gates = th.rand(4, num_experts, dtype=th.float64)
    chosen = gates.topk(top_k, dim=-1).indices
    gates = th.zeros_like(gates).scatter(1, chosen, gates.gather(1, chosen))
    slow = sum(gates[:, k : k + 1] * module(x) for k, module in enumerate(plain))
    assert_same_gradients(network, plain, network.selected(x, chosen, gates), slow, x)


@pytest.mark.parametrize("build_one", [lambda: nn.Linear(5, 3), mlp, without_bias, nested])
def test_rows_of_its_own_for_each_expert_equal_separate_networks(path, build_one):
    th.manual_seed(0)
    plain = [build_one().double() for _ in range(3)]
    network, x = StackedNetwork(plain), th.randn(3, 4, 5, dtype=th.float64, requires_grad=True)
    slow = th.stack([module(rows) for module, rows in zip(plain, x, strict=True)])
    assert_same_gradients(network, plain, network(x), slow, x)


def test_expert_k_comes_back_as_it_was_given(builder, num_experts):
    plain, network, x = build(builder, num_experts)
    for k, module in enumerate(plain):
        th.testing.assert_close(network.expert(k)(x), module(x), rtol=0, atol=0)
    again = StackedNetwork([network.expert(k) for k in range(num_experts)])
    th.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)


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


def renorm_first():
    return nn.Sequential(
        BatchRenorm1d(5), nn.Linear(5, 7), nn.ReLU(), BatchRenorm1d(7), nn.Linear(7, 3)
    )


def renorm_inside():
    return nn.Sequential(nn.Linear(5, 7), BatchRenorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def batch_norm():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, affine=False), nn.Linear(7, 3))


class Centre(nn.Module):
    """An activation of a user's own with statistics over the batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", th.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean += 0.1 * (x.mean().detach() - self.mean)
        return x - self.mean


def centred():
    return nn.Sequential(nn.Linear(5, 7), Centre(), nn.Linear(7, 3))


@pytest.mark.parametrize("build_one", [renorm_first, renorm_inside, batch_norm, centred])
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
        th.testing.assert_close(network.every(x), slow)
    for module in [*plain, network]:
        module.eval()
    th.testing.assert_close(network.every(x), th.stack([module(x) for module in plain]))
    for k, module in enumerate(plain):
        th.testing.assert_close(network.expert(k).eval()(x), module(x))
    th.testing.assert_close(network.state_dict(), StackedNetwork(plain).state_dict())


@pytest.mark.parametrize("build_one", [renorm_inside, centred])
def test_with_batch_statistics_every_expert_sees_every_row(monkeypatch, build_one):
    monkeypatch.setattr(paths, "MASK_LIMIT", -1)
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", 0)
    network, x = StackedNetwork([build_one() for _ in range(3)]), th.randn(6, 5)
    other = copy.deepcopy(network)
    gates = nn.functional.one_hot(th.tensor([0, 0, 1, 1, 2, 2]), 3).float()
    selected = network.selected(x, gates.argmax(1, keepdim=True), gates)
    th.testing.assert_close(selected, other.mixture(x, gates))
    th.testing.assert_close(network.state_dict(), other.state_dict())


def test_hooks_on_activations_see_one_row_of_units_per_expert():
    network, seen = mlp_experts(3, 5, 7, 2), []
    network.layers[1].register_forward_hook(lambda *args: seen.append(args[2].shape))
    network.every(th.randn(4, 5))
    network.mixture(th.randn(4, 5), th.rand(4, 3))
    network(th.randn(3, 4, 5))
    assert seen == [(3, 4, 7)] * 3


def test_weights_are_views_in_either_order():
    network = mlp_experts(3, 5, 7, 2)
    for layer, shape in [(network.layers[0], (3, 7, 5)), (network.last, (3, 2, 7))]:
        assert layer.weight_EOI.shape == shape
        assert layer.weight_EIO.shape == (3, shape[2], shape[1])
        assert layer.weight_EOI.data_ptr() == layer.weight.data_ptr()
        th.testing.assert_close(layer.from_EOI(layer.weight_EOI), layer.weight)


def test_state_dict_keys():
    assert list(mlp_experts(3, 5, 7, 2).state_dict()) == [
        "layers.0.weight",
        "layers.0.bias_EO",
        "last.weight",
        "last.bias_EO",
    ]


def test_the_reference_reads_the_same_weights():
    network, x = mlp_experts(3, 5, 7, 2), th.randn(4, 5)
    th.testing.assert_close(reference.expert(network, 1)(x), network.expert(1)(x))


def test_multiply_adds_count_each_linear_layer_once():
    assert mlp_experts(3, 5, 7, 2).macs == 5 * 7 + 7 * 2


def test_repr_shows_the_sizes():
    assert "3 x (5 -> 7)" in repr(mlp_experts(3, 5, 7, 2))


def test_no_experts_is_an_error():
    with pytest.raises(ValueError, match="`experts` must hold at least 1 expert, got 0"):
        StackedNetwork([])


def test_an_expert_that_does_not_end_in_linear_is_an_error():
    with pytest.raises(TypeError, match=r"must end in nn\.Linear, got ReLU"):
        StackedNetwork([nn.Sequential(nn.Linear(5, 3), nn.ReLU())])


def test_experts_of_different_sizes_are_an_error():
    with pytest.raises(ValueError, match=r"`experts` must be alike, got .*=3.*expert 1, .*=4"):
        StackedNetwork([nn.Linear(5, 3), nn.Linear(5, 4)])


@pytest.mark.parametrize("odd", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}])
def test_a_convolution_of_an_odd_kind_is_an_error(odd):
    convs = nn.Sequential(nn.Conv2d(2, 4, 3, **odd))
    expert = nn.Sequential(ImageEncoder(convs, IMAGE), nn.Linear(64, 3))
    with pytest.raises(TypeError, match=r"must have groups=1, dilation=1 and padding_mode"):
        StackedNetwork([expert])
