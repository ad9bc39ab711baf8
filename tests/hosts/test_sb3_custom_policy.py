"""Policies of any shape with any optimiser, as in SB3's ``test_custom_policy``."""

import arena
import asked
import guests
import pytest
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

HIDDEN = {
    "one": [4],
    "two": [4, 5],
    "one for each": {"pi": [8], "critic": [7]},
    "more in the critic": {"pi": [8], "critic": [8, 4]},
    "more in the actor": {"pi": [8, 4], "critic": [8]},
}


def by_tower(algorithm, net_arch):
    """Call the critic by its name: ``vf`` on-policy, ``qf`` off-policy, where DQN has no other."""
    if isinstance(net_arch, list):
        return net_arch
    if algorithm == "DQN":
        return net_arch["critic"]
    critic = "vf" if algorithm in guests.ON_POLICY else "qf"
    return {"pi": net_arch["pi"], critic: net_arch["critic"]}


def widths(module):
    return [each.out_features for each in module.modules() if isinstance(each, th.nn.Linear)]


@asked.over("net_arch", net_arch=HIDDEN)
def test_it_takes_any_number_and_width_of_hidden_layers(algorithm, placement, net_arch):
    model = guests.make(algorithm, placement, net_arch=by_tower(algorithm, net_arch))
    arena.train(model)
    if placement == "final" and algorithm in guests.ON_POLICY:
        expected = by_tower(algorithm, net_arch)
        expected = expected["pi"] if isinstance(expected, dict) else expected
        assert widths(model.policy.mlp_extractor.policy_net) == expected


@asked.over("net_arch", guests.ON_POLICY)
def test_the_old_form_of_net_arch_still_warns_and_works(algorithm, placement):
    with pytest.warns(UserWarning, match="net_arch"):
        model = guests.make(algorithm, placement, net_arch=[{"vf": [8], "pi": [4]}])
    arena.train(model)


@asked.over("no hidden layer")
def test_it_takes_no_hidden_layer(algorithm, placement):
    arena.train(guests.make(algorithm, placement, net_arch=[]))


@asked.over("no hidden layer", guests.ON_POLICY)
def test_a_tower_that_net_arch_leaves_out_has_no_hidden_layer(algorithm, placement):
    model = arena.train(guests.make(algorithm, placement, net_arch={"pi": [8]}))
    assert widths(model.policy.mlp_extractor.value_net) == []


OPTIMISERS = {
    "AdamW": {"optimizer_class": th.optim.AdamW},
    "AdamW without decay": {
        "optimizer_class": th.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": 0.0},
    },
    "RMSprop like TensorFlow's": {"optimizer_class": RMSpropTFLike},
}


@asked.over("optimiser", optimizer=OPTIMISERS)
def test_it_takes_another_optimiser_and_its_arguments(algorithm, placement, optimizer):
    model = arena.train(guests.make(algorithm, placement, **optimizer))
    owner = model.policy if hasattr(model.policy, "optimizer") else model.policy.critic
    assert isinstance(owner.optimizer, optimizer["optimizer_class"])
    for name, value in optimizer.get("optimizer_kwargs", {}).items():
        assert owner.optimizer.defaults[name] == value
