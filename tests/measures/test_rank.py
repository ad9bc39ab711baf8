"""Ranks and norms on matrices whose answer is known by hand."""

import math

import pytest
import torch as th
from torch import nn

from sb3_moe.measures import effective_rank, stable_rank
from sb3_moe.measures.activations import Activations
from sb3_moe.measures.plasticity import (
    empirical_ntk,
    gradient_norm,
    weight_change,
    weight_norm,
    zero_gradient_fraction,
)


def test_equal_singular_values_count_fully_and_zeros_not_at_all():
    features_TF = th.diag(th.tensor([2.0, 2.0, 2.0, 0.0]))
    assert effective_rank(features_TF) == pytest.approx(3.0)
    assert stable_rank(features_TF) == pytest.approx(3.0)


def test_ranks_of_unequal_singular_values_are_as_worked_out_by_hand():
    features_TF = th.diag(th.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(features_TF) == pytest.approx(math.exp(entropy))
    assert stable_rank(features_TF) == pytest.approx(10 / 9)


def test_a_low_rank_layer_is_seen():
    features_TF = th.rand(50, 2) @ th.rand(2, 20)
    assert effective_rank(features_TF) <= 2.0 + 1e-6


def test_duplicated_experts_add_no_rank():
    values_TH = th.randn(30, 4)
    alone = Activations(values_TH[None, :, :, None])
    twice = Activations(values_TH.expand(2, 30, 4)[..., None])
    assert effective_rank(twice.features_TF) == pytest.approx(effective_rank(alone.features_TF))


def test_the_kernel_of_a_linear_model_is_the_gram_matrix_of_its_inputs():
    x_TI, layer = th.randn(6, 3), nn.Linear(3, 1, bias=False)
    kernel = empirical_ntk(layer(x_TI).flatten(), list(layer.parameters()))
    th.testing.assert_close(kernel, x_TI.double() @ x_TI.double().T)


def test_parameters_without_influence_count_as_zero_in_the_kernel():
    x_TI, layer, stranger = th.randn(4, 3), nn.Linear(3, 1), nn.Parameter(th.ones(2))
    used = list(layer.parameters())
    outputs_T = layer(x_TI).flatten()
    th.testing.assert_close(
        empirical_ntk(outputs_T, [*used, stranger]), empirical_ntk(outputs_T, used)
    )


def test_norms_are_over_all_tensors_together():
    tensors = [th.tensor([3.0]), th.tensor([[0.0, 4.0]])]
    assert weight_norm(tensors) == pytest.approx(5.0)
    assert weight_change(tensors, [t * 0 for t in tensors]) == pytest.approx(5.0)
    assert weight_change(tensors, tensors) == 0.0


def test_gradients_are_counted_where_they_are_exactly_zero_or_missing():
    seen, unseen = nn.Parameter(th.ones(3)), nn.Parameter(th.ones(1))
    (seen * th.tensor([0.0, 3.0, 4.0])).sum().backward()
    assert gradient_norm([seen, unseen]) == pytest.approx(5.0)
    assert zero_gradient_fraction([seen, unseen]) == 0.5
    assert gradient_norm([unseen]) == 0.0
