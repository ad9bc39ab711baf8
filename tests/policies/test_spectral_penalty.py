"""The spectral penalty on hand-worked numbers, against the slow version."""

import pytest
import reference
import torch as th
from own_parts import mlp_experts
from torch import nn

from sb3_moe.layers import RouterInput, SparseMoE, TaskMoE, UniformMoE
from sb3_moe.policies.spectral import gated_features, penalty_gradient


def test_directions_that_are_used_alike_are_left_alone():
    th.testing.assert_close(penalty_gradient(th.eye(4)), th.zeros(4, 4))


def test_the_gradient_of_a_single_direction_by_hand():
    # A is p^2 / 2 on one place of the diagonal: the penalty is p^4 / 4 * (1 - 1/3), p = 2.
    phi = th.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    wanted = th.tensor([[2.0**3 * 2 / 3, 0.0, 0.0], [0.0, 0.0, 0.0]])
    th.testing.assert_close(penalty_gradient(phi), wanted)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5), (5, 1)])
def test_the_gradient_is_the_slow_versions_whichever_product_is_smaller(shape):
    phi = th.randn(shape, dtype=th.float64, requires_grad=True)
    (slow,) = th.autograd.grad(reference.spectral_penalty(phi), phi)
    th.testing.assert_close(penalty_gradient(phi.detach()), slow)


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
