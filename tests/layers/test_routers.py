"""What each router decides: scores, gates, choices, balancing, and gates that someone edits."""

import runpy
from pathlib import Path

import pytest
import reference
import torch as th
from own_parts import mlp_experts
from torch import nn

from sb3_moe.layers import (
    BeliefMoE,
    EmbeddingMoE,
    ExpertChoiceMoE,
    LinearScores,
    RandomMoE,
    RouterInput,
    SoftMoE,
    SparseMoE,
    TaskMoE,
    UniformMoE,
)
from sb3_moe.layers.classes import own_options
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.layers.routing import LONG_AXIS_FROM, Routing, softmax_over_experts


def make(cls, num_experts=4, num_tokens=1, num_tasks=0, features=5, **options):
    th.manual_seed(0)
    sees = RouterInput(
        features=features, num_experts=num_experts, num_tokens=num_tokens, num_tasks=num_tasks
    )
    return cls(mlp_experts(num_experts, 5, 7, 3), sees, **options)


def skew(layer, column=2):
    """Make the router prefer one expert for inputs with a positive first feature."""
    with th.no_grad():
        layer.router.weight_RK.mul_(0.1)
        layer.router.weight_RK[0, column] = 2.0


def skewed_rows(rows=8):
    x = th.randn(rows, 1, 5)
    x[..., 0] = 3.0
    return x


# Scores.


def test_scores_are_a_linear_map_without_bias_that_is_no_linear_layer():
    router, x = LinearScores(5, 4), th.randn(2, 3, 5)
    th.testing.assert_close(router(x), x @ router.weight_RK)
    assert list(router.state_dict()) == ["weight_RK"]
    # SB3's orthogonal init visits nn.Linear and nn.Conv2d.
    assert not any(isinstance(m, nn.Linear | nn.Conv2d) for m in router.modules())


def test_noise_is_added_only_while_training():
    router, x = LinearScores(5, 4, noise=0.5), th.randn(200, 3, 5)
    clean = x @ router.weight_RK
    th.manual_seed(0)
    assert (router(x) - clean).std().item() == pytest.approx(0.5, rel=0.1)
    th.testing.assert_close(router.eval()(x), clean)


def test_all_of_a_frozen_router_is_saved_and_nothing_of_it_learns():
    layer = make(RandomMoE, hidden=[4], normalize_router=True, bias=True)
    assert list(layer.router.parameters()) == []
    names = ["0.weight", "0.bias", "2.weight_RK", "2.bias_K", "2.scale"]
    assert list(layer.router.state_dict()) == names
    assert layer.losses == frozenset()


# Gates.


@pytest.mark.parametrize(("num_tokens", "slots"), [(1, 1), (4, 1), (5, 2)])
def test_slots_are_enough_for_all_tokens_and_gates_are_summed_over_them(num_tokens, slots):
    layer, x = make(SoftMoE, num_tokens=num_tokens), th.randn(2, num_tokens, 5)
    assert layer.num_slots == slots
    _, routing = layer(x)
    combine = (x @ layer.router.weight_RK).softmax(-1).unflatten(-1, (4, slots))
    th.testing.assert_close(routing.gates_BNE, combine.sum(-1))
    th.testing.assert_close(routing.probs_BNE, combine.sum(-1))
    assert routing.experts_BNk is None


@pytest.mark.parametrize("num_experts", [3, LONG_AXIS_FROM])
def test_a_softmax_over_few_or_many_experts_is_torchs(num_experts):
    logits = th.randn(4, 2, num_experts)
    th.testing.assert_close(softmax_over_experts(logits), logits.softmax(-1))


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("bias_rate", [0.0, 0.1])
def test_of_equal_scores_the_first_counts(top_k, bias_rate):
    layer = make(SparseMoE, num_experts=40, top_k=top_k, bias_rate=bias_rate)
    nn.init.zeros_(layer.router.weight_RK)
    assert layer(th.randn(6, 1, 5))[1].experts_BNk.tolist() == [[list(range(top_k))]] * 6


def test_no_row_is_dropped_where_all_choose_one_expert_and_others_get_no_gradient():
    layer, x = make(SparseMoE), skewed_rows()
    skew(layer)
    y, routing = layer(x)
    assert set(routing.experts_BNk.flatten().tolist()) == {2}
    assert routing.load_E.tolist() == [0, 0, 1, 0]
    th.testing.assert_close(y, routing.gates_BNE[..., 2:3] * layer.experts.expert(2)(x))
    y.sum().backward()
    gradient = layer.experts.layers[0].weight.grad
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0
    assert layer.router.weight_RK.grad.abs().sum() > 0


def test_each_expert_chooses_its_share_of_every_samples_tokens_and_the_rest_is_zero():
    layer = make(ExpertChoiceMoE, num_experts=3, num_tokens=7, top_k=2)
    y, routing = layer(th.randn(8, 7, 5))
    assert layer.capacity(7) == 5
    assert (routing.gates_BNE > 0).sum(1).eq(5).all()
    layer = make(ExpertChoiceMoE, num_experts=3, num_tokens=6)
    y, routing = layer(th.randn(8, 6, 5))
    unchosen = routing.gates_BNE.sum(-1) == 0
    assert unchosen.any()
    assert y[unchosen].abs().sum() == 0
    assert (y[~unchosen].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("cls", [TaskMoE, EmbeddingMoE])
def test_a_normalized_task_id_still_is_that_task(cls):
    layer = make(cls, num_experts=3, num_tasks=3, features=3)
    x, onehot = th.randn(4, 1, 5), th.eye(3)[th.tensor([0, 2, 1, 0])].unsqueeze(1)
    y, routing = layer(x, 2.5 * onehot - 1)
    plain_y, plain = layer(x, onehot)
    th.testing.assert_close(y, plain_y)
    th.testing.assert_close(routing.gates_BNE, plain.gates_BNE)
    assert th.equal(plain.gates_BNE[0], plain.gates_BNE[3])
    if cls is TaskMoE:
        assert th.equal(plain.gates_BNE, onehot)


def test_weights_below_zero_are_work_too():
    layer = make(EmbeddingMoE, num_experts=3, num_tasks=3, features=3)
    with th.no_grad():
        layer.task_weights.weight_KW.copy_(th.tensor([[-3.0, 1.0, 0.0]]).expand(3, 3))
    load_E = layer(th.randn(2, 1, 5), th.eye(3)[:2].unsqueeze(1))[1].load_E
    assert load_E.tolist() == pytest.approx([0.75, 0.25, 0.0])


def test_a_routing_without_scores_says_so():
    routing = make(UniformMoE)(th.zeros(1, 1, 5))[1]
    assert routing.logits_BNE is None
    assert routing.gates_BNE.tolist() == [[[0.25] * 4]]
    with pytest.raises(ValueError, match="pass `logits=` to `combine`"):
        _ = routing.probs_BNE


# Gates that someone edits.


def without(k):
    return lambda gates: gates * (th.arange(gates.shape[-1]) != k)


@pytest.mark.parametrize(
    ("cls", "num_tokens", "options"),
    [
        (SoftMoE, 1, {}),
        (SoftMoE, 1, {"num_slots": 2}),
        (SoftMoE, 3, {"num_slots": 2}),
        (RandomMoE, 1, {}),
        (UniformMoE, 2, {}),
        (EmbeddingMoE, 1, {"weights": "softmax"}),
        (SparseMoE, 1, {"top_k": 3}),
    ],
)
def test_what_an_edited_expert_loses_goes_to_the_others_of_a_softmax(cls, num_tokens, options):
    layer = make(cls, num_tokens=num_tokens, num_tasks=3, **options)
    seen = th.eye(3)[:, None].expand(3, num_tokens, 3) if cls.sees == "task" else None
    x = th.randn(3, num_tokens, 5)
    before = layer(x, seen)[1]
    shares = before.gates_BNE if before.experts_BNk is None else before.probs_BNE
    left = without(1)(shares)
    layer.edit_gates = without(1)
    y, routing = layer(x, seen)
    th.testing.assert_close(routing.gates_BNE, left / left.sum(-1, keepdim=True))
    if num_tokens == 1:
        each = th.stack([layer.experts.expert(k)(x) for k in range(4)], -1)
        th.testing.assert_close(y, (each * routing.gates_BNE.unsqueeze(-2)).sum(-1))
    layer.edit_gates = None
    th.testing.assert_close(layer(x, seen)[1].gates_BNE, before.gates_BNE)


def test_an_edited_expert_is_not_chosen_whatever_its_bias():
    layer, x = make(SparseMoE, bias_rate=0.1), skewed_rows()
    skew(layer)
    layer.running_bias_E[2] = 9.0
    assert layer(x)[1].experts_BNk.eq(2).all()
    layer.edit_gates = without(2)
    y, routing = layer(x)
    assert routing.gates_BNE[..., 2].eq(0).all()
    th.testing.assert_close(y, routing.gates_BNE.sum(-1, keepdim=True) * y_of(layer, x, routing))


def y_of(layer, x, routing):
    rows = zip(x.squeeze(1), routing.gates_BNE.argmax(-1).flatten().tolist(), strict=True)
    return th.stack([layer.experts.expert(k)(row) for row, k in rows]).unsqueeze(1)


def test_the_task_router_and_linear_weights_take_edited_gates_as_they_are():
    x, onehot = th.randn(3, 1, 5), th.eye(3).unsqueeze(1)
    for cls in (TaskMoE, EmbeddingMoE):
        layer = make(cls, num_experts=3, num_tasks=3, features=3)
        before = layer(x, onehot)[1].gates_BNE
        layer.edit_gates = lambda gates: without(1)(gates) + 0.5
        y, routing = layer(x, onehot)
        th.testing.assert_close(routing.gates_BNE, without(1)(before) + 0.5)
        each = th.stack([layer.experts.expert(k)(x) for k in range(3)], -1)
        th.testing.assert_close(y, (each * routing.gates_BNE.unsqueeze(-2)).sum(-1))


def test_an_edited_expert_still_chooses_tokens_but_adds_nothing():
    layer = make(ExpertChoiceMoE, num_experts=3, num_tokens=6)
    x = th.randn(4, 6, 5)
    before = layer(x)[1].gates_BNE
    layer.edit_gates = without(1)
    y, routing = layer(x)
    th.testing.assert_close(routing.gates_BNE, without(1)(before))
    assert y[routing.gates_BNE.sum(-1) == 0].abs().sum() == 0


# Loss-free balancing.


def test_the_bias_moves_after_each_training_batch_and_towards_the_idle():
    layer = make(SparseMoE, bias_rate=0.01)
    skew(layer)
    for batches in (1, 2):
        layer(skewed_rows(16))
        bias = 0.01 * batches
        th.testing.assert_close(layer.running_bias_E, th.tensor([bias, bias, -bias, bias]))


def test_the_bias_stays_in_evaluation_or_without_gradients_or_while_the_router_is_held():
    layer = make(SparseMoE, bias_rate=0.01)
    with th.no_grad():
        layer(th.randn(4, 1, 5))
    layer.eval()(th.randn(4, 1, 5))
    layer.train().router.requires_grad_(False)
    layer(th.randn(4, 1, 5))
    assert layer.running_bias_E.tolist() == [0.0] * 4


def test_the_bias_chooses_but_is_no_part_of_the_gate():
    layer, x = make(SparseMoE, bias_rate=0.01), th.randn(5, 1, 5)
    layer.running_bias_E.copy_(th.tensor([0.0, 9.0, 0.0, 0.0]))
    _, routing = layer(x)
    assert routing.experts_BNk.eq(1).all()
    th.testing.assert_close(
        routing.gates_BNE[..., 1], (x @ layer.router.weight_RK).softmax(-1)[..., 1]
    )
    reference.assert_same(layer, x, x)


# What others rely on.


@pytest.mark.parametrize("name", list(ROUTERS))
def test_expert_axes_name_every_tensor_of_a_router_that_has_entries_for_experts(name):
    cls, tasks = ROUTERS.find(name), 3
    options = {"bias": True} if "bias" in own_options(cls) else {}
    options |= {"bias_rate": 0.1} if name == "top_k" else {}
    layer = make(cls, num_tokens=9, num_tasks=tasks, **options)
    tensors = {n: t for n, t in layer.state_dict().items() if not n.startswith("experts.")}
    slots = layer.num_slots if isinstance(layer, SoftMoE) else 1
    found = {n: t.shape.index(4 * slots) for n, t in tensors.items()}
    assert layer.expert_axes() == found


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (SoftMoE, {"hidden": [0]}, ValueError, "`hidden` must be at least 1, got 0"),
        (SparseMoE, {"top_k": 5}, ValueError, r"`top_k` must be in \[1, num_experts=4\], got 5"),
        (SparseMoE, {"renormalize": True}, ValueError, "`renormalize`=True needs `top_k` of at l"),
        (ExpertChoiceMoE, {"top_k": 5}, ValueError, r"`top_k` must be in \[1, num_experts=4\]"),
        (ExpertChoiceMoE, {"num_tokens": 1}, ValueError, "chooses among the tokens of one sample"),
        (BeliefMoE, {"temperature": 0.0}, ValueError, r"`temperature` must be in \(0, inf\]"),
        (EmbeddingMoE, {"weights": "none"}, ValueError, r"must be one of \['linear', 'softmax'\]"),
    ],
)
def test_options_out_of_range_are_named(cls, options, error, message):
    with pytest.raises(error, match=message):
        make(cls, **{"num_tokens": 3} | options)


def test_two_tokens_of_one_load_by_hand():
    gates = th.tensor([[[0.75, 0.0], [0.5, 0.0]], [[0.0, 0.25], [1.0, 0.0]]])
    chosen = th.tensor([[[0], [0]], [[1], [0]]])
    assert Routing(gates, None, chosen).load_E.tolist() == [0.75, 0.25]
    assert Routing(gates).load_E.tolist() == pytest.approx([0.9, 0.1])


def test_the_shared_expert_of_the_example_always_acts_and_the_best_of_the_others_are_added():
    pytest.importorskip("matplotlib", reason="the example needs the cli extra")
    example = Path(__file__).parents[2] / "examples" / "11_your_own_router.py"
    layer, x = make(runpy.run_path(str(example))["Shared"], top_k=2), th.randn(8, 5)
    y, _ = layer(x)
    slow = []
    for row in x:
        probs = layer.scores(row).softmax(-1)
        best = sorted(range(3), key=lambda k: -probs[k].item())[:2]
        outputs = [reference.expert(layer.experts, k)(row) for k in range(4)]
        slow.append(outputs[0] + sum(probs[k] * outputs[k + 1] for k in best))
    th.testing.assert_close(y, slow := th.stack(slow), atol=1e-5, rtol=1e-5)
    fast_ones = th.autograd.grad(y.square().sum(), list(layer.parameters()))
    slow_ones = th.autograd.grad(slow.square().sum(), list(layer.parameters()))
    th.testing.assert_close(fast_ones, slow_ones, atol=1e-5, rtol=1e-5)
