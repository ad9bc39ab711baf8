"""Small models of an environment: which of them explains what happens, and what they learn."""

import numpy as np
import pytest
import reference
import torch as th
from gymnasium import spaces

from sb3_moe_envs.belief import BeliefModels, Numbers, Transitions, read_belief, write_belief


def moved(slope, count=64, seed=0):
    """Return steps of a point that an action moves by its slope; so does the reward."""
    random = np.random.default_rng(seed)
    obs, actions = random.normal(size=(count, 2)), random.normal(size=(count, 1))
    after = obs + slope * actions
    return Transitions(obs, actions, slope * after[:, :1], after)


def both(*slopes):
    return Transitions(*map(np.concatenate, zip(*(moved(each) for each in slopes), strict=True)))


def learned(num_models=3, *, slopes=(1.0, -1.0), rounds=1, **options):
    """Return models that have learned of some slopes, of which they hold none likelier."""
    models = BeliefModels(2, 1, num_models, seed=0, **{"learning_rate": 0.03, **options})
    transitions = both(*slopes)
    for _ in range(rounds):
        log_belief = np.tile(models.log_prior(), (len(transitions.obs), 1))
        models.learn(transitions, log_belief, 20, 64)
    return models


def followed(models, transitions):
    """Return the logarithm of the belief after each transition of an episode."""
    found = [models.start(models.log_prior())]
    for log_likelihood in models.log_likelihood(transitions):
        found.append(models.follow(found[-1], log_likelihood))
    return np.array(found[1:])


def after(models, transitions):
    """Return the belief after each transition of an episode."""
    return np.exp(followed(models, transitions))


# The belief.


@pytest.mark.parametrize("hidden", [(), (5, 4)])
@pytest.mark.parametrize("predicts", ["transition", "reward", "both"])
def test_the_belief_is_that_of_a_slow_bayesian_filter(predicts, hidden):
    models = learned(predicts=predicts, hidden=hidden, memory=0.9, active=2)
    episode = moved(0.5, count=20, seed=1)
    slow = reference.belief(models, episode, models.log_prior().tolist())
    np.testing.assert_allclose(after(models, episode), slow, rtol=0, atol=1e-6)


def test_two_linear_systems_are_told_apart_by_the_odds_worked_out_by_hand():
    models = BeliefModels(1, 1, 2, min_variance=0.5, memory=1.0, prior_floor=1.0)
    regression = models.regressions["transition"]
    # Of (x, a, 1): the change is a in the one and -a in the other; exp(log 0.5) + 0.5 = 1.
    regression.weights[0][:] = [[[0.0], [1.0], [0.0]], [[0.0], [-1.0], [0.0]]]
    regression.log_variance_O[:] = np.log(0.5)
    models.num_updates = 1
    step = Transitions(*(np.array([[each]]) for each in (0.0, 1.0, 0.0, 1.0)))
    # The errors are 0 and 2, so the odds are exp(2 ** 2 / 2) to 1; after a second such step e^4.
    twice = step.select([0, 0])
    odds = np.exp([2.0, 4.0])
    np.testing.assert_allclose(after(models, twice)[:, 0], odds / (odds + 1.0))


def test_the_prior_is_the_models_shares_with_a_floor_and_spare_models_have_none():
    models = BeliefModels(2, 1, 3, active=2, prior_floor=0.2)
    models.shares_E[:] = [0.6, 0.2, 0.2]
    np.testing.assert_allclose(np.exp(models.log_prior()), [0.7, 0.3, 0.0])
    last = np.log([[0.1, 0.9, 0.1]])
    np.testing.assert_allclose(models.start(last), [models.log_prior()])
    assert BeliefModels(2, 1, 3, carry=True).start(last) is last


# Learning.


def test_gradients_are_those_of_torch():
    models = learned(predicts="reward", hidden=(3,))
    [regression] = models.regressions.values()
    obs, actions, rewards, next_obs = moved(0.3, count=5)
    inputs = np.concatenate([obs, actions, next_obs], axis=1)
    shares_EB = np.random.default_rng(0).random((3, 5))
    errors, seen = regression.errors(inputs, rewards)
    ours = regression.gradients(errors, seen, shares_EB)

    weights = [th.tensor(each, requires_grad=True) for each in regression.weights]
    log_variance = th.tensor(regression.log_variance_O, requires_grad=True)
    y = th.tensor(regression.input_scale.standardize(inputs))
    for layer, weight in enumerate(weights):
        x = y.tanh() if layer else y
        y = x @ weight[:, :-1] + weight[:, -1:]
    target = th.tensor(regression.target_scale.standardize(rewards))
    variance = log_variance.exp() + regression.min_variance
    log_normal_EB = th.distributions.Normal(y, variance.sqrt()).log_prob(target).sum(-1)
    loss = -(th.tensor(shares_EB) * log_normal_EB).sum()
    theirs = th.autograd.grad(loss, [*weights, log_variance])
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, their.numpy(), rtol=1e-9, atol=1e-12)


def test_reward_models_see_the_next_observation():
    transitions = moved(0.0)._replace(next_obs=moved(0.0, seed=1).obs)
    transitions = transitions._replace(rewards=transitions.next_obs[:, :1])
    models = BeliefModels(2, 1, 1, predicts="reward")
    models.learn(transitions, np.zeros((64, 1)), 1000, 64)
    errors, _ = models.regressions["reward"].errors(
        np.concatenate([transitions.obs, transitions.actions, transitions.next_obs], axis=1),
        transitions.rewards,
    )
    assert np.abs(errors).max() < 0.05


def unscaled_errors(models, predicts, transitions):
    """Return each model's errors in the target's own units."""
    obs, actions, rewards, next_obs = transitions
    seen, target = [obs, actions], next_obs - obs
    if predicts == "reward":
        seen, target = [obs, actions, next_obs], rewards
    regression = models.regressions[predicts]
    errors, _ = regression.errors(np.concatenate(seen, axis=1), target)
    return errors * regression.target_scale.divisor


def test_standardizing_by_all_transitions_so_far_changes_no_prediction():
    models, late = learned(hidden=(4,)), moved(0.5, 50, 9)
    [regression] = models.regressions.values()
    before = unscaled_errors(models, "transition", late)
    inputs = np.concatenate([late.obs, late.actions], axis=1)
    regression.standardize_by(inputs, late.next_obs - late.obs, 50 / (models.num_seen + 50))
    np.testing.assert_allclose(unscaled_errors(models, "transition", late), before)
    seen = both(1.0, -1.0)
    every = np.concatenate([np.concatenate([seen.obs, seen.actions], axis=1), inputs])
    np.testing.assert_allclose(regression.input_scale.mean, every.mean(axis=0))
    np.testing.assert_allclose(regression.input_scale.divisor, every.std(axis=0))


@pytest.mark.parametrize("predicts", ["transition", "reward"])
def test_each_of_two_tasks_gets_a_model_which_stays_as_it_is_while_its_task_is_away(predicts):
    models = learned(2, predicts=predicts, rounds=20)
    likeliest = [int(after(models, moved(slope, 5, 9))[-1].argmax()) for slope in (1.0, -1.0)]
    assert sorted(likeliest) == [0, 1]
    away, present = moved(-1.0), moved(1.0)
    before = unscaled_errors(models, predicts, away)
    models.learn(present, followed(models, present), 20, 64)
    later = unscaled_errors(models, predicts, away)
    np.testing.assert_allclose(later[likeliest[1]], before[likeliest[1]], atol=1e-9)
    assert not np.allclose(later[likeliest[0]], before[likeliest[0]], atol=1e-9)


def test_a_spare_model_gets_a_task_of_its_own_and_nothing_else_changes():
    models = learned(3, active=2, rounds=20)
    known = both(1.0, -1.0)
    before, shapes = models.log_likelihood(known)[:, :2], [each.shape for each in models._learned()]
    assert not np.exp(models.log_prior())[2]
    assert models.activate(moved(5.0), 300, 64) == 2
    np.testing.assert_array_equal(models.log_likelihood(known)[:, :2], before)
    assert [each.shape for each in models._learned()] == shapes
    assert after(models, moved(5.0, 5, 9))[-1].argmax() == 2
    assert models.num_spare == 0
    with pytest.raises(ValueError, match="`num_models`=3 leaves no spare model"):
        models.activate(known, 1, 64)


# Files, and robots.


def test_a_file_holds_all_that_goes_on_learning(tmp_path):
    models = learned(predicts="both", hidden=(3,), active=2)
    write_belief(tmp_path / "belief", models, Numbers(None, [2, 3], [0, 1]))
    again, numbers = read_belief(tmp_path / "belief.npz")
    assert numbers.settings == {"keys": None, "sizes": [2, 3], "starts": [0, 1]}
    for each in (models, again):
        each.random = np.random.default_rng(0)
        each.learn(both(0.5), np.tile(each.log_prior(), (64, 1)), 5, 16)
    for mine, theirs in zip(models._learned(), again._learned(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert again.state().keys() == models.state().keys()


# What models see, and what is refused.

FLAT, IMAGE = spaces.Box(-1, 1, (2,)), spaces.Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "actions", "rows"),
    [
        (spaces.Discrete(3, start=5), [6, 7], [[0, 1, 0], [0, 0, 1]]),
        (spaces.MultiDiscrete([2, 3], start=[0, 4]), [[1, 6]], [[0, 1, 0, 0, 1]]),
        (spaces.Box(-1, 1, (1, 2)), [[[0.5, -0.25]]], [[0.5, -0.25]]),
    ],
)
def test_actions_are_one_hots_side_by_side_or_the_numbers_of_a_box(space, actions, rows):
    assert Numbers.of_spaces(FLAT, space, None).of_actions(np.array(actions)).tolist() == rows


def test_all_flat_parts_of_a_dict_count_and_nothing_else():
    space = spaces.Dict(image=IMAGE, task=spaces.Discrete(2), x=FLAT, goal=FLAT)
    numbers = Numbers.of_spaces(space, spaces.Discrete(2), None)
    assert sorted(numbers.keys) == ["goal", "x"]
    obs = {key: np.full((1, 2), value) for key, value in (("x", 1.0), ("goal", 2.0))}
    assert sorted(numbers.of_observations(obs)[0]) == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("space", [IMAGE, spaces.Dict(image=IMAGE), spaces.Discrete(3)])
def test_images_are_refused_with_a_word_about_encode(space):
    with pytest.raises(ValueError, match="for images and others give `encode=`, a function"):
        Numbers.of_spaces(space, spaces.Discrete(2), None)
    encoding = Numbers.of_spaces(space, spaces.Discrete(2), lambda obs: np.ones((len(obs), 3)))
    assert encoding.of_observations(np.zeros((2, 8))).shape == (2, 3)
    encoding.encode = lambda obs: np.ones(3)
    with pytest.raises(ValueError, match=r"must return an array \(B, D\), got \(3,\)"):
        encoding.of_observations(np.zeros((2, 8)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_models": 0}, "`num_models` must be at least 1, got 0"),
        ({"predicts": "all"}, r"`predicts` must be one of .* got 'all'"),
        ({"active": 17}, "`active` must be at most num_models=16, got 17"),
        ({"hidden": [0]}, "`hidden` must be at least 1, got 0"),
        ({"memory": 0.0}, r"`memory` must be in \(0, 1\], got 0.0"),
        ({"prior_floor": 1.5}, r"`prior_floor` must be in \(0, 1\], got 1.5"),
        ({"learning_rate": 0.0}, "`learning_rate` must"),
    ],
)
def test_values_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        BeliefModels(2, 1, **options)
    with pytest.raises(ValueError, match="actions must be Box, Discrete or MultiDiscrete"):
        Numbers.of_spaces(FLAT, spaces.MultiBinary(2), None)
