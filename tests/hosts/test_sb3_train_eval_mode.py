"""Training and acting with an extractor of one's own, as in SB3's ``test_train_eval_mode``."""

import copy

import arena
import asked
import guests
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Whitening(BaseFeaturesExtractor):
    """Batch norm and dropout over the flat observation: what acts otherwise while training."""

    def __init__(self, observation_space):
        dim = get_flattened_obs_dim(observation_space)
        super().__init__(observation_space, dim)
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(dim), nn.Dropout(0.5))

    def forward(self, observations):
        return self.layers(observations)


def make(algorithm, placement, **model):
    return guests.make(algorithm, placement, model=model, features_extractor_class=Whitening)


def norms(model):
    """Return what batch norm learned and counted, by name."""
    state = model.policy.state_dict()
    return {k: v.clone() for k, v in state.items() if "extractor.layers.1." in k}


def changed(before, after, part=""):
    return {k for k in before if part in k and not th.equal(before[k], after[k])}


@asked.over("own extractor")
def test_its_batch_norm_learns_with_the_policy(algorithm, placement):
    model = make(algorithm, placement)
    before = norms(model)
    after = norms(arena.train(model))
    assert before
    online = {k for k in before if "_target" not in k and "num_batches" not in k}
    assert changed(before, after) >= online


@asked.over("own extractor")
def test_collecting_and_predicting_leave_its_batch_norm_alone(algorithm, placement):
    if algorithm in guests.ON_POLICY:
        model = make(algorithm, placement)
        _, callback = model._setup_learn(16)
        before = norms(model)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    else:
        model = make(algorithm, placement, gradient_steps=0)
        before = norms(model)
        arena.train(model)
    obs = arena.observe(model)
    first = arena.predict(model, obs)
    for _ in range(3):
        np.testing.assert_array_equal(arena.predict(model, obs), first)
    assert not changed(before, norms(model))


@asked.over("batch norm in targets", guests.OFF_POLICY)
def test_targets_take_running_statistics_and_at_tau_0_nothing_else(algorithm, placement):
    kwargs = {"target_update_interval": 1} if algorithm in ("DQN", "SAC") else {}
    model = make(algorithm, placement, tau=0.0, learning_starts=0, **kwargs)
    before = copy.deepcopy(norms(model))
    arena.train(model)
    if algorithm == "DQN":
        # DQN copies while it collects, before it learns.
        model._on_step()
    after = norms(model)
    targets = [name for name in after if "_target" in name]
    assert targets
    for name in targets:
        online = after[name.replace("_target", "")]
        if "running_" in name:
            assert th.equal(after[name], online), name
        elif "num_batches" not in name:
            assert th.equal(after[name], before[name]), name
            assert not th.equal(after[name], online), name


@pytest.mark.parametrize("placement", asked.keeping("own extractor"))
def test_a_model_with_an_extractor_of_the_users_own_is_loaded_with_it(placement, tmp_path):
    model = arena.train(make("PPO", placement))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert type(loaded.policy.features_extractor) is Whitening
    arena.assert_same_weights(loaded.policy, model.policy)
