"""Dormancy, ranks and norms on layers and matrices whose answer is known by hand."""

import math

import pytest
import torch as th
from torch import nn

from sb3_moe.measures import (
    dormant_fraction,
    dormant_fraction_per_expert,
    effective_rank,
    ntk_rank,
    stable_rank,
)
from sb3_moe.measures.hidden import Activations, as_ETHP
from sb3_moe.measures.plasticity import dormant_mask, dormant_scores, joint_norm


def test_a_score_is_relative_to_the_mean_of_the_layer():
    scores = dormant_scores(th.tensor([[0.0, 1.0, 2.0, 5.0]]))
    assert scores.tolist() == [[0.0, 0.5, 1.0, 2.5]]


@pytest.mark.parametrize(("tau", "fraction"), [(0.0, 0.25), (0.5, 0.5), (1.0, 0.75), (3.0, 1.0)])
def test_a_unit_whose_score_is_at_most_tau_is_dormant(tau, fraction):
    assert dormant_fraction(th.tensor([[0.0, 1.0, 2.0, 5.0]]), tau) == fraction


@pytest.mark.parametrize("diverged", [float("nan"), float("inf")])
def test_a_network_that_diverged_is_not_dormant_but_unknown(diverged):
    activity_EH = th.tensor([[1.0, 3.0], [diverged, 1.0]])
    assert dormant_scores(activity_EH).isnan().all()
    assert math.isnan(dormant_fraction(activity_EH, 0.1))
    assert not dormant_mask(activity_EH, 0.1).any()
    sane, lost = dormant_fraction_per_expert(activity_EH, 0.5).tolist()
    assert sane == 0.5
    assert math.isnan(lost)


def test_a_feature_map_is_one_unit_over_all_its_positions():
    maps = th.zeros(4, 2, 3, 3)
    maps[0, 0, 1, 1] = 9.0
    activity_EH = Activations(as_ETHP(maps)).activity_EH
    assert activity_EH.tolist() == [[9.0 / 36, 0.0]]
    assert dormant_fraction(activity_EH, 0.0) == 0.5


def test_a_quiet_expert_is_dormant_when_pooled_and_awake_on_its_own():
    activity_EH = th.tensor([[1.0, 1.0], [0.01, 0.01]])
    assert dormant_fraction(activity_EH, 0.1) == 0.5
    assert dormant_fraction_per_expert(activity_EH, 0.1).tolist() == [0.0, 0.0]


def test_a_stacked_layer_scores_as_its_experts_side_by_side_in_one_dense_layer():
    values_ETH = th.rand(3, 10, 4).relu()
    side_by_side_TH = th.cat(list(values_ETH), dim=1)
    stacked = dormant_scores(Activations(as_ETHP(values_ETH, 3)).activity_EH)
    dense = dormant_scores(Activations(as_ETHP(side_by_side_TH)).activity_EH)
    th.testing.assert_close(stacked.flatten(), dense.flatten())


def test_equal_singular_values_count_fully_and_zeros_not_at_all():
    features_TF = th.diag(th.tensor([2.0, 2.0, 2.0, 0.0]))
    assert effective_rank(features_TF) == pytest.approx(3.0)
    assert stable_rank(features_TF) == pytest.approx(3.0)
    assert effective_rank(0 * features_TF) == 0.0


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
