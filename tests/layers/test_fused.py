"""Two-layer experts as one operation, and sorted rows in one call for each layer, against loops.

A hook on the experts' activation makes a layer run its modules one after another: the slow version
to compare with.
"""

import copy
from contextlib import nullcontext

import pytest
import reference
import torch as th
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp

from sb3_moe.layers import (
    AuxCoefs,
    LinearRouter,
    SoftMoE,
    SparseMoE,
    UniformMoE,
    fused,
    grouped,
    mlp_experts,
    paths,
)


def soft(activation_fn=nn.ReLU, experts=4, **kwargs):
    th.manual_seed(0)
    network = mlp_experts(experts, 5, 7, 3, activation_fn)
    return SoftMoE(network, LinearRouter(5, experts), **kwargs)


def top_k(activation_fn=nn.ReLU, k=1, experts=9):
    th.manual_seed(0)
    network = mlp_experts(experts, 5, 7, 3, activation_fn)
    return SparseMoE(network, LinearRouter(5, experts), top_k=k)


def few(activation_fn=nn.ReLU):
    """Return a layer of so few experts that they run one by one."""
    return top_k(activation_fn, experts=paths.GROUPED_FROM - 1)


def uniform(activation_fn=nn.ReLU):
    th.manual_seed(0)
    return UniformMoE(mlp_experts(4, 5, 7, 3, activation_fn))


def watched(layer):
    """Return a twin whose activation has a hook."""
    twin = copy.deepcopy(layer)
    twin.experts.layers[1].register_forward_hook(lambda *args: None)
    return twin


def outcome(layer, x, loss=lambda y, routing: (y * y.detach().cos()).sum()):
    x = x.clone().requires_grad_()
    y, routing = layer(x)
    grads = th.autograd.grad(loss(y, routing), [x, *layer.parameters()], allow_unused=True)
    return [y, routing.gates_BNE, *grads]


@pytest.fixture
def calls(monkeypatch):
    """Count the passes through either operation."""
    grouped.can_group(th.device("cpu"), th.float32)  # tries, once
    seen = []
    for module, name in ((fused, "_inside"), (grouped, "_rows")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, f=original, n=name: (seen.append(n), f(*args))[1]
        )
    return seen


@pytest.fixture
def sorted_rows(monkeypatch):
    monkeypatch.setattr(paths, "MASK_LIMIT", -1)


@pytest.mark.parametrize("activation_fn", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("make", [soft, uniform])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_one_operation_gives_the_modules_numbers_to_the_last_bit(calls, make, activation_fn, batch):
    layer, x = make(activation_fn), th.randn(batch, 1, 5)
    found = outcome(layer, x)
    assert calls
    del calls[:]
    th.testing.assert_close(found, outcome(watched(layer), x), rtol=0, atol=0)
    assert not calls


@pytest.mark.parametrize("seen", ["the same", "more", "the same, given twice"])
def test_the_router_may_see_other_features(calls, seen):
    layer, x = soft().double(), th.randn(6, 1, 5, dtype=th.float64)
    router = x.clone() if seen == "the same" else th.randn_like(x)
    reference.assert_same(layer, reference.soft_moe, x, router)
    assert "_inside" in calls


def test_auxiliary_losses_reach_the_router_through_the_scores():
    layer = soft(aux=AuxCoefs(balance=0.5, importance=0.3, z=0.1))
    x = th.randn(6, 1, 5)
    th.testing.assert_close(outcome(layer, x), outcome(watched(layer), x))


def test_a_loss_of_the_routing_alone_leaves_the_experts_without_gradient():
    layer = soft()
    found = outcome(layer, th.randn(6, 1, 5), lambda y, routing: routing.gates_BNE[..., 0].sum())
    assert all(tensor is None or tensor.abs().sum() == 0 for tensor in found[3:7])
    assert found[7].abs().sum() > 0


@pytest.mark.parametrize("frozen", ["experts", "router", "input"])
def test_what_needs_no_gradient_gets_none(frozen):
    layer, x = soft(), th.randn(6, 1, 5)
    part = {"experts": layer.experts, "router": layer.router, "input": nn.Module()}[frozen]
    part.requires_grad_(False)
    twin = watched(layer)
    for each in (layer, twin):
        each(x.requires_grad_(frozen != "input"))[0].square().sum().backward()
    for ours, other in zip(layer.parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None)
        assert ours.grad is None or ours.grad.equal(other.grad)


@pytest.mark.covering
@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("make", [soft, uniform])
def test_gradients_can_be_differentiated_again(calls, make, activation_fn):
    layer = make(activation_fn).double()
    x = th.randn(3, 1, 5, dtype=th.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *tensors):
        return functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))[0]

    inputs = (x, *layer.parameters())
    assert th.autograd.gradcheck(call, inputs)
    assert th.autograd.gradgradcheck(call, inputs)
    assert "_inside" in calls


@pytest.mark.parametrize("make", [soft, uniform])
def test_many_gradients_can_be_taken_at_once(make):
    layer, x = make().double(), th.randn(3, 1, 5, dtype=th.float64)
    inputs, y = list(layer.parameters()), layer(x)[0]
    many = th.randn(4, *y.shape, dtype=th.float64)
    found = th.autograd.grad(y, inputs, many, is_grads_batched=True)
    each = [th.autograd.grad(layer(x)[0], inputs, d) for d in many]
    th.testing.assert_close(found, tuple(map(th.stack, zip(*each, strict=True))))


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_gradients_of_sorted_rows_can_be_differentiated_again_and_taken_many_at_once(at_once, k):
    if at_once and not grouped.can_group(th.device("cpu"), th.float64):
        pytest.skip("this torch has no grouped_mm for it")
    th.manual_seed(0)
    chosen = th.tensor([[2, 0], [0, 3], [2, 3], [2, 0], [0, 2]])[:, :k]
    order, groups = grouped.sort_rows(chosen, 4, at_once=at_once)
    x = th.randn(len(order), 5, dtype=th.float64, requires_grad=True)
    weight = th.randn(4, 5, 3, dtype=th.float64, requires_grad=True)
    bias = th.randn(4, 3, dtype=th.float64, requires_grad=True)

    def call(x, weight, bias):
        return grouped.grouped_linear(x, weight, bias, groups)

    expected = th.stack([row @ weight[e] + bias[e] for row, e in zip(x, groups[0], strict=True)])
    th.testing.assert_close(call(x, weight, bias), expected)
    assert th.autograd.gradcheck(call, (x, weight, bias))
    assert th.autograd.gradgradcheck(call, (x, weight, bias))
    many = th.randn(4, len(order), 3, dtype=th.float64)
    inputs, y = (x, weight, bias), call(x, weight, bias)
    found = th.autograd.grad(y, inputs, many, is_grads_batched=True, retain_graph=True)
    each = [th.autograd.grad(y, inputs, d, retain_graph=True) for d in many]
    th.testing.assert_close(found, tuple(map(th.stack, zip(*each, strict=True))))


def two_gradients_of_three_experts():
    order, groups = grouped.sort_rows(th.tensor([[0], [0], [1], [2], [2]]), 3, at_once=False)
    return groups, th.randn(len(order), 4), th.randn(3, 4, 2), th.randn(2, len(order), 2)


@pytest.mark.parametrize("place", ["a row", "a weight", "a gradient"])
def test_of_many_gradients_what_is_no_number_stays_with_its_expert(place):
    groups, x, weight, many = two_gradients_of_three_experts()
    {"a row": x, "a weight": weight, "a gradient": many[1]}[place].flatten()[0] = th.inf
    inputs = (x.requires_grad_(), weight.requires_grad_())
    y = grouped.rows_times(*inputs, groups)
    found = th.autograd.grad(y, inputs, many, is_grads_batched=True, retain_graph=True)
    each = [th.autograd.grad(y, inputs, d, retain_graph=True) for d in many]
    expected = tuple(map(th.stack, zip(*each, strict=True)))
    th.testing.assert_close(found, expected, equal_nan=True)
    assert found[1][0, 2].isfinite().all()


@pytest.mark.parametrize("place", ["a weight", "a gradient"])
def test_of_many_gradients_differentiated_again_it_stays_there_too(place):
    groups, x, weight, many = two_gradients_of_three_experts()
    {"a weight": weight, "a gradient": many[0]}[place].flatten()[0] = th.inf
    inputs = (x.requires_grad_(), weight.requires_grad_(), many.requires_grad_())
    y = grouped.rows_times(x, weight, groups)
    found = th.autograd.grad(y, (x, weight), many, is_grads_batched=True, create_graph=True)
    again = th.autograd.grad(sum(each.pow(2).sum() for each in found), inputs)
    others = groups.experts_M != 0
    assert again[0][others].isfinite().all()
    assert again[1][1:].isfinite().all()
    assert again[2][:, others].isfinite().all()
    assert not again[2].isfinite().all(), "what is none is told"


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_sorted_rows_at_once_equal_a_loop_over_tokens(calls, sorted_rows, k, dtype):
    if not grouped.can_group(th.device("cpu"), dtype):
        pytest.skip("this torch has no grouped_mm for it")
    layer, x = top_k(k=k).to(dtype), th.randn(6, 1, 5, dtype=dtype)
    reference.assert_same(layer, reference.sparse_moe, x, x.clone())
    assert "_rows" in calls


def test_experts_without_rows_get_a_gradient_of_zeros(sorted_rows):
    layer = top_k()
    y, routing = layer(th.randn(3, 1, 5))
    y.sum().backward()
    idle = sorted(set(range(9)) - set(routing.experts_BNk.flatten().tolist()))
    assert len(idle) >= 6
    for parameter in layer.experts.parameters():
        assert parameter.grad[idle].abs().sum() == 0


def test_without_grouped_mm_the_loop_over_experts_gives_the_same(monkeypatch, calls, sorted_rows):
    layer, x = top_k(), th.randn(6, 1, 5)
    at_once = outcome(layer, x)
    del calls[:]
    monkeypatch.delattr(grouped.F, "grouped_mm", raising=False)
    grouped.can_group.cache_clear()
    th.testing.assert_close(outcome(layer, x), at_once)
    assert not calls
    grouped.can_group.cache_clear()


@pytest.mark.parametrize("wrong", ["raises", "other numbers"])
def test_a_grouped_mm_that_does_not_work_is_not_used(monkeypatch, wrong):
    def broken(a, b, **kwargs):
        if wrong == "raises":
            raise RuntimeError("not on this device")
        return th.ones(len(a), b.shape[-1]) if b.dim() == 3 else th.ones(3, len(a), b.shape[1])

    monkeypatch.setattr(grouped.F, "grouped_mm", broken, raising=False)
    grouped.can_group.cache_clear()
    assert not grouped.can_group(th.device("cpu"), th.float32)
    grouped.can_group.cache_clear()


@pytest.mark.parametrize("device", ["meta"])
@pytest.mark.parametrize("make", [soft, top_k, uniform])
def test_no_device_but_the_cpu_is_asked_for_a_value(monkeypatch, make, device):
    # The meta device has no values: reading one fails, and so does a shape that depends on them.
    for limit in ("MASK_LIMIT", "MASK_LIMIT_ELSEWHERE", "ONE_BY_ONE_FROM", "CHUNK_SCORES"):
        monkeypatch.setattr(paths, limit, 0)
    layer = make().to(device)
    for tokens in (1, 4):
        x = th.randn(6, tokens, 5, device=device, requires_grad=True)
        layer(x)[0].sum().backward()
        assert x.grad.device.type == device


@pytest.mark.parametrize("make", [soft, uniform, top_k])
@pytest.mark.parametrize(
    "look",
    [
        lambda act: act.register_forward_hook(lambda *args: None),
        lambda act: act.register_forward_pre_hook(lambda *args: None),
        lambda act: act.register_full_backward_hook(lambda *args: None),
        lambda act: nn.modules.module.register_module_forward_hook(lambda *args: None),
    ],
    ids=["forward", "before", "backward", "everywhere"],
)
def test_whoever_looks_at_an_activation_sees_it_called(calls, sorted_rows, make, look):
    if make is top_k and not grouped.can_group(th.device("cpu"), th.float32):
        pytest.skip("this torch has no grouped_mm")
    layer = make()
    handle = look(layer.experts.layers[1])
    layer(th.randn(6, 1, 5))[0].sum().backward()
    assert not calls
    handle.remove()
    layer(th.randn(6, 1, 5))[0].sum().backward()
    assert calls


def test_a_hook_on_the_router_sees_it_called(calls):
    layer, seen = soft(), []
    layer.router.register_forward_hook(lambda *args: seen.append(args[2].shape))
    layer(th.randn(6, 1, 5))
    assert seen == [(6, 1, 4)]
    assert calls == ["_inside"]  # the experts, with its gates


def test_another_way_to_run_an_activation_is_taken(calls):
    layer, x = soft(), th.randn(6, 1, 5)
    layer.experts.layers[1].forward = lambda x: 0 * x
    y, routing = layer(x)
    expected = routing.gates_BNE @ layer.experts.last.bias_EO
    th.testing.assert_close(y, expected)
    assert not calls


@pytest.mark.parametrize("make", [soft, uniform, top_k, few])
# Torch warns of its own deprecation.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transforms_of_functions_go_through_the_modules(sorted_rows, make):
    layer, x = make(nn.Tanh), th.randn(6, 1, 5)
    loss = lambda x: layer(x)[0].square().sum()  # noqa: E731
    slope = grad(loss)(x)
    (expected,) = th.autograd.grad(loss(x.requires_grad_()), x)
    th.testing.assert_close(slope, expected)
    if make in (soft, uniform):
        direction = th.ones_like(x)
        _, along = jvp(loss, (x.detach(),), (direction,))
        th.testing.assert_close(along, expected.sum())
        with forward_ad.dual_level():
            y = loss(forward_ad.make_dual(x.detach(), direction))
            th.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected.sum())


@pytest.mark.parametrize("make", [soft, uniform, top_k])
def test_autocast_goes_through_the_modules(calls, sorted_rows, make):
    with th.autocast("cpu", th.bfloat16):
        assert make()(th.randn(6, 1, 5))[0].dtype == th.bfloat16
    assert not calls


@pytest.mark.parametrize("make", [soft, uniform, top_k])
@pytest.mark.parametrize("guard", [th.no_grad, th.inference_mode, nullcontext])
def test_passes_without_gradients_agree(sorted_rows, make, guard):
    layer, x = make(), th.randn(6, 1, 5)
    with guard():
        found = layer(x)[0]
    th.testing.assert_close(found.clone(), watched(layer)(x)[0].detach().clone())


@pytest.mark.parametrize("make", [soft, uniform])
def test_autograd_hears_of_a_pass_only_where_it_listens(calls, monkeypatch, make):
    heard, layer, x = [], make(), th.randn(6, 1, 5)
    original = fused._apply
    monkeypatch.setattr(fused, "_apply", lambda *args: (heard.append(1), original(*args))[1])
    with th.no_grad():
        quiet = layer(x)[0]
    assert (calls, heard) == (["_inside"], [])
    th.testing.assert_close(layer(x)[0].detach(), quiet, rtol=0, atol=0)
    assert (calls, heard) == (["_inside"] * 2, [1])


def test_rows_that_are_views_with_gaps_agree():
    layer, wide = soft(), th.randn(6, 2, 9)
    x = wide[:, :1, 2:7]
    th.testing.assert_close(outcome(layer, x), outcome(layer, x.contiguous()))
    assert layer(wide[:0, :1, 2:7])[0].shape == (0, 1, 3)


def test_experts_changed_in_place_between_passes_are_noticed():
    layer, x = soft(), th.randn(6, 1, 5)
    y = layer(x)[0].sum()
    with th.no_grad():
        layer.experts.last.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
