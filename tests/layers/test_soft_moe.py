"""Soft MoE against the paper's equations in Python loops."""

import pytest
import reference
import torch as th

from sb3_moe.layers import LinearRouter, SoftMoE, mlp_experts, paths

SHAPES = [  # batch, tokens, experts, slots
    (3, 4, 2, 2),
    (3, 1, 4, 1),
    (2, 1, 3, 2),
    (2, 5, 1, 1),
    (1, 1, 1, 1),
    (2, 3, 4, 1),
    (2, 3, 1, 4),
]


def make(num_experts, num_slots, *, normalize=False, in_features=5, router_features=5):
    th.manual_seed(0)
    router = LinearRouter(router_features, num_experts * num_slots, normalize=normalize)
    network = mlp_experts(num_experts, in_features, 7, 3)
    return SoftMoE(network, router, num_slots=num_slots).double()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("batch", "tokens", "num_experts", "num_slots"), SHAPES)
def test_soft_moe_equals_the_equations(batch, tokens, num_experts, num_slots, normalize):
    layer = make(num_experts, num_slots, normalize=normalize)
    x = th.randn(batch, tokens, 5, dtype=th.float64)
    reference.assert_same(layer, reference.soft_moe, x, x.clone())


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize(("wide", "cache"), [(0, 10**9), (10**9, 10**9), (0, 0)])
def test_every_way_to_run_the_experts_agrees_with_the_equations(monkeypatch, tokens, wide, cache):
    monkeypatch.setattr(paths, "WIDE_GEMM_LIMIT", wide)
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", cache)
    x = th.randn(3, tokens, 5, dtype=th.float64)
    reference.assert_same(make(3, 2), reference.soft_moe, x, x.clone())


@pytest.mark.parametrize("limit", [1, 24, 50])
def test_a_batch_in_chunks_agrees_with_the_equations(monkeypatch, limit):
    monkeypatch.setattr(paths, "CHUNK_SCORES", limit)
    x = th.randn(5, 4, 5, dtype=th.float64)
    layer = make(3, 2)
    reference.assert_same(layer, reference.soft_moe, x, x.clone())
    th.testing.assert_close(layer(x)[1].gates_BNE.sum(-1), th.ones(5, 4, dtype=th.float64))


def test_an_empty_batch_comes_out_empty():
    assert make(3, 2)(th.empty(0, 4, 5, dtype=th.float64))[0].shape == (0, 4, 3)


def test_the_router_may_see_other_features_than_the_experts():
    layer = make(3, 2, router_features=8)
    x, seen = th.randn(2, 4, 5, dtype=th.float64), th.randn(2, 4, 8, dtype=th.float64)
    reference.assert_same(layer, reference.soft_moe, x, seen)


def test_one_expert_and_one_token_equal_the_expert_as_plain_modules():
    layer = make(1, 1)
    x = th.randn(6, 1, 5, dtype=th.float64)
    th.testing.assert_close(layer(x)[0][:, 0], layer.experts.expert(0)(x[:, 0]))


def test_with_one_token_it_is_a_softmax_gated_sum_of_all_experts():
    layer = make(4, 2)
    x = th.randn(6, 1, 5, dtype=th.float64)
    y, routing = layer(x)
    every = th.stack([layer.experts.expert(k)(x[:, 0]) for k in range(4)])
    expected = th.einsum("te,eto->to", routing.gates_BNE[:, 0], every)
    th.testing.assert_close(y[:, 0], expected)


@pytest.mark.parametrize("tokens", [1, 4])
def test_gates_are_the_combine_weights_summed_over_an_experts_slots(tokens):
    layer = make(3, 2)
    x = th.randn(2, tokens, 5, dtype=th.float64)
    _, routing = layer(x)
    combine = (x @ layer.router.weight_RK).softmax(-1)
    expected = th.stack([combine[..., 2 * e] + combine[..., 2 * e + 1] for e in range(3)], -1)
    th.testing.assert_close(routing.gates_BNE, expected)
    assert routing.logits_BNE.shape == (2, tokens, 3, 2)
    assert routing.experts_BNk is None
    th.testing.assert_close(routing.load_E.sum(), th.ones((), dtype=th.float64))


def test_hand_worked_numbers():
    # Scores ln 3 and 0 give gates 3/4 and 1/4; the experts triple and negate their input.
    layer = make(2, 1, in_features=1, router_features=1)
    with th.no_grad():
        layer.router.weight_RK.copy_(th.tensor([[3.0, 1.0]]).log())
        hidden, last = layer.experts.layers[0], layer.experts.last
        for tensor in (hidden.weight, hidden.bias_EO, last.weight, last.bias_EO):
            tensor.zero_()
        hidden.weight_EOI[:, 0, 0] = 1.0
        last.weight_EOI[0, :, 0], last.weight_EOI[1, :, 0] = 3.0, -1.0
    y, routing = layer(th.ones(1, 1, 1, dtype=th.float64))
    th.testing.assert_close(routing.gates_BNE.flatten().tolist(), [0.75, 0.25])
    th.testing.assert_close(y.flatten().tolist(), [2.0, 2.0, 2.0])


def test_no_slots_is_an_error_that_names_the_value():
    with pytest.raises(ValueError, match=r"`num_slots` must be at least 1, got 0"):
        SoftMoE(mlp_experts(2, 5, 7, 3), LinearRouter(5, 2), num_slots=0)


def test_a_router_with_the_wrong_number_of_scores_is_an_error():
    message = r"`router` must have num_experts \* num_slots = 4 scores, got 2"
    with pytest.raises(ValueError, match=message):
        SoftMoE(mlp_experts(2, 5, 7, 3), LinearRouter(5, 2), num_slots=2)
