"""Ranks and norms on matrices whose answer is known by hand."""

import math

import pytest
import torch as th
from torch import nn

from sb3_moe.measures import effective_rank, ntk_rank, stable_rank
from sb3_moe.measures.activations import Activations
from sb3_moe.measures.gradients import joint_norm


def test_equal_singular_values_count_fully_and_zeros_not_at_all():
    features_TF = th.diag(th.tensor([2.0, 2.0, 2.0, 0.0]))
    assert effective_rank(features_TF) == pytest.approx(3.0)
    assert stable_rank(features_TF) == pytest.approx(3.0)


def test_ranks_of_unequal_singular_values_are_as_worked_out_by_hand():
    features_TF = th.diag(th.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(features_TF) == pytest.approx(math.exp(entropy))
    assert stable_rank(features_TF) == pytest.approx(10 / 9)


def test_duplicated_experts_add_no_rank():
    values_TH = th.randn(30, 4)
    alone = Activations(values_TH[None, :, :, None])
    twice = Activations(values_TH.expand(2, 30, 4)[..., None])
    assert effective_rank(twice.features_TF) == pytest.approx(effective_rank(alone.features_TF))


def test_the_kernel_of_a_linear_model_is_the_gram_matrix_of_its_inputs():
    x_TI, layer, stranger = th.randn(6, 3), nn.Linear(3, 1, bias=False), nn.Parameter(th.ones(2))
    expected = effective_rank(x_TI.double() @ x_TI.double().T)
    # Parameters without influence count as zero.
    assert ntk_rank(layer(x_TI).flatten(), [layer.weight, stranger]) == pytest.approx(expected)


def test_norms_are_over_all_tensors_together():
    assert joint_norm([th.tensor([3.0]), th.tensor([[0.0, 4.0]])]) == pytest.approx(5.0)
