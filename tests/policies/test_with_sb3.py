"""What SB3 offers around a policy; ``tests/compatibility`` asks what SB3's own tests ask."""

from functools import partial

import arena
import pytest
import torch as th
from torch import nn

LSTM = "MoeCnnLstmPolicy"


@pytest.mark.parametrize(
    ("algorithm", "net_arch", "widths"),
    [
        ("PPO", {"pi": [8], "vf": [7, 6]}, {"pi.middle": 8, "vf.middle": 6}),
        ("PPO", [9], {"pi.middle": 9, "vf.middle": 9}),
        ("SAC", {"pi": [8], "qf": [7]}, {"pi.middle": 8, "qf0.middle": 7, "qf1.middle": 7}),
        ("DQN", [9, 5], {"qf.middle": 5}),
    ],
)
def test_net_arch_keeps_its_meaning(algorithm, net_arch, widths):
    model = arena.make(algorithm, net_arch=net_arch)
    layers = model.policy.moe_layers()
    assert {name: layer.experts.out_features for name, layer in layers.items()} == widths


def test_orthogonal_initialization_reaches_each_expert_with_sb3s_gains():
    layers = arena.make("PPO", placement="all", net_arch=[8, 8]).policy.moe_layers()
    for network, gain in (("pi", 0.01), ("vf", 1.0)):
        for k in range(4):
            hidden, *_ = layers[f"{network}.all.0"].experts.expert(k)
            assert not hidden.bias.any()
            products = hidden.weight.t() @ hidden.weight
            th.testing.assert_close(products, 2.0 * th.eye(5), atol=1e-5, rtol=1e-4)
            weight = layers[f"{network}.head"].experts.expert(k)[0].weight
            eye = th.eye(len(weight))
            th.testing.assert_close(weight @ weight.t(), gain**2 * eye, atol=1e-6, rtol=1e-4)
    plain = arena.make("PPO", placement="final", net_arch=[8], ortho_init=False).policy
    assert plain.get_expert("pi", 0)[0].weight.norm() > 0.1


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("PPO", {"router_noise": 0.3}, "`router_noise` must be 0 for on-policy algorithms, .* 0.3"),
        ("TRPO", {"balance_coef": 0.3}, "`balance_coef` must be 0.0 for TRPO, .* got 0.3"),
        ("RecurrentPPO", {"alias": LSTM, "tokens": "conv"}, "`tokens` must be 'sample' behind an"),
        (
            "RecurrentPPO",
            {"alias": LSTM, "task_embedding": 2},
            "`task_embedding` must be None .*pi",
        ),
    ],
)
def test_a_bad_option_fails_in_the_constructor(algorithm, options, message):
    with pytest.raises(ValueError, match=message):
        arena.make(algorithm, **{"net_arch": [8], **options})


@pytest.mark.parametrize(
    "options",
    [
        {"placement": "body", "net_arch": [8, 8]},
        {"placement": "all", "expert": "linear", "router": "top_k", "balance_coef": 0.1},
        {"placement": "body", "spectral_coef": 0.1},
        {"placement": "final", "router": "top_k", "z_coef": 0.1},
    ],
)
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_an_activation_that_writes_in_place_does_not_where_it_can_not(algorithm, options):
    kwargs = {"net_arch": [8, 8], "num_experts": 2, **options}
    ours, plain = (
        arena.train(arena.make(algorithm, activation_fn=partial(nn.ReLU, inplace=here), **kwargs))
        for here in (True, False)
    )
    pairs = zip(ours.policy.parameters(), plain.policy.parameters(), strict=True)
    assert all(th.equal(*pair) for pair in pairs)
