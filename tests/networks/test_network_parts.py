"""Every online parameter of a policy is in exactly one named part."""

import arena
import pytest
from every_network import every_policy, make, parameters_of

from sb3_moe.networks import networks_of

VARIANTS = [
    ("PPO", "MlpPolicy", {"share_features_extractor": False}),
    ("PPO", "MoeMlpPolicy", {"share_features_extractor": False}),
    ("SAC", "MlpPolicy", {"share_features_extractor": True}),
    ("TD3", "MoeMlpPolicy", {"share_features_extractor": True}),
    ("RecurrentPPO", "MlpLstmPolicy", {"enable_critic_lstm": False}),
    ("RecurrentPPO", "MoeMlpLstmPolicy", {"enable_critic_lstm": False, "shared_lstm": True}),
    ("SAC", "MoeMlpPolicy", {"placement": "big"}),
]
every_variant = pytest.mark.parametrize(("algorithm", "alias", "kwargs"), VARIANTS)


def online_parameters(policy):
    return {
        name: parameter
        for name, parameter in policy.named_parameters()
        if "_target" not in name.split(".")[0]
    }


def assert_every_parameter_is_in_one_part(policy):
    parts = networks_of(policy).parts()
    homes = [(id(p), name) for name, held in parts.items() for p in {*parameters_of(held)}]
    assert len(homes) == len(dict(homes)), "in two parts"
    assert set(dict(homes)) == {id(p) for p in online_parameters(policy).values()}


@every_policy
def test_every_online_parameter_is_in_exactly_one_part(algorithm, alias):
    assert_every_parameter_is_in_one_part(make(algorithm, alias).policy)


@every_variant
def test_so_it_is_with_shared_extractors_and_memories(algorithm, alias, kwargs):
    assert_every_parameter_is_in_one_part(make(algorithm, alias, **kwargs).policy)


@pytest.mark.parametrize("algorithm", ["SAC", "TQC"])
def test_the_one_tensor_that_gsde_learns_is_the_actors(algorithm):
    policy = make(algorithm, "MlpPolicy", model={"use_sde": True}).policy
    assert_every_parameter_is_in_one_part(policy)
    assert any(each is policy.actor.log_std for each in networks_of(policy).parts()["pi"])


def test_the_log_std_of_a_gaussian_actor_is_a_part_of_its_own():
    model = arena.make("PPO", "MlpPolicy", arena.Arena(arena.FLAT, arena.BOX))
    assert networks_of(model.policy).parts()["log_std"] == [model.policy.log_std]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("alias", ["CnnPolicy", "MoeCnnPolicy"])
@pytest.mark.parametrize("algorithm", ["PPO", "MaskablePPO", "SAC", "TD3", "TQC"])
def test_encoders_are_parts_of_their_own_and_a_shared_one_is_one(algorithm, alias, shared):
    env = arena.Arena(arena.SB3_IMAGE, arena.actions_of(algorithm))
    kwargs = {"net_arch": [8], "share_features_extractor": shared}
    policy = arena.make(algorithm, alias, env, **kwargs).policy
    assert_every_parameter_is_in_one_part(policy)
    extractors = networks_of(policy).extractors()
    assert list(extractors) == (["features"] if shared else ["features", "vf_features"])
    assert all(list(each.parameters()) for each in extractors.values())
