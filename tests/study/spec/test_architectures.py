import pytest

from sb3_moe.study.spec.architectures import (
    meaning,
    moe_architecture,
    named_architecture,
    policy_of,
    title,
    titles,
)
from sb3_moe.study.spec.config import Architecture


def test_names_of_architectures_say_router_placement_and_tower():
    assert named_architecture("dense").policy_kwargs == {"placement": "none"}
    assert named_architecture("soft-big").policy_kwargs["placement"] == "big"
    one = named_architecture("top_k-middle-pi").policy_kwargs
    assert one["placement"] == {"pi": "middle", "vf": "none"}
    assert one["router"] == "top_k"
    assert moe_architecture("big", "soft", "vf").name == "soft-big-vf"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("soft", "an architecture must be `dense`"),
        ("hard-big", "`router` must be one of \\['soft', .*, got 'hard'"),
        ("soft-top", "`placement` must be one of \\['none', .*, got 'top'"),
        ("soft-big-qf", "`towers` must be one of both, pi, vf, got 'qf'"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        named_architecture(name)


@pytest.mark.parametrize(
    ("name", "options", "lacks"),
    [
        ("dense", {"arguments": {"learning_rate": 0.1}}, "placement.*'middle', not 'none'"),
        ("dense", {"policy": "MoeMlpPolicy"}, "placement.*'middle', not 'none'"),
        ("soft-big", {"num_experts": 8}, "placement.*'middle', not 'big'"),
        ("top_k-middle", {"net_arch": [8]}, "router.*'soft', not 'top_k'"),
        ("top_k-big", {"placement": "big"}, "router.*'soft', not 'top_k'"),
        ("soft-middle-pi", {}, "placement.*'middle', not .*'vf': 'none'"),
    ],
)
def test_a_name_that_means_one_network_beside_options_that_mean_another_is_refused(
    name, options, lacks
):
    with pytest.raises(ValueError, match=rf"`architectures.{name}` must say its `{lacks}"):
        named_architecture(name, options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", {"placement": "none", "arguments": {"learning_rate": 0.1}}),
        ("dense", {"policy": "MlpPolicy"}),
        ("soft-middle", {"num_experts": 8}),
        ("dense-wide", {"num_experts": 8}),
    ],
)
def test_a_name_beside_options_that_say_the_same_or_of_ones_own_is_a_name(name, options):
    assert named_architecture(name, options).name == name


def test_an_architectures_name_must_fit_a_folder():
    with pytest.raises(ValueError, match=r"`name` of an architecture .* got 'a/b'"):
        Architecture(name="a/b")


def test_titles_are_what_a_reader_knows():
    found = [title(name) for name in ("dense", "soft-big", "top_k-middle", "soft-big-pi")]
    assert found == ["Dense", "SoftMoE-Big", "Top-k-Middle", "SoftMoE-Big (actor)"]
    assert title("dense-ReLU") == "Dense-ReLU"


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["dense", "myNET", "mynet"], ["Dense", "MyNET", "Mynet"]),
        (["a-b", "a--b"], ["A-B", "A--B"]),
        (["b", "B", "dense"], ["b", "B", "Dense"]),
        (["soft", "SoftMoE"], ["soft", "SoftMoE"]),
        (["x-vf", "x-qf"], ["x-vf", "x-qf"]),
        (["dense", "dense"], ["Dense"]),
    ],
)
def test_networks_of_one_study_are_told_apart(names, called):
    assert list(titles(names).values()) == called


def test_a_policy_can_be_a_class_of_ones_own():
    from stable_baselines3.common.policies import ActorCriticPolicy

    assert policy_of("MlpPolicy") is ActorCriticPolicy
    assert policy_of("stable_baselines3.common.policies:ActorCriticPolicy") is ActorCriticPolicy


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"placement": "none", "net_arch": [213, 213]}, "no experts; hidden layers of [213, 213]"),
        (
            {"placement": "big", "router": "task"},
            "each expert a whole network; the task picks its own",
        ),
        (
            {"placement": {"pi": "none", "vf": "middle"}, "num_experts": 4},
            "actor: no experts; critic: experts in place of the last hidden layer, 4 of them; "
            "a learned router weighs all of them",
        ),
        (
            {"placement": "big", "router": {"pi": "soft", "vf": "top_k"}, "num_experts": {"vf": 2}},
            "actor: each expert a whole network; a learned router weighs all of them; "
            "critic: each expert a whole network, 2 of them; a learned router picks the best",
        ),
        (
            {"placement": "none", "net_arch": {"pi": [64], "vf": [128]}, "task_input": "none"},
            "actor: no experts; hidden layers of [64]; task input none; "
            "critic: no experts; hidden layers of [128]; task input none",
        ),
    ],
)
def test_an_architecture_is_explained_to_those_who_do_not_know_the_options(options, words):
    assert meaning(Architecture(name="any", policy_kwargs=options)) == words


def test_a_networks_own_values_of_ppo_are_part_of_what_it_is():
    own = named_architecture("dense", {"placement": "none", "ppo": {"learning_rate": 1e-3}})
    assert meaning(own) == "no experts; learning rate 0.001"


def test_a_policy_of_ones_own_is_called_by_its_name():
    own = named_architecture("mine", {"policy": "mine:Policy", "net_arch": [64], "router": "soft"})
    assert meaning(own) == "the policy mine:Policy; net arch [64]; router soft"
