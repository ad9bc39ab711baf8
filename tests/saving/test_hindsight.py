"""Models with SB3's HerReplayBuffer, which is built around its environments."""

import arena
import pytest
from reach import Reach
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer

import sb3_moe


def make(algorithm="SAC", env=None, steps=40, alias="MoeMultiInputPolicy", **kwargs):
    settings = {"n_sampled_goal": 2, **kwargs.pop("replay_buffer_kwargs", {})}
    arguments = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": settings,
        "learning_starts": 16,
        **kwargs,
    }
    env = env or Reach(discrete=algorithm not in arena.BOX_ACTIONS)
    model = arena.make(algorithm, alias, env, model=arguments, net_arch=[4])
    return arena.train(model, steps)


def round_trip(model, tmp_path, env=None, **kwargs):
    sb3_moe.save(model, tmp_path / "x.moe")
    return sb3_moe.load(tmp_path / "x.moe", env, device="cpu", **kwargs)


def test_a_model_is_built_around_the_environments_that_load_is_given(tmp_path):
    model = make(env=VecNormalize(make_vec_env(Reach, n_envs=3, seed=0)), steps=96)
    loaded = round_trip(model, tmp_path, make_vec_env(Reach, n_envs=2, seed=0))
    arena.assert_same_weights(model.policy, loaded.policy)
    buffer = loaded.replay_buffer
    assert (buffer.env, buffer.n_envs, buffer.size()) == (loaded.env, 2, 0)
    arena.train(loaded, 40)


@pytest.mark.parametrize("strategy", ["final", "episode", *GoalSelectionStrategy], ids=str)
def test_the_choice_of_goals_is_kept(strategy, tmp_path):
    model = make(replay_buffer_kwargs={"goal_selection_strategy": strategy, "n_sampled_goal": 3})
    buffer = round_trip(model, tmp_path, Reach()).replay_buffer
    assert buffer.goal_selection_strategy is model.replay_buffer.goal_selection_strategy
    assert buffer.n_sampled_goal == 3
