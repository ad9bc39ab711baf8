"""Dormancy on layers whose answer is known by hand."""

import math

import pytest
import torch as th

from sb3_moe.measures import dormant_fraction, dormant_fraction_per_expert
from sb3_moe.measures.activations import Activations, as_ETHP
from sb3_moe.measures.plasticity import dormant_mask, dormant_scores


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


def test_an_expert_that_reaches_no_output_is_dormant_only_with_its_gate():
    values_ETHP = th.ones(2, 3, 4, 1)
    gates_TE = th.tensor([[1.0, 0.0]] * 3)
    activations = Activations(values_ETHP, gates_TE)
    assert dormant_fraction(activations.activity_EH, 0.0) == 0.0
    assert dormant_fraction(activations.gated_activity_EH, 0.0) == 0.5


def test_a_stacked_layer_scores_as_its_experts_side_by_side_in_one_dense_layer():
    values_ETH = th.rand(3, 10, 4).relu()
    side_by_side_TH = th.cat(list(values_ETH), dim=1)
    stacked = dormant_scores(Activations(as_ETHP(values_ETH, 3)).activity_EH)
    dense = dormant_scores(Activations(as_ETHP(side_by_side_TH)).activity_EH)
    th.testing.assert_close(stacked.flatten(), dense.flatten())
