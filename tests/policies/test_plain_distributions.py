"""Actions, log-probabilities and entropies are SB3's, without its checks at every call."""

import copy

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    make_masked_proba_distribution,
)
from stable_baselines3.common import distributions as sb3
from stable_baselines3.common.distributions import kl_divergence, make_proba_distribution

from sb3_moe.policies.plain_distributions import plain

SPACES = {
    "discrete": arena.DISCRETE,
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
    "box": arena.BOX,
}
ON_POLICY = [("PPO", name) for name in SPACES]
MASKABLE = [("MaskablePPO", name) for name in SPACES if name != "box"]
OF_SB3 = {"PPO": make_proba_distribution, "MaskablePPO": make_masked_proba_distribution}


def two_policies(algorithm, actions, **options):
    """Return a policy, and the same weights with SB3's own distribution."""
    env = arena.Arena(arena.FLAT, SPACES[actions])
    ours = arena.make(algorithm, env=env, net_arch=[8], ortho_init=False, **options).policy
    theirs = copy.deepcopy(ours)
    theirs.action_dist = OF_SB3[algorithm](SPACES[actions])
    assert type(ours.action_dist) is not type(theirs.action_dist)
    return ours, theirs


def observations(count=64):
    return th.as_tensor(np.random.default_rng(0).normal(size=(count, 5)), dtype=th.float32)


def masks_of(policy, actions):
    size = {"discrete": 4, "multidiscrete": 5, "multibinary": 6}[actions]
    masks = th.ones(64, size, dtype=th.bool)
    masks[:, 1] = False
    return masks


def learn_from(policy, obs, actions, **kwargs):
    """Return what a loss sees of some actions, and the gradient of all of it."""
    policy.zero_grad()
    values, log_prob, entropy = policy.evaluate_actions(obs, actions, **kwargs)
    (values.sum() + log_prob.sum() + entropy.sum()).backward()
    return [values, log_prob, entropy, *(p.grad for p in policy.parameters() if p.grad is not None)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("algorithm", "actions"), [*ON_POLICY, *MASKABLE])
def test_actions_and_what_they_teach_are_those_of_sb3(algorithm, actions, deterministic):
    outcomes = []
    for policy in two_policies(algorithm, actions):
        kwargs = {"action_masks": masks_of(policy, actions)} if algorithm != "PPO" else {}
        th.manual_seed(0)
        chosen = policy(observations(), deterministic=deterministic, **kwargs)
        learnt = learn_from(policy, observations(), chosen[0].detach(), **kwargs)
        outcomes.append([*chosen, *learnt, th.rand(1)])
    for ours, theirs in zip(*outcomes, strict=True):
        th.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("algorithm", "actions"), ON_POLICY)
def test_the_divergence_of_two_policies_is_that_of_sb3(algorithm, actions):
    divergences = []
    for policy in two_policies(algorithm, actions):
        old = copy.copy(policy.get_distribution(observations()))
        new = policy.get_distribution(observations() + 1.0)
        divergences.append(kl_divergence(old, new))
    assert divergences[0].mean() > 0
    th.testing.assert_close(*divergences, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_actor_of_sac_acts_and_learns_as_sb3s_does(deterministic):
    ours = arena.make("SAC", net_arch=[8]).policy.actor
    theirs = copy.deepcopy(ours)
    theirs.action_dist = sb3.SquashedDiagGaussianDistribution(2)
    outcomes = []
    for actor in (ours, theirs):
        th.manual_seed(0)
        acted = actor(observations(), deterministic=deterministic)
        actions, log_prob = actor.action_log_prob(observations())
        (actions.sum() + log_prob.sum()).backward()
        outcomes.append([acted, actions, log_prob, *(p.grad for p in actor.parameters())])
    for mine, other in zip(*outcomes, strict=True):
        th.testing.assert_close(mine, other)


DISTRIBUTIONS = [
    sb3.MultiCategoricalDistribution([2, 2]),
    sb3.BernoulliDistribution(4),
    sb3.SquashedDiagGaussianDistribution(4),
    MaskableCategoricalDistribution(4),
]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda each: type(each).__name__)
def test_a_network_that_has_diverged_is_told_of(distribution, deterministic):
    args = [th.full((2, 4), th.nan)]
    if isinstance(distribution, sb3.DiagGaussianDistribution):
        args.append(th.zeros(4))
    given = plain(distribution).proba_distribution(*args)
    with pytest.raises(ValueError, match=r"Expected parameter .* but found NaN"):
        given.get_actions(deterministic=deterministic)
