"""Models with SB3's HerReplayBuffer, which is built around its environments."""

import arena
import pytest
from reach import Reach
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer

import sb3_moe


def round_trip(path, env, other, **goals):
    """Train in an environment, and return the model and what comes out of its file in another."""
    her = {"replay_buffer_class": HerReplayBuffer, "replay_buffer_kwargs": goals}
    her["learning_starts"] = 32  # when the first episodes have ended
    model = arena.make("SAC", "MoeMultiInputPolicy", env, model=her, net_arch=[4])
    sb3_moe.save(arena.train(model, 48), path)
    return model, sb3_moe.load(path, other, device="cpu")


def test_a_model_is_built_around_the_environments_that_load_is_given(tmp_path):
    env = VecNormalize(make_vec_env(Reach, n_envs=3, seed=0))
    model, loaded = round_trip(tmp_path / "x.moe", env, make_vec_env(Reach, n_envs=2, seed=0))
    arena.assert_same_weights(model.policy, loaded.policy)
    buffer = loaded.replay_buffer
    assert (buffer.env, buffer.n_envs, buffer.size()) == (loaded.env, 2, 0)
    arena.train(loaded, 40)


@pytest.mark.parametrize("strategy", ["final", "episode", *GoalSelectionStrategy], ids=str)
def test_the_choice_of_goals_is_kept(strategy, tmp_path):
    goals = {"goal_selection_strategy": strategy, "n_sampled_goal": 3}
    model, loaded = round_trip(tmp_path / "x.moe", Reach(), Reach(), **goals)
    buffer = loaded.replay_buffer
    assert buffer.goal_selection_strategy is model.replay_buffer.goal_selection_strategy
    assert buffer.n_sampled_goal == 3
