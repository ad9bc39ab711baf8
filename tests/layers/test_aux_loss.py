"""Auxiliary losses on hand-worked numbers, and how they reach the optimizer."""

import math

import pytest
import torch as th
from own_parts import mlp_experts

from sb3_moe.layers import (
    AuxCoefs,
    ExpertChoiceMoE,
    RouterInput,
    Routing,
    SoftMoE,
    SparseMoE,
)
from sb3_moe.layers.aux_loss import add_loss, balance_loss, importance_loss, total_loss, z_loss

# Two tokens, two experts: softmax rows (3/4, 1/4) and (1/2, 1/2); both tokens choose expert 0.
LOGITS = th.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]])
TOP_1 = Routing(
    weights=th.tensor([[[0.75, 0.0], [0.5, 0.0]]]), logits=LOGITS, experts=th.tensor([[[0], [0]]])
)
SLOTS = Routing(weights=th.tensor([[[0.75, 0.25]]]), logits=th.zeros(1, 1, 2, 3))


def test_probabilities_of_an_expert_sum_over_its_slots():
    logits = th.tensor([2.0, 1.0, 1.0, 0.0]).log().view(1, 1, 2, 2)
    routing = Routing(th.tensor([[[0.75, 0.25]]]), logits)
    th.testing.assert_close(routing.probs_BNE, th.tensor([[[0.75, 0.25]]]))


def test_balance_loss_by_hand():
    # load (1, 0), mean probability (5/8, 3/8): 2 * (1 * 5/8 + 0) = 1.25
    assert balance_loss(TOP_1).item() == pytest.approx(1.25)


def test_importance_loss_by_hand():
    # mass (5/4, 3/4): mean 1, variance 1/16
    assert importance_loss(TOP_1).item() == pytest.approx(1 / 16)
    assert importance_loss(SLOTS).item() == 0.0


def test_z_loss_by_hand():
    # normalizers ln 4 and ln 2
    expected = (math.log(4.0) ** 2 + math.log(2.0) ** 2) / 2
    assert z_loss(TOP_1).item() == pytest.approx(expected)
    assert z_loss(SLOTS).item() == pytest.approx(math.log(6.0) ** 2)


def test_the_total_is_the_weighted_sum_and_leaves_zeros_out():
    total = total_loss(TOP_1, AuxCoefs(balance=2.0, importance=3.0))
    assert total.item() == pytest.approx(2 * 1.25 + 3 / 16)


def test_an_added_loss_changes_no_value_and_gets_gradient_1():
    y, weight = th.randn(3, requires_grad=True), th.tensor(2.0, requires_grad=True)
    out = add_loss(y, weight.square())
    th.testing.assert_close(out, y)
    (5 * out).sum().backward()
    assert weight.grad.item() == 4.0
    assert y.grad.tolist() == [5.0] * 3


def make(layer_class, aux=None, **options):
    th.manual_seed(0)
    sees = RouterInput(features=5, num_experts=3, num_tokens=6)
    layer = layer_class(mlp_experts(3, 5, 7, 2), sees, **options).double()
    layer.aux = aux
    return layer


COEFS = [AuxCoefs(balance=0.3), AuxCoefs(importance=0.2), AuxCoefs(z=0.1), AuxCoefs(0.3, 0.2, 0.1)]


@pytest.mark.parametrize("aux", COEFS, ids=str)
@pytest.mark.parametrize("layer_class", [SoftMoE, SparseMoE, ExpertChoiceMoE])
def test_the_gradient_is_that_of_adding_the_loss_by_hand(layer_class, aux):
    with_aux, plain = make(layer_class, aux), make(layer_class)
    x = th.randn(4, 6, 5, dtype=th.float64)
    with_aux(x)[0].square().mean().backward()
    y, routing = plain(x)
    (y.square().mean() + total_loss(routing, aux)).backward()
    for ours, by_hand in zip(with_aux.parameters(), plain.parameters(), strict=True):
        th.testing.assert_close(ours.grad, by_hand.grad)
    th.testing.assert_close(with_aux(x)[0], y)


def router_gradient(layer, **kwargs):
    layer.zero_grad()
    x = th.linspace(-1, 1, 20, dtype=th.float64).view(4, 1, 5)
    layer(x, **kwargs)[0].square().mean().backward()
    return layer.router.weight_RK.grad


def test_the_loss_is_left_out_on_request_and_in_evaluation():
    layer, plain = make(SparseMoE, AuxCoefs(balance=0.3)), make(SparseMoE)
    expected = router_gradient(plain)
    assert not router_gradient(layer).allclose(expected)
    th.testing.assert_close(router_gradient(layer, aux=False), expected)
    layer.eval()
    th.testing.assert_close(router_gradient(layer), expected)
