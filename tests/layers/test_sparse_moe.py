"""Top-k routing against a loop over tokens, and loss-free balancing."""

import pytest
import reference
import torch as th

from sb3_moe.layers import LinearRouter, SparseMoE, mlp_experts, paths


def make(num_experts=4, *, top_k=1, bias_rate=0.0, normalize=False, double=True):
    th.manual_seed(0)
    router = LinearRouter(5, num_experts, normalize=normalize)
    layer = SparseMoE(mlp_experts(num_experts, 5, 7, 3), router, top_k=top_k, bias_rate=bias_rate)
    return layer.double() if double else layer


def skew(layer, column=2):
    """Make the router prefer one expert for inputs with a positive first feature."""
    with th.no_grad():
        layer.router.weight_RK.mul_(0.1)
        layer.router.weight_RK[0, column] = 2.0


@pytest.fixture(params=["masked", "sorted"])
def path(request, monkeypatch):
    monkeypatch.setattr(paths, "MASK_LIMIT", 10**9 if request.param == "masked" else -1)
    return request.param


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("num_experts", "top_k"), [(4, 1), (4, 2), (4, 4), (1, 1), (2, 2)], ids=str
)
@pytest.mark.parametrize(("batch", "tokens"), [(6, 1), (2, 3), (1, 1)])
def test_top_k_equals_a_loop_over_tokens(path, num_experts, top_k, batch, tokens, normalize):
    layer = make(num_experts, top_k=top_k, normalize=normalize)
    x = th.randn(batch, tokens, 5, dtype=th.float64)
    reference.assert_same(layer, reference.sparse_moe, x, x.clone())


@pytest.mark.parametrize(("wide", "cache"), [(0, 10**9), (10**9, 10**9), (0, 0)])
def test_every_way_to_run_the_experts_agrees_with_the_loop(monkeypatch, wide, cache):
    monkeypatch.setattr(paths, "WIDE_GEMM_LIMIT", wide)
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", cache)
    x = th.randn(6, 1, 5, dtype=th.float64)
    reference.assert_same(make(top_k=2), reference.sparse_moe, x, x.clone())


def test_an_expert_that_nobody_picks_does_no_harm_and_gets_no_gradient(path):
    layer = make()
    skew(layer)
    x = th.randn(8, 1, 5, dtype=th.float64)
    x[..., 0] = x[..., 0].abs() + 3.0
    reference.assert_same(layer, reference.sparse_moe, x, x.clone())
    y, routing = layer(x)
    assert set(routing.experts_BNk.flatten().tolist()) == {2}
    y.sum().backward()
    gradient = layer.experts.layers[0].weight.grad
    assert gradient[2].abs().sum() > 0
    assert gradient[[0, 1, 3]].abs().sum() == 0


def test_no_token_is_dropped_when_all_pick_the_same_expert(path):
    layer = make()
    skew(layer)
    x = th.randn(50, 1, 5, dtype=th.float64)
    x[..., 0] = x[..., 0].abs() + 3.0
    y, routing = layer(x)
    gate = routing.gates_BNE[..., 2]
    expected = gate * layer.experts.expert(2)(x[:, 0])
    th.testing.assert_close(y[:, 0], expected)


def test_a_top_1_router_receives_a_gradient(path):
    layer = make(top_k=1)
    layer(th.randn(8, 1, 5, dtype=th.float64))[0].sum().backward()
    assert layer.router.weight_RK.grad.abs().sum() > 0


def test_one_expert_and_one_token_equal_the_expert_as_plain_modules(path):
    layer = make(1)
    x = th.randn(1, 1, 5, dtype=th.float64)
    th.testing.assert_close(layer(x)[0][:, 0], layer.experts.expert(0)(x[:, 0]))


def test_gates_are_softmax_values_not_renormalised_over_the_chosen():
    layer = make(top_k=2)
    x = th.randn(5, 1, 5, dtype=th.float64)
    _, routing = layer(x)
    probs = (x @ layer.router.weight_RK).softmax(-1)
    kept = routing.gates_BNE > 0
    assert kept.sum(-1).eq(2).all()
    th.testing.assert_close(routing.gates_BNE[kept], probs[kept])
    th.testing.assert_close(routing.load_E.sum().item(), 1.0)


def test_load_is_the_share_of_choices():
    layer = make(double=False)
    skew(layer)
    x = th.zeros(4, 1, 5)
    x[..., 0] = th.tensor([9.0, 9.0, 9.0, -9.0]).unsqueeze(1)
    load = layer(x)[1].load_E
    assert load[2] == 0.75
    th.testing.assert_close(load.sum().item(), 1.0)


@pytest.mark.parametrize("top_k", [0, 5, -1])
def test_top_k_out_of_range_names_the_bound_and_the_value(top_k):
    with pytest.raises(ValueError, match=rf"`top_k` must be in \[1, num_experts=4\], got {top_k}"):
        make(top_k=top_k)


def test_a_negative_bias_rate_is_an_error():
    with pytest.raises(ValueError, match=r"`bias_rate` must be at least 0, got -0\.1"):
        make(bias_rate=-0.1)


def test_a_router_with_the_wrong_number_of_scores_is_an_error():
    with pytest.raises(ValueError, match=r"`router` must have num_experts = 2 scores, got 3"):
        SparseMoE(mlp_experts(2, 5, 7, 3), LinearRouter(5, 3))


def test_the_bias_moves_once_from_training_to_evaluation_and_towards_the_idle():
    layer = make(bias_rate=0.01, double=False)
    skew(layer)
    x = th.randn(16, 1, 5)
    x[..., 0] = 9.0
    for _ in range(3):
        layer(x)
    assert layer.running_count_E.tolist() == [0.0, 0.0, 48.0, 0.0]
    assert layer.running_bias_E.tolist() == [0.0] * 4
    layer.eval()
    expected = th.tensor([0.01, 0.01, -0.01, 0.01])
    th.testing.assert_close(layer.running_bias_E, expected)
    layer.train()
    layer.eval()
    layer.eval()
    th.testing.assert_close(layer.running_bias_E, expected)


def test_loads_are_not_counted_in_evaluation_or_without_gradients():
    layer = make(bias_rate=0.01)
    with th.no_grad():
        layer(th.randn(4, 1, 5, dtype=th.float64))
    layer.eval()
    layer(th.randn(4, 1, 5, dtype=th.float64))
    assert layer.running_count_E.sum() == 0


def test_the_bias_chooses_but_is_no_part_of_the_gate():
    layer = make(bias_rate=0.01)
    layer.running_bias_E.copy_(th.tensor([0.0, 9.0, 0.0, 0.0]))
    x = th.randn(5, 1, 5, dtype=th.float64)
    _, routing = layer(x)
    assert routing.experts_BNk.eq(1).all()
    probs = (x @ layer.router.weight_RK).softmax(-1)
    th.testing.assert_close(routing.gates_BNE[..., 1], probs[..., 1])
    reference.assert_same(layer, reference.sparse_moe, x, x.clone())


def test_loss_free_balancing_evens_out_a_router_skewed_on_purpose():
    layer = make(bias_rate=0.005, double=False)
    skew(layer)
    x = th.randn(512, 1, 5)
    x[..., 0] = 1.0
    before = layer(x)[1].load_E
    assert before.max() > 0.99
    for _ in range(150):
        layer.train()
        layer(x)
        layer.eval()
    after = layer(x)[1].load_E
    assert after.max() < 0.4
    assert after.min() > 0.1


def test_the_bias_and_its_counts_are_persistent_float_buffers_changed_in_place():
    layer = make(bias_rate=0.1, double=False)
    buffers = dict(layer.named_buffers())
    assert set(buffers) == {"running_bias_E", "running_count_E"} <= set(layer.state_dict())
    pointers = {name: tensor.data_ptr() for name, tensor in buffers.items()}
    layer(th.randn(16, 1, 5))
    layer.eval()
    assert {name: tensor.data_ptr() for name, tensor in layer.named_buffers()} == pointers
    assert all(tensor.dtype == th.float32 for tensor in buffers.values())
    assert not any("running" in key for key in make().state_dict())
