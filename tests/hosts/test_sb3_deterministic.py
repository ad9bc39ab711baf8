"""The same seed, the same run, as in SB3's ``test_deterministic``."""

import arena
import asked
import guests
import numpy as np


def played(algorithm, placement):
    """Train, play on with chance, and return weights, actions and rewards."""
    model = arena.train(guests.make(algorithm, placement, seed=3), 32)
    env = model.get_env()
    obs, actions, rewards = env.reset(), [], []
    for _ in range(20):
        action, _ = model.predict(obs, deterministic=False)
        obs, reward, _, _ = env.step(action)
        actions.append(action)
        rewards.append(reward)
    return model.policy, np.stack(actions), np.stack(rewards)


@asked.over("seed")
def test_the_same_seed_gives_the_same_weights_actions_and_rewards(algorithm, placement):
    (policy, *played_once), (other, *played_twice) = (played(algorithm, placement) for _ in "12")
    arena.assert_same_weights(policy, other)
    for once, twice in zip(played_once, played_twice, strict=True):
        np.testing.assert_array_equal(once, twice)
