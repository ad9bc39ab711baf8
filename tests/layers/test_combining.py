"""Outputs made orthonormal over the experts, and weights learned for each task."""

import pytest
import reference
import torch as th
from sb3_moe.layers.combining import Orthogonal
from sb3_moe.layers.embedding_moe import TaskWeights
from torch import nn

from sb3_moe.layers import EmbeddingMoE, LinearRouter, SoftMoE, UniformMoE, mlp_experts


def test_gram_schmidt_by_hand():
    # (3, 4) becomes (.6, .8); of (0, 5) that leaves (0, 5) - 4 (.6, .8) = (-2.4, 1.8).
    found = Orthogonal.outputs(th.tensor([[[3.0, 4.0]], [[0.0, 5.0]]]))
    th.testing.assert_close(found, th.tensor([[[0.6, 0.8]], [[-0.8, 0.6]]]))


def test_halves_become_as_orthonormal_as_single_precision_can_say():
    y = Orthogonal.outputs(th.randn(4, 50, 32).bfloat16())
    products = th.einsum("eto,fto->tef", y, y)
    th.testing.assert_close(products, th.eye(4).expand_as(products), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_experts", [1, 3, 8])
def test_outputs_are_orthonormal_up_to_the_width(num_experts):
    y = Orthogonal.outputs(th.randn(num_experts, 50, 8, dtype=th.float64))
    products = th.einsum("eto,fto->tef", y, y)
    eye = th.eye(num_experts, dtype=th.float64).expand_as(products)
    th.testing.assert_close(products, eye, atol=1e-9, rtol=0)


def test_more_experts_than_directions_are_refused():
    Orthogonal.check(8, 8)
    with pytest.raises(ValueError, match="at least as many outputs as there are experts, 9, got 8"):
        Orthogonal.check(9, 8)


def test_what_is_nothing_but_others_stays_finite_and_so_does_its_gradient():
    y = th.ones(3, 4, 5, requires_grad=True)
    found = Orthogonal.outputs(y)
    assert found.isfinite().all()
    (gradient,) = th.autograd.grad(found.sum(), y)
    assert gradient.isfinite().all()
    zeros = th.zeros(2, 1, 3, requires_grad=True)
    (gradient,) = th.autograd.grad(Orthogonal.outputs(zeros).sum(), zeros)
    assert gradient.isfinite().all()


def summed(y_ETO, gates_TE):
    """The sum by torch's own operations."""
    return (Orthogonal.outputs(y_ETO) * gates_TE.t().unsqueeze(-1)).sum(0)


def rows(num_experts, width=8, num_rows=7):
    th.manual_seed(num_experts)
    y = th.randn(num_experts, num_rows, width, dtype=th.float64, requires_grad=True)
    gates = th.randn(num_rows, num_experts, dtype=th.float64, requires_grad=True)
    return y, gates


@pytest.mark.parametrize("num_experts", [1, 2, 3, 8])
def test_the_sum_as_one_operation_has_the_gradients_of_its_parts(num_experts):
    inputs = rows(num_experts)
    d = th.randn(7, 8, dtype=th.float64)
    one, parts = Orthogonal.mixture(*inputs), summed(*inputs)
    th.testing.assert_close(one, parts)
    gradients = [th.autograd.grad(each, inputs, d) for each in (one, parts)]
    th.testing.assert_close(*gradients)


def test_its_gradients_can_be_differentiated_again():
    assert th.autograd.gradgradcheck(Orthogonal.mixture, rows(3, 5, 2))


def test_many_gradients_can_be_taken_at_once():
    y, gates = rows(3)
    many = th.randn(4, 7, 8, dtype=th.float64)
    found = th.autograd.grad(Orthogonal.mixture(y, gates), (y, gates), many, is_grads_batched=True)
    each = [th.autograd.grad(summed(y, gates), (y, gates), d) for d in many]
    th.testing.assert_close(found, tuple(map(th.stack, zip(*each, strict=True))))


def test_what_hangs_on_an_output_is_called_once_where_gradients_are_differentiated_again():
    y, gates = rows(3)
    outputs, calls = y * 1.0, []
    outputs.register_hook(lambda gradient: calls.append(1) or 2.0 * gradient)
    d = th.randn(7, 8, dtype=th.float64)
    found = th.autograd.grad(Orthogonal.mixture(outputs, gates), y, d, create_graph=True)
    (once,) = th.autograd.grad(summed(y, gates), y, d)
    th.testing.assert_close(found, (2.0 * once,))
    assert calls == [1]


def test_gates_that_depend_on_the_outputs_have_their_part_counted_once():
    y, _ = rows(3)
    d = th.randn(7, 8, dtype=th.float64)
    one, parts = (each(y, y.mean(2).t()) for each in (Orthogonal.mixture, summed))
    gradients = [th.autograd.grad(each, y, d, create_graph=True) for each in (one, parts)]
    th.testing.assert_close(*gradients)


def test_what_needs_no_gradient_gets_none():
    y, gates = rows(3)
    (only_y,) = th.autograd.grad(Orthogonal.mixture(y, gates.detach()).sum(), y)
    (only_gates,) = th.autograd.grad(Orthogonal.mixture(y.detach(), gates).sum(), gates)
    found = th.autograd.grad(summed(y, gates).sum(), (y, gates))
    th.testing.assert_close((only_y, only_gates), found)


def test_a_vector_of_which_nothing_is_left_has_the_gradients_of_the_parts_too():
    y, gates = rows(3)
    with th.no_grad():
        y[1] = 0.0
    gradients = [
        th.autograd.grad(each(y, gates).square().sum(), (y, gates))
        for each in (Orthogonal.mixture, summed)
    ]
    th.testing.assert_close(*gradients)


def test_the_sum_goes_through_transforms_and_autocast():
    y, gates = rows(3)
    transformed = th.func.jacrev(Orthogonal.mixture)(y, gates)
    jacobian = th.autograd.functional.jacobian(lambda y: Orthogonal.mixture(y, gates), y)
    th.testing.assert_close(transformed, jacobian)
    with th.autocast("cpu", dtype=th.bfloat16):
        halves = Orthogonal.mixture(y.float(), gates.bfloat16())
    assert halves.dtype == th.float32
    th.testing.assert_close(halves.double(), summed(y, gates), atol=0.05, rtol=0.02)


def test_the_sum_of_halves_is_in_single_precision():
    y, gates = rows(3)
    assert Orthogonal.mixture(y.bfloat16(), gates.bfloat16()).dtype == th.float32


def layer_of(softmax=False, bias=False, orthogonal=False):
    th.manual_seed(0)
    task_weights = TaskWeights(4, 3, bias=bias)
    layer = EmbeddingMoE(mlp_experts(3, 5, 7, 6, nn.Tanh), task_weights, softmax=softmax)
    if bias:
        nn.init.normal_(task_weights.bias_E)
    layer.experts.combination = Orthogonal if orthogonal else None
    return layer.double()


def seen():
    x = th.randn(6, 1, 5, dtype=th.float64)
    return x, th.eye(4, dtype=th.float64)[th.tensor([0, 1, 2, 3, 3, 0])].unsqueeze(1)


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_an_embedding_is_the_slow_version_values_and_gradients(softmax, bias, orthogonal):
    layer = layer_of(softmax, bias, orthogonal)
    x, onehot = seen()
    reference.assert_same(layer, reference.embedding_moe, x, onehot)
    gates = layer(x, onehot)[1].gates_BNE
    assert th.equal(gates[0], gates[5])
    assert not th.equal(gates[0], gates[1])


def test_an_embedding_takes_the_largest_entry_for_the_one():
    layer, (x, onehot) = layer_of(), seen()
    th.testing.assert_close(layer(x, 3 * onehot - 1)[0], layer(x, onehot)[0])


@pytest.mark.parametrize("kind", ["soft", "uniform"])
def test_other_routers_sum_orthonormal_outputs_too(kind):
    th.manual_seed(0)
    experts = mlp_experts(3, 5, 7, 6)
    layer = SoftMoE(experts, LinearRouter(5, 3)) if kind == "soft" else UniformMoE(experts)
    layer = layer.double()
    experts.combination = Orthogonal
    x = th.randn(4, 1, 5, dtype=th.float64)
    y, routing = layer(x)
    for row, gates, out in zip(x.squeeze(1), routing.gates_BNE.squeeze(1), y, strict=True):
        units = reference.gram_schmidt([run(row) for run in reference.experts(layer)])
        slow = sum(gate * unit for gate, unit in zip(gates, units, strict=True))
        th.testing.assert_close(out.squeeze(0), slow)


def test_a_shared_map_is_the_first_layers_and_another_is_its_own():
    first, second = layer_of(), layer_of()
    second.join(first)
    assert second.task_weights is not first.task_weights
    second.shared = True
    second.join(first)
    assert second.task_weights is first.task_weights


def test_the_gates_of_a_task_are_known_and_of_none_are_not():
    layer, (x, onehot) = layer_of(softmax=True), seen()
    assert layer.gates_of(None) is None
    assert layer.gates_of(1) == pytest.approx(layer(x, onehot)[1].gates_BNE[1, 0].tolist())


def test_linear_weights_take_no_copies_and_shares_start_alike():
    with pytest.raises(ValueError, match="'embedding' with linear weights can't take copies"):
        layer_of().take_copies()
    assert layer_of(softmax=True).take_copies() == 1.0
    for layer in (layer_of(bias=True), layer_of(softmax=True, bias=True)):
        layer.take_shares()
        assert layer.gates_of(2) == pytest.approx([1 / 3] * 3)


def test_weights_below_zero_are_work_too():
    layer, (x, onehot) = layer_of(), seen()
    with th.no_grad():
        layer.task_weights.weight_KE.copy_(th.tensor([[-3.0, 1.0, 0.0]]).expand(4, 3))
    assert layer(x, onehot)[1].load_E.tolist() == pytest.approx([0.75, 0.25, 0.0])
