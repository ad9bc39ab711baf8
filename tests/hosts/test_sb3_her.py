"""Hindsight experience replay, as in SB3's ``test_her``."""

import arena
import asked
import guests
import numpy as np
import pytest
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.her.goal_selection_strategy import GoalSelectionStrategy

CHOICES = {
    "future": "future",
    "final": "final",
    "episode": "episode",
    "by class": GoalSelectionStrategy.FUTURE,
}


def make(algorithm, placement, *, pictures=False, goals="future", n_envs=1, **model):
    env = make_vec_env(lambda: guests.bits(pictures=pictures, discrete=algorithm == "DQN"), n_envs)
    her = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {
            "n_sampled_goal": 2,
            "goal_selection_strategy": goals,
            "copy_info_dict": True,
        },
        "learning_starts": 12,
    }
    return guests.make(algorithm, placement, "MoeMultiInputPolicy", env, model=her | model)


@asked.over("HER", guests.OFF_POLICY, goals=CHOICES)
def test_it_learns_with_each_way_to_choose_goals(algorithm, placement, goals):
    model = arena.train(make(algorithm, placement, goals=goals, n_envs=2), 24)
    assert model.logger.name_to_value["train/n_updates"] > 0
    env = Monitor(guests.bits(discrete=algorithm == "DQN"))
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2)[0])


@asked.over("HER of pictures", guests.OFF_POLICY)
def test_it_learns_from_pictures(algorithm, placement):
    model = arena.train(make(algorithm, placement, pictures=True), 16)
    assert model.logger.name_to_value["train/n_updates"] > 0


@asked.over("HER from a file", guests.OFF_POLICY)
def test_it_goes_on_from_a_file(algorithm, placement, tmp_path):
    model = arena.train(make(algorithm, placement), 16)
    obs = arena.observe(model)
    model.save(tmp_path / "model")
    changes = {"custom_objects": {"learning_rate": 2e-5, "nobody": 1.0}, "verbose": 0}
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), **changes)
    assert loaded.learning_rate == 2e-5
    assert not hasattr(loaded, "nobody")
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    arena.train(loaded, 16)


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer:UserWarning")
@asked.over("HER from a file", ["SAC"], whole={"whole": False, "cut": True})
def test_its_buffer_goes_on_from_a_file(algorithm, placement, whole, tmp_path):
    model = arena.train(make(algorithm, placement, n_envs=2), 24)
    buffer = model.replay_buffer
    model.save_replay_buffer(tmp_path / "replay")
    model.load_replay_buffer(tmp_path / "replay", truncate_last_traj=whole)
    assert model.replay_buffer is not buffer
    for key, stored in buffer.observations.items():
        np.testing.assert_array_equal(model.replay_buffer.observations[key], stored)
    model.learn(24, reset_num_timesteps=whole)
    assert model.replay_buffer.pos == 24


@asked.over("HER", ["SAC"])
def test_it_learns_from_a_full_buffer(algorithm, placement):
    model = make(algorithm, placement, n_envs=2, buffer_size=20, learning_starts=8)
    assert arena.train(model, 48).replay_buffer.full
