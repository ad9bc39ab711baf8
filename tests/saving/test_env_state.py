"""A VecEnv that was saved goes on as the original does, and so does its monitor's file."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils import EzPickle
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from sb3_moe.callbacks import save_snapshot
from sb3_moe.saving.environment import load_env, save_env
from sb3_moe.vec_env import GymnasiumVecEnv

SAME = gym.vector.AutoresetMode.SAME_STEP


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


def test_an_environment_without_a_recipe_is_refused_by_its_kind():
    makers = [lambda: gym.make("CartPole-v1")]
    env = GymnasiumVecEnv(gym.vector.SyncVectorEnv(makers, autoreset_mode=SAME))
    with pytest.raises(ValueError, match=r"must be of .* or a DummyVecEnv.*, got GymnasiumVecEnv"):
        save_env(env)


def test_a_part_that_cannot_be_pickled_is_refused(tmp_path):
    env = cart_poles()
    env.envs[0].unwrapped.stream = (each for each in "ab")
    model = PPO("MlpPolicy", env, device="cpu")
    with pytest.raises(ValueError, match=r"environment can't .* pickled \(TypeError: .*generator"):
        save_snapshot(model, tmp_path / "snapshot.zip")
    assert not list(tmp_path.iterdir())


# A monitor's file.


def single(path):
    return DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"), str(path))])


def several(path):
    return VecMonitor(DummyVecEnv([lambda: gym.make("CartPole-v1")]), str(path))


@pytest.fixture(params=[single, several])
def run(request, tmp_path):
    """Play, save and play on; return what was saved, and the monitor's file."""
    file = tmp_path / "runs" / "monitor.csv"
    env = request.param(file)
    env.seed(0)
    env.reset()
    play(env, 15)
    saved = save_env(env)
    play(env, 40)
    env.close()
    return saved, file


def episodes(file):
    return [row.rpartition(",")[0] for row in file.read_text().splitlines()[2:]]


def go_on(saved, steps):
    env = load_env(saved)[0]
    play(env, steps)
    env.close()


def test_what_is_written_now_stands_behind_what_there_was(run):
    saved, file = run
    header, before = file.read_text().splitlines()[:2], episodes(file)
    go_on(saved, 40)
    assert file.read_text().splitlines()[:2] == header
    assert episodes(file)[: len(before)] == before
    assert len(episodes(file)) > len(before)


def test_a_file_that_is_gone_begins_anew(run):
    saved, file = run
    file.unlink()
    file.parent.rmdir()
    go_on(saved, 40)
    assert file.read_text().splitlines()[1].startswith("r,l,t")
    assert len(episodes(file)) > 1
