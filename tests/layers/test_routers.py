"""The linear router: normalisation, noise, frozen weights."""

import pytest
import torch as th
from sb3_moe.layers.routers import check_score_options, make_router
from torch import nn

from sb3_moe.layers import LinearRouter


def test_scores_are_a_linear_map_without_bias():
    router, x = LinearRouter(5, 4), th.randn(2, 3, 5)
    th.testing.assert_close(router(x), x @ router.weight_RK)
    assert [name for name, _ in router.named_parameters()] == ["weight_RK"]


def test_normalised_scores_are_scaled_cosines():
    router, x = LinearRouter(5, 4, normalize=True).double(), th.randn(2, 3, 5, dtype=th.float64)
    with th.no_grad():
        router.scale.fill_(2.5)
    expected = th.empty(2, 3, 4, dtype=th.float64)
    for b in range(2):
        for n in range(3):
            for k in range(4):
                token, weight = x[b, n], router.weight_RK[:, k]
                token = token / (token.square().sum().sqrt() + 1e-6)
                weight = weight / (weight.square().sum().sqrt() + 1e-6)
                expected[b, n, k] = 2.5 * (token * weight).sum()
    th.testing.assert_close(router(x), expected)


def test_the_scale_starts_at_1_and_learns():
    router = LinearRouter(5, 4, normalize=True)
    assert router.scale.item() == 1.0
    router(th.randn(2, 3, 5)).square().sum().backward()
    assert router.scale.grad.abs() > 0


def test_a_token_of_zeros_has_scores_and_gradients_without_nan():
    router, x = LinearRouter(5, 4, normalize=True), th.zeros(1, 1, 5, requires_grad=True)
    router(x).sum().backward()
    assert router(x).isfinite().all()
    assert x.grad.isfinite().all()


def test_noise_is_added_only_while_training():
    router, x = LinearRouter(5, 4, noise=0.5), th.randn(200, 3, 5)
    clean = x @ router.weight_RK
    th.manual_seed(0)
    noise = router(x) - clean
    assert noise.std().item() == pytest.approx(0.5, rel=0.1)
    router.eval()
    th.testing.assert_close(router(x), clean)
    th.testing.assert_close(router(x), router(x), rtol=0, atol=0)


def test_frozen_weights_are_a_buffer_that_is_saved():
    router = LinearRouter(5, 4, frozen=True)
    assert list(router.parameters()) == []
    assert list(router.state_dict()) == ["weight_RK"]


def test_a_frozen_router_that_normalises_learns_no_scale_either():
    for frozen in (False, True):
        router = LinearRouter(5, 4, frozen=frozen, normalize=True)
        scores = router(th.randn(2, 3, 5, requires_grad=True))
        scores.square().sum().backward()
        assert (router.scale.grad is None) == frozen


def test_orthogonal_initialisation_passes_the_router_by():
    # SB3 visits nn.Linear and nn.Conv2d, and a router is neither.
    assert not any(isinstance(m, nn.Linear | nn.Conv2d) for m in LinearRouter(5, 4).modules())


def test_negative_noise_is_an_error():
    with pytest.raises(ValueError, match=r"`noise` must be at least 0, got -0\.1"):
        LinearRouter(5, 4, noise=-0.1)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bias_is_added_to_each_score_and_is_learned_unless_frozen(frozen):
    router = make_router(3, 2, bias=True, frozen=frozen)
    x_BNR = th.randn(4, 1, 3)
    plain = x_BNR @ router.weight_RK
    assert th.equal(router.bias, th.zeros(2))
    assert router.as_matrix() is None
    with th.no_grad():
        router.bias.copy_(th.tensor([1.0, -2.0]))
    th.testing.assert_close(router(x_BNR), plain + th.tensor([1.0, -2.0]))
    assert isinstance(router.bias, nn.Parameter) is not frozen
    router.soften(0.5)
    th.testing.assert_close(router(x_BNR), 0.5 * (plain + th.tensor([1.0, -2.0])))


def test_without_one_files_hold_nothing_of_it():
    assert list(make_router(3, 2).state_dict()) == ["weight_RK"]
    assert list(make_router(3, 2, bias=True).state_dict()) == ["weight_RK", "bias_K"]


def test_a_bias_is_yes_or_no():
    with pytest.raises(TypeError, match="`bias` must be a bool, got 1"):
        check_score_options({"hidden": (), "normalize_router": False, "bias": 1})
