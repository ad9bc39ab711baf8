"""Costs of every algorithm's policy: what is counted, what matches, which controls can be built."""

from importlib import import_module

import arena
import pytest
from gymnasium import spaces

from sb3_moe.measures import matching_net_arch, measure
from sb3_moe.policies.registration import TABLE

# As SB3 takes them, so that the dense policy's extractor is SB3's own.
SPACES = {
    "Mlp": arena.FLAT,
    "Cnn": arena.SB3_IMAGE,
    "MultiInput": spaces.Dict({"image": arena.SB3_IMAGE, "flat": arena.FLAT}),
}
ONE_NETWORK = ("DQN", "QRDQN")
# One network has one extractor, and no argument for it.
EXTRACTORS = [
    ("PPO", "MoeCnnPolicy", "shared"),
    ("MaskablePPO", "MoeMultiInputPolicy", "separate"),
    ("RecurrentPPO", "MoeMlpLstmPolicy", "shared"),
    ("SAC", "MoeCnnPolicy", "separate"),
    ("TD3", "MoeMlpPolicy", "shared"),
    ("CrossQ", "MoeMlpPolicy", "separate"),
    ("QRDQN", "MoeMultiInputPolicy", "one"),
]


def policy_class(algorithm, alias):
    return getattr(import_module(TABLE[algorithm].policies), alias)


def build(algorithm, alias, **kwargs):
    space, actions = SPACES[arena.kind_of(alias)], arena.actions_of(algorithm)
    return policy_class(algorithm, alias)(space, actions, lambda _: 1e-3, **kwargs)


def online_parameters(policy):
    """Count slowly: every parameter of the policy that is in no target network."""
    named = policy.named_parameters()
    return sum(p.numel() for name, p in named if "_target" not in name)


def placements(algorithm):
    second = "qf" if algorithm in arena.BOX_ACTIONS else "vf"
    mixed = [] if algorithm in ONE_NETWORK else [{"pi": "none", second: "big"}]
    return ["none", "middle", "big", *mixed]


@pytest.mark.parametrize(("algorithm", "alias", "extractors"), EXTRACTORS)
def test_every_parameter_of_the_online_networks_is_counted_once(algorithm, alias, extractors):
    kwargs = {"net_arch": [8]}
    if extractors != "one":
        kwargs["share_features_extractor"] = extractors == "shared"
    for placement in placements(algorithm):
        policy = build(algorithm, alias, placement=placement, **kwargs)
        total = measure(policy).total
        assert total.parameters == total.active == online_parameters(policy), placement


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TQC", "CrossQ"])
def test_what_gsde_learns_is_the_actors(algorithm):
    space, actions = arena.FLAT, arena.BOX
    kwargs = {"net_arch": [8], "placement": "none"}
    cls = policy_class(algorithm, "MoeMlpPolicy")
    policy = cls(space, actions, lambda _: 1e-3, use_sde=True, **kwargs)
    assert measure(policy).total.parameters == online_parameters(policy)
    # 5 -> 8 -> 2, biases, and a log_std of 8 x 2.
    renorm = 2 * 5 + 2 * 8 if algorithm == "CrossQ" else 0
    assert measure(policy).parts["pi"].parameters == 48 + 18 + 16 + renorm


@pytest.mark.parametrize(
    ("options", "parameters", "flops"),
    [
        # An LSTM of 3 from 5: 12 x (5 + 3) weights and 2 x 12 biases, two operations a weight.
        ({}, 2 * 120, 2 * 192),
        ({"shared_lstm": True, "enable_critic_lstm": False}, 120, 192),
        # The critic's linear layer from 5 to 3 in the LSTM's place: 15 weights, 3 biases.
        ({"enable_critic_lstm": False}, 120 + 18, 192 + 30),
    ],
)
def test_the_lstms_of_a_recurrent_policy_are_a_part(options, parameters, flops):
    policy = build("RecurrentPPO", "MoeMlpLstmPolicy", lstm_hidden_size=3, net_arch=[8], **options)
    budget = measure(policy)
    assert list(budget.parts) == ["lstm", "pi", "vf"]
    assert (budget.parts["lstm"].parameters, budget.parts["lstm"].flops) == (parameters, flops)
    assert budget.total.parameters == online_parameters(policy)


@pytest.mark.parametrize(("algorithm", "match"), [("SAC", "parameters"), ("QRDQN", "flops")])
def test_behind_images_the_whole_policy_matches(algorithm, match):
    kwargs = {"placement": "middle", "num_experts": 4, "net_arch": [96]}
    given = policy_class(algorithm, "MoeCnnPolicy"), arena.SB3_IMAGE, arena.actions_of(algorithm)
    dense = {"placement": "none", "net_arch": matching_net_arch(*given, kwargs, match)}
    made = (build(algorithm, "MoeCnnPolicy", **each) for each in (kwargs, dense))
    wanted, got = (getattr(measure(policy).total, match) for policy in made)
    assert got == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize("algorithm", TABLE)
def test_sb3s_own_dense_policy_costs_what_ours_without_experts_does(algorithm):
    alias = TABLE[algorithm].aliases[0]
    dense = arena.make(algorithm, alias.removeprefix("Moe"), net_arch=[8]).policy
    ours = arena.make(algorithm, alias, placement="none", net_arch=[8]).policy
    assert measure(dense) == measure(ours)
    assert measure(dense).total.parameters == online_parameters(dense)
