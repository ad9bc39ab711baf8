"""Extractors that do otherwise in training, as in sb3-contrib's ``test_train_eval_mode``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import pytest
import torch as th

WHERE = {
    "QRDQN": ("quantile_net", "quantile_net_target"),
    "TQC": ("actor", "critic", "critic_target"),
    "CrossQ": ("actor", "critic"),
}


def norms(model):
    """Return the batch norm of each extractor, by the network that it serves."""
    policy = model.policy
    if type(model).__name__ not in WHERE:
        return {"policy": policy.features_extractor.norm}
    names = WHERE[type(model).__name__]
    return {name: getattr(policy, name).features_extractor.norm for name in names}


def statistics(model):
    return {
        name: (norm.bias.detach().clone(), norm.running_mean.clone())
        for name, norm in norms(model).items()
    }


def own(algorithm, placement, **settings):
    if algorithm == "QRDQN":
        settings["target_update_interval"] = 8
    return guests.make(
        algorithm, placement, model=settings, features_extractor_class=guests.OwnExtractor
    )


@asked.over("own extractor")
def test_an_extractor_learns_and_counts_in_training_and_does_neither_in_play(algorithm, placement):
    model = own(algorithm, placement)
    start = statistics(model)
    arena.train(model, 32)
    trained = statistics(model)
    for name, (bias, mean) in trained.items():
        assert not th.equal(mean, start[name][1]), name
        # TRPO takes no step where its search fails, and targets follow by and by.
        assert not th.equal(bias, start[name][0]) or algorithm == "TRPO" or "target" in name
    obs = arena.observe(model)
    first = arena.predict(model, obs)
    for _ in range(3):
        np.testing.assert_array_equal(arena.predict(model, obs), first)
    for name, (bias, mean) in statistics(model).items():
        assert th.equal(bias, trained[name][0])
        assert th.equal(mean, trained[name][1])


@asked.over("batch norm in targets", ["QRDQN", "TQC"])
def test_running_statistics_reach_targets_whatever_tau(algorithm, placement):
    model = own(algorithm, placement, tau=0.0)
    start = statistics(model)
    arena.train(model, 32)
    if algorithm == "QRDQN":
        # QR-DQN moves its target where it acts.
        model.target_update_interval = 1
        model._on_step()
    online, target = WHERE[algorithm][-2:]
    after = statistics(model)
    assert not th.equal(after[online][0], start[online][0])
    assert th.equal(after[target][0], start[target][0])
    assert not th.equal(after[online][1], start[online][1])
    assert th.equal(after[target][1], after[online][1])


@pytest.mark.parametrize("placement", asked.keeping("own extractor"))
@pytest.mark.parametrize("algorithm", WHERE)
def test_playing_alone_changes_nothing(algorithm, placement):
    model = own(algorithm, placement, gradient_steps=0)
    before = statistics(model)
    arena.train(model, 24)
    for name, each in statistics(model).items():
        assert all(map(th.equal, each, before[name])), name


def test_a_big_recurrent_policy_takes_an_extractor_of_the_users_own():
    model = own("RecurrentPPO", "big")
    before = statistics(model)
    arena.train(model)
    assert not th.equal(statistics(model)["policy"][1], before["policy"][1])
