"""A VecEnv that was saved goes on as the original does, whatever its layers hold."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
)

from sb3_moe.callbacks import save_snapshot
from sb3_moe.saving.environment import load_env, save_env


def play(env, steps=12):
    seen = [env.step(np.ones(env.num_envs, np.int64)) for _ in range(steps)]
    return repr([(obs, rewards) for obs, rewards, *_ in seen])


def goes_on(env):
    """Tell whether a copy that was saved and loaded does what the original does."""
    env.reset()
    play(env)
    other = load_env(save_env(env))[0]
    same = play(other) == play(env)
    other.close()
    return same


def cart_poles(*wrappers):
    def make():
        env = gym.make("CartPole-v1")
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return DummyVecEnv([make, make])


class Rebuilding(gym.Wrapper, EzPickle):
    """A wrapper that pickles by building itself anew, and so forgets what it counted."""

    def __init__(self, env):
        EzPickle.__init__(self, env)
        gym.Wrapper.__init__(self, env)


@pytest.mark.parametrize(("wrappers", "exact"), [((), True), ((Rebuilding, Monitor), False)])
def test_a_layer_that_builds_itself_anew_is_not_said_to_be_exact(wrappers, exact):
    assert save_env(cart_poles(*wrappers))[1] is exact


def test_an_environment_that_was_rendered_is_saved_without_its_window():
    class Surface:
        __module__ = "pygame.surface"

        def __reduce__(self):
            raise TypeError("cannot pickle 'pygame.surface.Surface' object")

    env = cart_poles()
    env.envs[0].unwrapped.screen = Surface()
    assert goes_on(env)
    assert load_env(save_env(env))[0].envs[0].unwrapped.screen is None


def test_a_part_that_cannot_be_pickled_is_refused(tmp_path):
    env = cart_poles()
    env.envs[0].unwrapped.stream = (each for each in "ab")
    model = PPO("MlpPolicy", env, device="cpu")
    with pytest.raises(ValueError, match=r"environment can't .* pickled \(TypeError: .*generator"):
        save_snapshot(model, tmp_path / "snapshot.zip")
    assert not list(tmp_path.iterdir())
