"""Which experts may share one tensor per layer: those that are known to be the same stacked."""

import copy

import pytest
import torch as th
from torch import nn

from sb3_moe.layers import SeparateNetworks
from sb3_moe.layers.experts import StackedNetwork, together

# As many rows as features: InstanceNorm takes rows for channels.
WIDTH, EXPERTS, ROWS = 6, 3, 6


def row(*between):
    """Return a row of layers with others between."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *between, nn.Linear(WIDTH, WIDTH))


def with_hook():
    expert = row(nn.Tanh())
    expert[0].register_forward_hook(lambda module, args, output: 2 * output)
    return expert


def with_a_layer_twice():
    linear = nn.Linear(WIDTH, WIDTH)
    return row(linear, nn.Tanh(), linear)


def with_a_frozen_layer():
    expert = row(nn.Tanh())
    expert[0].requires_grad_(False)
    return expert


def with_a_spectral_norm():
    return row(nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), nn.Tanh())


def with_channels():
    return row(nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 1, 1), nn.Flatten())


def with_a_norm_of_each_row():
    return row(nn.InstanceNorm1d(WIDTH, track_running_stats=False))


APART = (
    with_hook,
    with_a_layer_twice,
    with_a_frozen_layer,
    with_a_spectral_norm,
    with_channels,
    with_a_norm_of_each_row,
)


def gradients(modules):
    """Return the sum of squares of all gradients, which stacking must not change."""
    grads = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
    return sum(grad.square().sum() for grad in grads)


@pytest.mark.parametrize("make", [*APART, lambda: row(nn.LayerNorm(WIDTH), nn.PReLU())])
def test_experts_compute_and_learn_what_each_would_alone(make):
    th.manual_seed(0)
    made = [make() for _ in range(EXPERTS)]
    alone = copy.deepcopy(made)
    experts = together(made, WIDTH)
    x_TI, gates_TE = th.randn(ROWS, WIDTH), th.rand(ROWS, EXPERTS).softmax(-1)
    by_hand = sum(gates_TE[:, [k]] * alone[k](x_TI) for k in range(EXPERTS))
    got = experts.mixture(x_TI, gates_TE)
    th.testing.assert_close(got, by_hand)
    got.sum().backward()
    by_hand.sum().backward()
    th.testing.assert_close(gradients([experts]), gradients(alone))


@pytest.mark.parametrize("make", APART)
def test_experts_whose_weights_are_not_all_of_them_stay_apart(make):
    assert isinstance(together([make() for _ in range(2)], WIDTH), SeparateNetworks)


def test_an_expert_without_layers_stays_apart():
    assert isinstance(together([nn.Sequential() for _ in range(2)], WIDTH), SeparateNetworks)


def test_experts_may_share_an_activation_between_their_layers():
    tanh = nn.Tanh()
    made = [row(tanh, nn.Linear(WIDTH, WIDTH), tanh) for _ in range(2)]
    assert isinstance(together(made, WIDTH), StackedNetwork)
