"""Evaluation of every task, on an environment whose every return is known."""

import arena
import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from learners import learner
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import ConvertCallback, StopTrainingOnRewardThreshold
from toy import pinned, toy_vec_env

from sb3_moe.callbacks import MultiTaskEvalCallback, SnapshotCallback, TaskRolloutCallback


def make_ppo(env=None, **kwargs):
    env = toy_vec_env((0, 1, 2), (1, 2, 0)) if env is None else env
    return learner(PPO, env, "MultiInputPolicy", **kwargs)


def test_scores_are_kept_before_during_and_after_training_and_logged_by_name(tmp_path):
    model, rows = make_ppo(), []
    model.logger.dump = lambda step: rows.append(dict(model.logger.name_to_value))
    callback = MultiTaskEvalCallback(128, 2, eval_env=pinned(), log_path=tmp_path)
    model.learn(256, callback).learn(0, callback, reset_num_timesteps=False)
    with np.load(tmp_path / "scores.npz") as saved:
        scores = dict(saved)
    assert scores["steps"].tolist() == [0, 128, 256]
    assert scores["returns"].shape == (3, 3, 2)
    np.testing.assert_allclose(scores["score"], scores["returns"].mean(2))
    assert scores["task_names"].tolist() == ["a", "b", "c"]
    assert scores["trained"].tolist() == [-1, -1, -1]
    assert not list(tmp_path.glob("*.tmp"))
    for name in "abc":
        assert rows[0][f"eval/{name}/mean_ep_length"] in (5.0, 6.0, 7.0)
        assert 0 <= rows[0][f"eval/{name}/success_rate"] <= 1
    rewards = [rows[0][f"eval/{name}/mean_reward"] for name in "abc"]
    assert rewards == scores["score"][0].tolist()
    assert rows[0]["eval/mean_reward"] == pytest.approx(np.mean(rewards))


def test_what_a_task_lost_since_its_block_is_logged():
    callback = MultiTaskEvalCallback(64, 1, eval_env=pinned())
    model = make_ppo()
    callback.init_callback(model)
    for step, (score, trained) in enumerate([([1, 0, 0], 0), ([5, 0, 0], 0), ([3, 2, 0], 1)]):
        callback.record.add(step, {"score": np.array(score, float), "trained": trained})
    np.testing.assert_array_equal(callback._forgotten(), [2.0, np.nan, np.nan])


def test_training_is_the_same_bit_for_bit_with_and_without():
    alone = make_ppo().learn(256)
    callback = MultiTaskEvalCallback(64, 1, eval_env=pinned(), deterministic=False)
    watched = make_ppo().learn(256, callback=callback)
    for one, other in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_a_callback_after_an_evaluation_can_end_training(capsys):
    stop = ConvertCallback(lambda variables, globals_: False)
    callback = MultiTaskEvalCallback(64, 1, eval_env=pinned(), callback_after_eval=stop, verbose=1)
    assert make_ppo().learn(256, callback).num_timesteps < 64
    assert "Evaluation at 0 steps: a " in capsys.readouterr().out


def test_a_run_that_goes_on_keeps_the_scores_up_to_its_step_and_drops_later_ones(tmp_path):
    model = make_ppo()
    model.learn(256, callback=MultiTaskEvalCallback(64, 1, eval_env=pinned(), log_path=tmp_path))
    model.num_timesteps = 128
    callback = MultiTaskEvalCallback(64, 1, eval_env=pinned(), log_path=tmp_path)
    model.learn(64, callback=callback, reset_num_timesteps=False)
    assert callback.scores["steps"].tolist() == [0, 64, 128, 192]


class Drawing(CartPoleEnv):
    """Draws a number while it is built."""

    closed = 0

    def __init__(self):
        super().__init__()
        self.luck = np.random.rand()

    def close(self):
        type(self).closed += 1
        super().close()


def test_an_ids_environment_changes_nothing_of_the_training_and_is_closed_each_time():
    gym.register("Drawing-v0", Drawing)
    try:
        trained = []
        for callback in (None, MultiTaskEvalCallback(32, 1, eval_env="Drawing-v0")):
            model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0, device="cpu")
            model.learn(32, callback=callback)
            trained.append(model.policy)
        arena.assert_same_weights(*trained)
        assert Drawing.closed == 1
        model.learn(32, callback=callback, reset_num_timesteps=False)
    finally:
        del gym.registry["Drawing-v0"]
    assert Drawing.closed == 2
    assert len(callback.scores["steps"]) == 3


def test_an_evaluation_environment_without_a_training_task_is_refused():
    eval_env = toy_vec_env((0,), (1,), names=("a", "b"))
    with pytest.raises(ValueError, match=r"tasks \['a', 'b', 'c'\], got \['a', 'b'\]"):
        make_ppo().learn(64, callback=MultiTaskEvalCallback(64, eval_env=eval_env))


def test_an_environment_that_cannot_be_rebuilt_asks_for_one():
    with pytest.raises(ValueError, match=r"`eval_env` must be given where"):
        make_ppo().learn(64, callback=MultiTaskEvalCallback(64))


def test_the_best_model_is_kept_and_a_threshold_can_stop_the_run(tmp_path):
    stop = StopTrainingOnRewardThreshold(0.0)
    callback = MultiTaskEvalCallback(
        64, 1, eval_env=pinned(), best_model_save_path=tmp_path, callback_on_new_best=stop
    )
    model = make_ppo().learn(10_000, callback=callback)
    assert (tmp_path / "best_model.zip").exists()
    assert model.num_timesteps < 10_000
    assert callback.best_mean_reward > 0


def test_a_callback_for_a_new_best_that_acts_at_rollouts_does_not_end_the_run(tmp_path):
    best = SnapshotCallback(64, tmp_path)
    callback = MultiTaskEvalCallback(64, 1, eval_env=pinned(), callback_on_new_best=best)
    assert make_ppo().learn(128, callback=callback).num_timesteps == 128


def test_a_run_that_goes_on_knows_its_best_model():
    model = make_ppo()
    for action, best in ((2, 7 / 3), (0, 7 / 3)):  # task k pays 5 + k for action k
        model.policy.action_net.bias.data[action] = 1e3 * (3 - action)
        callback = MultiTaskEvalCallback(64, 1, eval_env=pinned())
        model.learn(64, callback, reset_num_timesteps=False)
        assert callback.best_mean_reward == pytest.approx(best)
    assert callback.last_mean_reward == pytest.approx(5 / 3)


def test_training_episodes_count_on_where_a_run_goes_on_and_begin_again_with_another():
    callback = TaskRolloutCallback()
    model = make_ppo(toy_vec_env((0,), (1,)))
    counts = []
    for _ in range(2):
        model.learn(32, callback=callback, reset_num_timesteps=False)
        counts.append([len(each) for each in callback._episodes])
    assert counts[1][0] > counts[0][0] > 0
    model.learn(32, callback=callback)
    assert [len(each) for each in callback._episodes] == counts[0]
    make_ppo(toy_vec_env((0,), (1,))).learn(32, callback=callback, reset_num_timesteps=False)
    assert [len(each) for each in callback._episodes] == counts[0]


def test_training_episodes_are_averaged_by_task():
    callback = TaskRolloutCallback(window=3)
    model = make_ppo(toy_vec_env((0, 1)))
    model.learn(32, callback=callback)
    logged = model.logger.name_to_value
    assert logged["rollout/a/ep_len_mean"] == 5.0
    assert logged["rollout/b/ep_len_mean"] == 6.0
    assert "rollout/c/ep_len_mean" not in logged


def test_a_running_episode_that_has_succeeded_is_remembered_where_a_run_goes_on():
    callback = TaskRolloutCallback()
    model = make_ppo(env=toy_vec_env((0,)), n_steps=3, batch_size=3)
    callback.init_callback(model)
    callback.locals = {"infos": [{"is_success": True}], "dones": [False]}
    model.num_timesteps = 3
    callback._on_step()
    callback.init_callback(model)  # the next `learn`
    end = {"is_success": False, "task_id": 0, "episode": {"r": 1.0, "l": 5}}
    callback.locals = {"infos": [end], "dones": [True]}
    callback._on_step()
    assert [*callback._episodes[0]] == [(1.0, 5, 1.0)]
