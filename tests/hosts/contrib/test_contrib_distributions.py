"""What masks do to a policy's distribution, as in sb3-contrib's ``test_distributions``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import torch as th
from gymnasium import spaces

ACTIONS = {
    "discrete": (spaces.Discrete(4), [True, False, True, True]),
    "multidiscrete": (spaces.MultiDiscrete([3, 2]), [True, False, True, True, False]),
    "multibinary": (spaces.MultiBinary(2), [True, True, False, True]),
}


class Choices(arena.Arena):
    """Says nothing of masks."""


def parts(distribution):
    """Return one Categorical for each choice."""
    inner = getattr(distribution, "distributions", None)
    return list(inner) if inner else [distribution.distribution]


@asked.over("distribution", ["MaskablePPO"], actions=ACTIONS)
def test_masks_scale_up_what_is_left_and_come_off_again(algorithm, placement, actions):
    space, allowed = actions
    model = guests.make(algorithm, placement, env=Choices(arena.FLAT, space), ortho_init=False)
    policy = model.policy
    obs = policy.obs_to_tensor(arena.observe(model))[0]
    masks = np.array([allowed] * 3)
    free = [each.probs.clone() for each in parts(policy.get_distribution(obs))]
    distribution = policy.get_distribution(obs, masks)
    sizes = [each.shape[1] for each in free]
    each_allowed = th.as_tensor(masks).float().split(sizes, dim=1)
    for whole, kept, masked in zip(free, each_allowed, parts(distribution), strict=True):
        left = whole * kept
        th.testing.assert_close(masked.probs, left / left.sum(1, keepdim=True))
    sampled = th.stack([distribution.sample() for _ in range(20)])
    values, log_prob, entropy = policy.evaluate_actions(
        obs, sampled[0].reshape(3, *space.shape), masks
    )
    assert values.shape == (3, 1)
    th.testing.assert_close(log_prob, distribution.log_prob(sampled[0]))
    th.testing.assert_close(entropy, distribution.entropy())
    distribution.apply_masking(None)
    for whole, bare in zip(free, parts(distribution), strict=True):
        th.testing.assert_close(bare.probs, whole)
