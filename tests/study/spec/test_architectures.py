import pytest

from sb3_moe.study.spec.algorithms import policy_of
from sb3_moe.study.spec.architectures import (
    named_architecture,
    title,
)
from sb3_moe.study.spec.config import Architecture


def test_names_of_architectures_say_router_placement_and_tower():
    assert named_architecture("dense").policy_kwargs == {"placement": "none"}
    assert named_architecture("soft-big").policy_kwargs["placement"] == "big"
    one = named_architecture("top_k-middle-pi").policy_kwargs
    assert one["placement"] == {"pi": "middle", "vf": "none"}
    assert one["router"] == "top_k"
    other = named_architecture("soft-big-qf", algorithm="SAC").policy_kwargs
    assert other["placement"] == {"pi": "none", "qf": "big"}


def test_an_architectures_name_must_fit_a_folder():
    with pytest.raises(ValueError, match=r"`name` must be a word .* got 'a/b'"):
        Architecture(name="a/b")


def test_titles_are_what_a_reader_knows():
    found = [title(name) for name in ("dense", "soft-big", "top_k-middle", "soft-big-pi")]
    assert found == ["Dense", "SoftMoE-Big", "Top-k-Middle", "SoftMoE-Big (actor)"]
    assert title("dense-ReLU") == "Dense-ReLU"


def test_a_policy_can_be_a_class_of_ones_own():
    from stable_baselines3.common.policies import ActorCriticPolicy

    assert policy_of("MlpPolicy") is ActorCriticPolicy
    assert policy_of("stable_baselines3.common.policies:ActorCriticPolicy") is ActorCriticPolicy


@pytest.mark.parametrize("name", ["soft", "hard-big", "soft-top", "soft-big-qf"])
def test_a_name_that_says_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"must be `dense`, .*one of pi, vf, .* got '{name}'"):
        named_architecture(name)


@pytest.mark.parametrize(
    ("name", "options", "meant"),
    [
        ("dense", {"net_arch": [8]}, {"placement": "none", "net_arch": [8]}),
        ("soft-big", {"num_experts": 8}, {"placement": "big", "router": "soft", "num_experts": 8}),
        ("top_k-big", {"router": "soft"}, {"placement": "big", "router": "soft"}),
        ("dense-wide", {"num_experts": 8}, {"num_experts": 8}),
        ("dense", {"policy": "MlpPolicy"}, {}),
    ],
)
def test_a_name_that_means_something_keeps_it_where_options_say_no_other(name, options, meant):
    assert named_architecture(name, options).policy_kwargs == meant
