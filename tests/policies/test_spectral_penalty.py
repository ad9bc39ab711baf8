"""The spectral penalty on hand-worked numbers, against the slow version, either way."""

import math

import pytest
import reference
import torch as th
from torch import nn

from sb3_moe.layers import (
    RouterInput,
    SparseMoE,
    TaskMoE,
    UniformMoE,
    mlp_experts,
)
from sb3_moe.layers import experts as experts_module
from sb3_moe.policies.spectral import (
    ByFeatures,
    ByLoss,
    gated_features,
    penalty_gradient,
    spectral_penalty,
)


def test_directions_that_are_used_alike_cost_nothing():
    assert spectral_penalty(th.eye(4, dtype=th.float64)).item() == pytest.approx(0.0)


def test_a_single_direction_costs_all_but_its_share_by_hand():
    # A is 2 on one place of the diagonal and 0 elsewhere: 4 - 4 / 3
    phi = th.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert spectral_penalty(phi).item() == pytest.approx(4 - 4 / 3)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5), (5, 1)])
def test_penalty_and_gradient_are_the_slow_versions_whichever_product_is_smaller(shape):
    phi = th.randn(shape, dtype=th.float64, requires_grad=True)
    slow = reference.spectral_penalty(phi)
    (slow_gradient,) = th.autograd.grad(slow, phi)
    th.testing.assert_close(spectral_penalty(phi), slow)
    th.testing.assert_close(penalty_gradient(phi.detach()), slow_gradient)


def layer_of(kind, num_experts=3, width=7):
    th.manual_seed(0)
    experts = mlp_experts(num_experts, 5, width, 2, nn.Tanh)
    sees = RouterInput(features=5, num_experts=num_experts, num_tasks=num_experts)
    if kind == "top_k":
        layer = SparseMoE(experts, sees, top_k=2, renormalize=True)
    else:
        layer = {"task": TaskMoE, "uniform": UniformMoE}[kind](experts, sees)
    return layer.double()


def seen(kind, num_experts=3, rows=6):
    x = th.randn(rows, 1, 5, dtype=th.float64)
    onehot = th.eye(num_experts, dtype=th.float64)[th.arange(rows) % num_experts].unsqueeze(1)
    return x, onehot if kind == "task" else x


@pytest.mark.parametrize("kind", ["top_k", "task", "uniform"])
def test_features_are_those_of_the_slow_version_values_and_gradients(kind):
    layer = layer_of(kind)
    x, router = seen(kind)
    routing = layer(x, router)[1]
    fast = gated_features(layer.experts, x, routing).flatten(1)
    slow = reference.gated_features(layer, x, routing.gates_BNE)
    th.testing.assert_close(fast, slow)
    tensors = list(layer.parameters())
    th.testing.assert_close(reference.gradients(fast, tensors), reference.gradients(slow, tensors))


def step_of(layer, x, penalty=None):
    handle = penalty and layer.register_forward_hook(penalty.hook, with_kwargs=True)
    layer.zero_grad()
    layer.train()(x)[0].square().mean().backward()
    if handle:
        handle.remove()
    return [p.grad.clone() for p in layer.parameters()]


@pytest.mark.parametrize("way", ["wide", "sorted"])
def test_by_features_adds_the_slow_gradient_times_the_ratio_at_the_features(way, monkeypatch):
    layer, (x, _) = layer_of("top_k", num_experts=9), seen("top_k", rows=12)
    if way == "sorted":
        monkeypatch.setattr(experts_module, "WIDE_UP_TO", {"cpu": -math.inf})
    plain, with_it = step_of(layer, x), step_of(layer, x, ByFeatures(0.5))

    y, routing = layer.eval()(x)
    phi = reference.gated_features(layer, x, routing.gates_BNE)
    (own,) = th.autograd.grad(reference.spectral_penalty(phi), phi, retain_graph=True)
    # The output is linear in the features.
    last = layer.experts.last.weight_EIO.flatten(0, 1)
    of_loss = (2 * y / y.numel()).squeeze(1) @ last.T
    counts = (phi != 0).double()
    weight = 0.5 * (of_loss * counts).norm() / (own * counts).norm()
    added = th.autograd.grad(
        phi, list(layer.parameters()), weight.detach() * own, allow_unused=True
    )
    for ours, base, extra in zip(with_it, plain, added, strict=True):
        th.testing.assert_close(ours, base + (0 if extra is None else extra))
    assert any(extra is not None and extra.abs().max() > 1e-5 for extra in added)


def test_without_a_loss_to_read_by_loss_adds_nothing():
    layer, (x, _) = layer_of("top_k"), seen("top_k")
    th.testing.assert_close(step_of(layer, x, ByLoss(0.5)), step_of(layer, x))


def test_no_penalty_counts_in_evaluation_or_on_request():
    layer, (x, _) = layer_of("top_k"), seen("top_k")
    layer.register_forward_hook(ByFeatures(0.5).hook, with_kwargs=True)
    assert "Attached" in type(layer.train()(x)[0].grad_fn).__name__
    assert "Attached" not in type(layer(x, aux=False)[0].grad_fn).__name__
    assert "Attached" not in type(layer.eval()(x)[0].grad_fn).__name__
