"""The simplest thing to learn, as in sb3-contrib's ``test_identity``."""

import contrib_guests as guests
import numpy as np
import pytest
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy

WORLDS = {
    "discrete": lambda: IdentityEnv(4),
    "multidiscrete": lambda: IdentityEnvMultiDiscrete(4),
    "multibinary": lambda: IdentityEnvMultiBinary(4),
}
SETTINGS = {
    "QRDQN": {
        "learning_starts": 0,
        "target_update_interval": 10,
        "train_freq": 2,
        "gradient_steps": 1,
        "batch_size": 128,
        "buffer_size": 1500,
        "learning_rate": 3e-3,
    },
    "TRPO": {"n_steps": 256, "batch_size": 64, "cg_max_steps": 5, "learning_rate": 1e-3},
}


def assert_learns_the_identity(algorithm, placement, world, steps):
    env = WORLDS[world]()
    options = {"n_quantiles": 25} if algorithm == "QRDQN" else {}
    settings = {"gamma": 0.4, **SETTINGS[algorithm]}
    model = guests.make(algorithm, placement, env=env, model=settings, **options)
    before, _ = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    model.learn(steps)
    after, _ = evaluate_policy(model, env, n_eval_episodes=2, warn=False)
    assert after > 90
    assert before < after
    obs = np.stack([env.observation_space.sample() for _ in range(3)])
    assert np.shape(model.predict(obs)[0]) == np.shape(obs)


@guests.over("identity", ["QRDQN", "TRPO"], world={"discrete": "discrete"})
def test_it_learns_to_say_what_it_sees(algorithm, placement, world):
    assert_learns_the_identity(algorithm, placement, world, 1500)


@pytest.mark.full
@pytest.mark.parametrize("placement", guests.PLACEMENTS)
@pytest.mark.parametrize("world", ["multidiscrete", "multibinary"])
def test_it_learns_to_say_several_things_at_once(world, placement):
    assert_learns_the_identity("TRPO", placement, world, 6000)
