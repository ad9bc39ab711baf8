"""Expert choice, the task router and the uniform control against loops over tokens."""

import pytest
import reference
import torch as th

from sb3_moe.layers import (
    AuxCoefs,
    ExpertChoiceMoE,
    LinearRouter,
    TaskMoE,
    UniformMoE,
    mlp_experts,
    paths,
)


def network(num_experts):
    th.manual_seed(0)
    return mlp_experts(num_experts, 5, 7, 3)


def choice(num_experts, top_k=1, *, normalize=False):
    router = LinearRouter(5, num_experts, normalize=normalize)
    return ExpertChoiceMoE(network(num_experts), router, top_k=top_k).double()


def onehot(batch, tokens, num_tasks):
    ids = th.randint(num_tasks, (batch, tokens))
    return th.nn.functional.one_hot(ids, num_tasks).double()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("tokens", "num_experts", "top_k"),
    [(6, 3, 1), (7, 3, 2), (3, 3, 3), (2, 4, 1), (1, 1, 1), (1, 3, 1)],
)
@pytest.mark.parametrize("cache", [0, 10**9])
def test_expert_choice_equals_a_loop_over_experts(
    monkeypatch, cache, tokens, num_experts, top_k, normalize
):
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", cache)
    layer = choice(num_experts, top_k, normalize=normalize)
    x = th.randn(2, tokens, 5, dtype=th.float64)
    reference.assert_same(layer, reference.expert_choice_moe, x, x.clone())


def test_each_expert_chooses_its_share_of_every_samples_tokens():
    _, routing = choice(3)(th.randn(4, 6, 5, dtype=th.float64))
    assert (routing.gates_BNE > 0).sum(1).eq(2).all()
    assert routing.experts_BNk is None


def test_a_token_that_no_expert_chooses_comes_out_as_zero():
    layer = choice(3)
    y, routing = layer(th.randn(8, 6, 5, dtype=th.float64))
    unchosen = routing.gates_BNE.sum(-1) == 0
    assert unchosen.any()
    assert y[unchosen].abs().sum() == 0
    assert (y[~unchosen].abs().sum(-1) > 0).all()


def test_expert_choice_with_top_k_out_of_range_names_the_bound_and_the_value():
    with pytest.raises(ValueError, match=r"`top_k` must be in \[1, num_experts=3\], got 4"):
        choice(3, 4)


def test_expert_choice_checks_the_routers_scores():
    with pytest.raises(ValueError, match=r"`router` must have num_experts = 3 scores, got 2"):
        ExpertChoiceMoE(network(3), LinearRouter(5, 2))


@pytest.mark.parametrize("mask_limit", [-1, 10**9])
@pytest.mark.parametrize("wide_limit", [0, 10**9])
@pytest.mark.parametrize(("batch", "tokens", "num_tasks"), [(6, 1, 3), (2, 3, 4), (1, 1, 1)])
def test_the_task_id_picks_the_expert(
    monkeypatch, batch, tokens, num_tasks, mask_limit, wide_limit
):
    monkeypatch.setattr(paths, "MASK_LIMIT", mask_limit)
    monkeypatch.setattr(paths, "WIDE_GEMM_LIMIT", wide_limit)
    layer = TaskMoE(network(num_tasks)).double()
    x, ids = th.randn(batch, tokens, 5, dtype=th.float64), onehot(batch, tokens, num_tasks)
    y, routing = layer(x, ids)
    th.testing.assert_close(y, reference.task_moe(layer, x, ids))
    tensors = list(layer.parameters())
    slow = reference.gradients(reference.task_moe(layer, x, ids), tensors)
    th.testing.assert_close(reference.gradients(y, tensors), slow)
    th.testing.assert_close(routing.gates_BNE, ids)
    th.testing.assert_close(routing.experts_BNk[..., 0], ids.argmax(-1))


@pytest.mark.parametrize("mask_limit", [-1, 10**9])
def test_a_normalised_task_id_still_picks_one_expert_on_every_path(monkeypatch, mask_limit):
    monkeypatch.setattr(paths, "MASK_LIMIT", mask_limit)
    layer = TaskMoE(network(3)).double()
    x, ids = th.randn(6, 1, 5, dtype=th.float64), onehot(6, 1, 3)
    y, routing = layer(x, 2.5 * ids - 1)
    th.testing.assert_close(y, reference.task_moe(layer, x, ids))
    assert th.equal(routing.gates_BNE, ids)


@pytest.mark.parametrize(("wide", "cache"), [(0, 10**9), (10**9, 10**9), (0, 0)])
@pytest.mark.parametrize(("batch", "tokens", "num_experts"), [(4, 1, 3), (2, 3, 2), (1, 1, 1)])
def test_uniform_is_the_mean_over_experts(monkeypatch, batch, tokens, num_experts, wide, cache):
    monkeypatch.setattr(paths, "WIDE_GEMM_LIMIT", wide)
    monkeypatch.setattr(paths, "ONE_BY_ONE_FROM", cache)
    layer = UniformMoE(network(num_experts)).double()
    x = th.randn(batch, tokens, 5, dtype=th.float64)
    reference.assert_same(layer, reference.uniform_moe, x, x.clone())
    assert layer(x)[1].gates_BNE.eq(1.0 / num_experts).all()


@pytest.mark.parametrize("layer_class", [TaskMoE, UniformMoE])
def test_an_auxiliary_loss_without_a_router_to_learn_is_an_error(layer_class):
    message = rf"`aux` must be all 0 for {layer_class.__name__}, which has no scores to learn"
    with pytest.raises(ValueError, match=message):
        layer_class(network(2), aux=AuxCoefs(balance=0.1))
