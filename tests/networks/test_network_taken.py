"""What policies say of actions that were taken, and how much each weight counts in it."""

import arena
import numpy as np
import pytest
import torch as th
from every_network import every_policy, make, parameters_of
from gymnasium import spaces
from stable_baselines3 import PPO

from sb3_moe.measures.gradients import fisher_information
from sb3_moe.networks import Networks, networks_of


def taken(model, rows):
    """Sample actions as the algorithm would keep them: an actor's in [-1, 1]."""
    model.action_space.seed(0)
    actions = np.array([model.action_space.sample() for _ in range(rows)])
    return np.clip(actions, -0.9, 0.9) if actions.dtype.kind == "f" else actions


@every_policy
def test_every_policy_knows_how_much_its_weights_count_for_actions_that_were_taken(
    algorithm, alias
):
    model = make(algorithm, alias)
    networks, was_training = networks_of(model.policy), model.policy.training
    obs, actions = arena.observe(model, 3), taken(model, 3)
    named = dict(model.policy.named_parameters())
    found = fisher_information(model.policy, obs, actions, named)
    assert model.policy.training == was_training
    assert all(np.isfinite(each).all() for each in found.values())
    names = {each: name for name, each in named.items()}
    for tower, modules in networks.towers().items():
        counts = any(found[names[each]].any() for each in parameters_of(modules))
        # Value networks of policies that have probabilities say nothing of actions.
        assert counts == (tower != "vf")
    for online, target in networks.targets().items():
        assert not any(found[names[each]].any() for each in target.parameters()), online
    rows = [(obs[i : i + 1], actions[i : i + 1]) for i in range(3)]
    single = [fisher_information(model.policy, *row, named) for row in rows]
    for name, each in found.items():
        mean = np.mean([one[name] for one in single], axis=0)
        np.testing.assert_allclose(each, mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alias", ["MlpPolicy", "MoeMlpPolicy"])
def test_single_choices_may_stand_in_a_column_as_buffers_keep_them(alias):
    model = PPO(alias, arena.Arena(arena.FLAT), n_steps=4, batch_size=4).learn(4)
    data = next(model.rollout_buffer.get(4))
    (said_B,) = networks_of(model.policy).taken(data.observations, data.actions)
    _, log_probs_B, _ = model.policy.evaluate_actions(data.observations, data.actions.flatten())
    th.testing.assert_close(said_B, log_probs_B)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)], ids=str)
def test_actions_of_several_parts_have_one_log_probability(space):
    model = PPO("MlpPolicy", arena.Arena(arena.FLAT, space), n_steps=4, batch_size=4)
    actions = th.as_tensor(np.array([space.sample() for _ in range(2)])).float()
    (said_B,) = networks_of(model.policy).taken(th.zeros(2, 5), actions)
    _, log_probs_B, _ = model.policy.evaluate_actions(th.zeros(2, 5), actions)
    th.testing.assert_close(said_B, log_probs_B)


def test_a_family_that_does_not_say_is_named():
    class Silent(Networks):
        fits = networks = run = outputs = None

    with pytest.raises(TypeError, match="Silent doesn't say what its policies think of actions"):
        Silent.taken(Silent.__new__(Silent), None, None)
