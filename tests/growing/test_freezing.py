"""Frozen experts stay bit for bit while all else learns, through files too, and can go on."""

import arena
import pytest
import torch as th
from experts_in_models import all_of, assert_same, assert_unchanged, loaded, moe, of_expert
from torch import nn

import sb3_moe
from sb3_moe import freeze_experts, thaw_experts

CASES = {
    "PPO": {"placement": "all"},
    "A2C": {"router": "top_k", "optimizer_class": th.optim.Adam},
    "DQN": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}},
    "SAC": {},
    "TD3": {"placement": "big"},
    "CrossQ": {"placement": "body"},
    "RecurrentPPO": {"router": "task"},
}


@pytest.mark.parametrize("algorithm", CASES)
def test_frozen_experts_stay_and_their_neighbours_learn(algorithm):
    model = moe(algorithm, **CASES[algorithm])
    names = list(model.policy.moe_layers())
    freeze_experts(model, [0, 2])
    still = {(name, k): of_expert(model, name, k) for name in names for k in (0, 2)}
    moving = {name: of_expert(model, name, 1) for name in names}
    model.learn(32, reset_num_timesteps=False)
    for (name, k), tensors in still.items():
        assert_same(of_expert(model, name, k), tensors)
    for name, tensors in moving.items():
        found = of_expert(model, name, 1)
        assert any(not th.equal(found[key], each) for key, each in tensors.items()), name


def test_trpo_refuses_since_no_optimizer_moves_its_actor():
    with pytest.raises(ValueError, match=r"`frozen_experts` must be None for TRPO, .*, got "):
        freeze_experts(moe("TRPO"), [0])


# Through files and copies.


def goes_on_frozen(model):
    before = of_expert(model, "pi.middle", 1)
    model.learn(16, reset_num_timesteps=False)
    assert_same(of_expert(model, "pi.middle", 1), before)


def test_files_keep_what_is_frozen(tmp_path):
    model = moe("SAC")
    freeze_experts(model, [1], network="pi")
    sb3_moe.save(model, tmp_path / "frozen.moe")
    for again in (loaded(model), sb3_moe.load(tmp_path / "frozen.moe", model.get_env())):
        assert again.policy.frozen_experts == {"pi.middle": [1]}
        goes_on_frozen(again)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy")
    assert policy.moe_layers()["pi.middle"].frozen == {1}
    assert not policy.moe_layers()["qf0.middle"].frozen


def test_weights_that_are_set_from_another_file_are_held_from_then_on():
    model, other = moe(seed=0), moe(seed=1)
    freeze_experts(model, [1])
    model.set_parameters(other.get_parameters())
    assert_same(of_expert(model, "pi.middle", 1), of_expert(other, "pi.middle", 1))
    goes_on_frozen(model)


def test_it_is_an_option_of_a_policy_too():
    model = moe(frozen_experts={"pi": [3]}, placement="all")
    assert model.policy.frozen_experts == {"pi.all.0": [3], "pi.all.1": [3], "pi.head": [3]}
    thaw_experts(model, network="pi.head")
    assert model.policy_kwargs["frozen_experts"] == {"pi.all.0": [3], "pi.all.1": [3]}
    thaw_experts(model)
    assert model.policy_kwargs["frozen_experts"] is None


def test_numbers_are_not_those_of_heads_for_tasks():
    model = moe(placement="body", head_router="task")
    freeze_experts(model, [3])
    assert model.policy.frozen_experts == {"pi.body": [3], "vf.body": [3]}


def test_one_of_several_critics_can_be_frozen():
    model = moe("SAC")
    freeze_experts(model, network="qf1")
    assert model.policy.frozen_experts == {"qf1.middle": [0, 1, 2, 3]}
    assert model.expert_log[-1]["what"] == "freeze"


# What is refused.


REFUSED = {
    "unknown": ({}, ([4],), ValueError, r"must be in \[0, num_experts=4\) of pi."),
    "a number": ({}, (0,), TypeError, "`experts` must be a list of numbers of experts, got 0"),
    "optimizer": (
        {"optimizer_class": th.optim.Adamax, "optimizer_kwargs": {}},
        ([0],),
        ValueError,
        r"`frozen_experts` needs Adam or AdamW as `optimizer_class`.*, got Adamax",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_use_says_what_and_leaves_the_model_as_it_was(name):
    options, given, error, text = REFUSED[name]
    model = moe(**options)
    before = all_of(model)
    with pytest.raises(error, match=text):
        freeze_experts(model, *given)
    assert_unchanged(model, before)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ([1], TypeError, r"`frozen_experts` must be a dict such as dict\(pi=\[0\]\), got \[1\]"),
        ({"qf": [1]}, ValueError, r"`network` must be one of \['pi', 'vf'\].*got 'qf'"),
        ({"pi": [9]}, ValueError, r"`frozen_experts` must be in.*of pi.middle, got 9"),
    ],
)
def test_a_policy_names_its_option(value, error, text):
    with pytest.raises(error, match=text):
        arena.make("PPO", frozen_experts=value)


class Normalized(nn.Sequential):
    def __init__(self, in_features, width, out_features, activation):
        norm = nn.BatchNorm1d(width)
        last = nn.Linear(width, out_features)
        super().__init__(nn.Linear(in_features, width), norm, activation, last)


def test_the_statistics_of_frozen_experts_stay_while_others_count_on():
    model = moe(expert=Normalized)
    freeze_experts(model, [1])
    before = [of_expert(model, "pi.middle", k) for k in (0, 1)]
    model.learn(32, reset_num_timesteps=False)
    moved, kept = (of_expert(model, "pi.middle", k) for k in (0, 1))
    assert_same(kept, before[1])
    (mean,) = (name for name in moved if name.endswith("running_mean"))
    assert not th.equal(moved[mean], before[0][mean])


def test_routers_of_frozen_experts_and_layers_before_them_go_on():
    model = moe("DQN", placement="final")
    freeze_experts(model)
    router = model.policy.moe_layers()["qf.final"].router
    tensors = [router.weight_RK, next(model.q_net.parameters())]
    before = [each.detach().clone() for each in tensors]
    model.learn(16, reset_num_timesteps=False)
    assert not any(th.equal(each, was) for each, was in zip(tensors, before, strict=True))
