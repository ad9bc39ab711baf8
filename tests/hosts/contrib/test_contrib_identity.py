"""The simplest thing to learn, as in sb3-contrib's ``test_identity``."""

import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import pytest
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from tables import PLACEMENTS

WORLDS = {
    "discrete": lambda: IdentityEnv(4),
    "multidiscrete": lambda: IdentityEnvMultiDiscrete(4),
    "multibinary": lambda: IdentityEnvMultiBinary(4),
}
SETTINGS = {
    "QRDQN": {
        "learning_starts": 0,
        "target_update_interval": 10,
        "train_freq": 4,
        "batch_size": 64,
        "buffer_size": 600,
        "exploration_fraction": 0.5,
    },
    "TRPO": {"n_steps": 128, "batch_size": 64, "cg_max_steps": 5, "n_critic_updates": 2},
}


def assert_learns_the_identity(algorithm, placement, world, steps):
    env = WORLDS[world]()
    options = {"n_quantiles": 5} if algorithm == "QRDQN" else {"net_arch": [16]}
    settings = {"gamma": 0.1, "learning_rate": 1e-2, **SETTINGS[algorithm]}
    model = guests.make(algorithm, placement, env=env, model=settings, **options)
    before, _ = evaluate_policy(model, env, n_eval_episodes=1, warn=False)
    model.learn(steps)
    after, _ = evaluate_policy(model, env, n_eval_episodes=1, warn=False)
    assert before < 90 < after
    obs = np.stack([env.observation_space.sample() for _ in range(3)])
    assert np.shape(model.predict(obs)[0]) == np.shape(obs)


@asked.over("identity", ["QRDQN", "TRPO"], world={"discrete": "discrete"})
def test_it_learns_to_say_what_it_sees(algorithm, placement, world):
    assert_learns_the_identity(algorithm, placement, world, 640)


@pytest.mark.full
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("world", ["multidiscrete", "multibinary"])
def test_it_learns_to_say_several_things_at_once(world, placement):
    assert_learns_the_identity("TRPO", placement, world, 4000)
