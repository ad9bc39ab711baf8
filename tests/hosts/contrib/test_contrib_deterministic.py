"""Seeds, as in sb3-contrib's ``test_deterministic``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
from stable_baselines3.common.noise import NormalActionNoise


def run(algorithm, placement):
    """Return what a model does after training: actions and rewards."""
    settings = {}
    if algorithm == "TQC":
        settings["action_noise"] = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    model = arena.train(guests.make(algorithm, placement, model=settings), 48)
    env = model.get_env()
    obs, states, starts, done = env.reset(), None, None, []
    for _ in range(20):
        action, states = model.predict(obs, states, starts, deterministic=False)
        obs, reward, starts, _ = env.step(action)
        done.append((action.tolist(), reward.tolist()))
    return done


@asked.over("seed")
def test_the_same_seed_does_the_same_twice(algorithm, placement):
    assert run(algorithm, placement) == run(algorithm, placement)
