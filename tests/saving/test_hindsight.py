"""Models with SB3's HerReplayBuffer, which is built around its environments."""

import copy

import arena
import numpy as np
import pytest
import torch as th
from reach import Reach
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import GoalSelectionStrategy, HerReplayBuffer

import sb3_moe
from sb3_moe.saving.generators import preserved_generators

ROWS = "replay_buffer.safetensors"


class OwnHindsight(HerReplayBuffer):
    pass


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
    sb3_moe.save(model, tmp_path / "x.moe", replay_buffer=True)
    return sb3_moe.load(tmp_path / "x.moe", env, device="cpu", **kwargs)


def step(model):
    with preserved_generators():
        model.train(gradient_steps=3, batch_size=8)


def like(model):
    """Build environments as the model's, for another."""
    n_envs, discrete = model.n_envs, model.action_space == arena.DISCRETE
    return make_vec_env(lambda: Reach(discrete=discrete), n_envs=n_envs)


# At 40 steps an episode has just ended, at 43 one runs; 90 steps are more than the buffer holds.
@pytest.mark.covering
@pytest.mark.parametrize("steps", [40, 43, 90])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "DQN", "TQC"])
def test_the_next_gradient_step_is_the_same(algorithm, steps, tmp_path):
    model = make(algorithm, steps=steps, learning_starts=64)
    loaded = round_trip(model, tmp_path, like(model))
    loaded.set_logger(model.logger)
    if steps % 8:
        with pytest.warns(UserWarning, match="The last trajectory .* will be truncated"):
            model.replay_buffer.truncate_last_trajectory()
    before = copy.deepcopy(model.policy.state_dict())
    step(model)
    step(loaded)
    arena.assert_same_weights(model.policy, loaded.policy)
    assert any(not th.equal(before[k], v) for k, v in model.policy.state_dict().items())
    arena.train(loaded)


def test_several_environments_and_a_normalizer_are_kept(tmp_path):
    env = VecNormalize(make_vec_env(Reach, n_envs=3, seed=0))
    model = make(env=env, steps=96)
    loaded = round_trip(model, tmp_path, make_vec_env(Reach, n_envs=3, seed=0))
    buffer = loaded.replay_buffer
    assert buffer.env is loaded.env
    assert (buffer.ep_length == model.replay_buffer.ep_length).all()
    with preserved_generators():
        ours = model.replay_buffer.sample(9, env=env)
    theirs = buffer.sample(9, env=loaded.get_vec_normalize_env())
    for name in ("actions", "rewards", "dones"):
        assert th.equal(getattr(ours, name), getattr(theirs, name)), name
    for key, values in ours.observations.items():
        assert th.equal(values, theirs.observations[key]), key


def test_a_policy_of_sb3_is_saved_too(tmp_path):
    model = make(alias="MultiInputPolicy")
    loaded = round_trip(model, tmp_path, Reach())
    arena.assert_same_weights(model.policy, loaded.policy)


def test_without_environments_a_model_predicts_and_can_be_given_some(tmp_path):
    model = make()
    loaded = round_trip(model, tmp_path)
    obs = arena.observe(model)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    loaded.set_env(Reach())
    loaded.replay_buffer.set_env(loaded.get_env())
    arena.train(loaded)


def test_without_its_buffer_a_model_begins_with_an_empty_one(tmp_path):
    model = make()
    sb3_moe.save(model, tmp_path / "x.moe")
    loaded = sb3_moe.load(tmp_path / "x.moe", Reach(), device="cpu")
    assert loaded.replay_buffer.size() == 0
    arena.train(loaded, 40)


@pytest.mark.parametrize("strategy", ["final", "episode", *GoalSelectionStrategy], ids=str)
def test_the_choice_of_goals_is_kept(strategy, tmp_path):
    model = make(replay_buffer_kwargs={"goal_selection_strategy": strategy, "n_sampled_goal": 3})
    buffer = round_trip(model, tmp_path, Reach()).replay_buffer
    assert buffer.goal_selection_strategy is model.replay_buffer.goal_selection_strategy
    assert buffer.n_sampled_goal == 3


def test_infos_are_left_out_with_the_buffer_or_refused(tmp_path):
    model = make(replay_buffer_kwargs={"copy_info_dict": True})
    with pytest.raises(ValueError, match=r"SAC with a HerReplayBuffer, .* without `copy_info_d"):
        sb3_moe.save(model, tmp_path / "x.moe", replay_buffer=True)
    sb3_moe.save(model, tmp_path / "x.moe")
    assert sb3_moe.load(tmp_path / "x.moe", Reach()).replay_buffer.copy_info_dict


def test_a_kind_of_the_users_own_is_built_around_the_environments_too(tmp_path):
    model = make(replay_buffer_class=OwnHindsight)
    sb3_moe.save(model, tmp_path / "x.moe")
    own = {"OwnHindsight": OwnHindsight}
    loaded = sb3_moe.load(tmp_path / "x.moe", Reach(), custom_objects=own)
    assert type(loaded.replay_buffer) is OwnHindsight
    assert loaded.replay_buffer.env is loaded.env
