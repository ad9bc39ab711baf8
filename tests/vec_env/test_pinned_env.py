"""Environments beside the training ones, built from them, one task a copy."""

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from tiny import Sampled, Steps

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    evaluate_tasks,
    make_pinned_env,
)
from sb3_moe.measures import load_scores
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.make import are_interleaved, evaluation_copies, synchronize
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.vec_env.tasks import task_names, tasks_played
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv

# Acrobot's own episodes take 500 steps.
TASKS = [
    "CartPole-v1",
    ("CartPole-v1", {"max_episode_steps": 7}),
    ("Acrobot-v1", {"max_episode_steps": 20}),
]


def make_env(**kwargs):
    return make_multitask_vec_env(TASKS, 3, seed=0, **kwargs)


@pytest.mark.parametrize(
    ("schedule", "copies", "expected"),
    [(None, 2, 6), (None, None, 3), (Cycle(steps_per_task=10), None, 9)],
)
def test_every_task_has_copies_of_its_own_whatever_the_schedule(schedule, copies, expected):
    env = make_pinned_env(make_env(schedule=schedule), copies)
    assert env.num_envs == expected
    assert np.bincount(tasks_played(env)).tolist() == [expected // 3] * 3
    env.reset()
    for _ in range(30):
        env.step(np.zeros(env.num_envs, dtype=int))
    assert np.bincount(tasks_played(env)).tolist() == [expected // 3] * 3


@pytest.mark.parametrize("kind", [VecNormalize, PerTaskVecNormalize])
def test_it_has_the_same_wrappers_and_learns_no_statistics(kind):
    env = VecFrameStack(kind(make_env(task_id="onehot")), 2)
    env.reset()
    pinned = make_pinned_env(env)
    assert isinstance(pinned, VecFrameStack)
    assert isinstance(pinned.venv, kind)
    assert not pinned.venv.training
    assert not pinned.venv.norm_reward
    assert pinned.observation_space == env.observation_space
    synchronize(env, env)
    assert env.venv.training


@pytest.mark.parametrize("kind", [VecNormalize, PerTaskVecNormalize])
def test_a_normalizer_of_rewards_alone_is_rebuilt_and_synchronized(kind):
    env = kind(make_env(), norm_obs=False)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=48, device="cpu")
    callbacks = [MultiTaskEvalCallback(48, 1), PlasticityCallback(48, probe_size=30)]
    model.learn(48, callback=callbacks)
    assert (callbacks[0].scores["lengths"] == callbacks[0].scores["returns"])[:, :2].all()


def test_normalizers_of_two_kinds_are_refused_by_name():
    model = PPO("MultiInputPolicy", PerTaskVecNormalize(make_env()), n_steps=16, batch_size=48)
    callback = MultiTaskEvalCallback(
        48, 1, eval_env=VecNormalize(make_env(), norm_obs_keys=["obs"])
    )
    with pytest.raises(ValueError, match=r"as in training, by PerTaskVecNormalize of \["):
        model.learn(48, callback)
    with pytest.raises(ValueError, match=r"as in training, by PerTask.*, got nothing"):
        evaluate_tasks(model, make_env(), 1)


def test_an_environment_built_before_training_is_played_with_the_statistics_of_training():
    env = VecNormalize(make_env(), norm_obs_keys=["obs"])
    model, pinned = PPO("MultiInputPolicy", env, n_steps=16, batch_size=48), make_pinned_env(env)
    evaluate_tasks(model.learn(48), pinned, 1)
    assert pinned.obs_rms["obs"].count == env.obs_rms["obs"].count


def in_turn(steps_per_task=96):
    env = make_env(schedule=Cycle(steps_per_task=steps_per_task))
    return PPO("MultiInputPolicy", env, n_steps=16, batch_size=48, n_epochs=1, device="cpu")


def test_blocks_end_at_evaluations_whatever_the_steps_between_them(tmp_path):
    callback = MultiTaskEvalCallback(130, 1, log_path=tmp_path)
    in_turn().learn(288, callback=callback)
    assert callback.scores["steps"].tolist() == [0, 96, 144, 192, 288]
    assert callback.scores["trained"].tolist() == [0, 0, 1, 1, 2]
    assert load_scores(tmp_path).blocks == [(0, 0, 96), (1, 96, 192), (2, 192, 288)]


def test_training_that_goes_on_at_a_switch_evaluates_the_old_task_once(tmp_path):
    model = in_turn()
    for steps in (96, 48):
        callback = MultiTaskEvalCallback(1000, 1, log_path=tmp_path)
        model.learn(steps, callback=callback, reset_num_timesteps=False)
    assert callback.scores["steps"].tolist() == [0, 96, 144]
    assert callback.scores["trained"].tolist() == [0, 0, 1]
    # A new run of a trained model starts with its own first task.
    callback = MultiTaskEvalCallback(1000, 1)
    model.learn(48, callback=callback)
    assert callback.scores["trained"].tolist() == [1, 1]


def test_interleaved_tasks_that_are_played_one_at_a_time_are_trained_together():
    env = dummy_vec_env(Interleave("episodes"))
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    callback = MultiTaskEvalCallback(16, 1, eval_env=make_pinned_env(make_env()))
    model.learn(48, callback=callback)
    assert callback.scores["steps"].tolist() == [0, 16, 32, 48]
    assert callback.scores["trained"].tolist() == [-1] * 4


def test_a_model_that_takes_masks_plays_only_actions_that_the_task_has():
    env = make_env(invalid_action="error")
    model = MaskablePPO("MultiInputPolicy", env, n_steps=16, batch_size=48, device="cpu")
    # CartPole has no third action.
    model.policy.action_net.bias.data[2] = 1e3
    callback = MultiTaskEvalCallback(48, 1)
    model.learn(48, callback=callback)
    assert np.isfinite(callback.scores["score"]).all()


@pytest.mark.parametrize("kind", [VecNormalize, PerTaskVecNormalize])
def test_a_probe_is_normalized_as_training_is_at_that_time(kind):
    env = kind(make_multitask_vec_env([Steps, Steps], 2, seed=0), norm_obs_keys=["obs"])
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, device="cpu")
    callback = PlasticityCallback(32, probe_size=30)
    model.learn(32, callback=callback)
    env.obs_rms["obs"].mean[:], env.obs_rms["obs"].var[:] = 0.25, 4.0
    for k, batch in enumerate(callback.batches()):
        assert batch["task_id"].tolist() == [k] * 15
        np.testing.assert_allclose(batch["obs"], (0 - 0.25) / 2, rtol=1e-5)


def dummy_vec_env(schedule):
    return VecMonitor(DummyVecEnv([lambda: MultiTaskEnv(TASKS, schedule=schedule)]))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(None, True), (Interleave("episodes"), True), (Cycle(10), False), (lambda _: 0, True)],
)
@pytest.mark.parametrize("build", [lambda s: make_env(schedule=s), dummy_vec_env])
def test_an_environment_says_through_its_wrappers_whether_its_tasks_are_interleaved(
    build, schedule, expected
):
    env = build(schedule)
    assert are_interleaved(env) == expected
    assert are_interleaved(VecNormalize(env, norm_obs_keys=["obs"])) == expected


def test_a_schedule_that_stays_in_its_process_is_not_asked_for():
    def world():
        return MultiTaskEnv(["CartPole-v1", "Acrobot-v1"], schedule=lambda _: 0)

    env = SubprocVecEnv([world], start_method="forkserver")
    try:
        assert are_interleaved(env)  # for a function chooses for each episode
        assert task_names(env) == ["CartPole", "Acrobot"]  # the process is still there
    finally:
        env.close()


def test_frames_of_a_dict_are_stacked_in_the_same_places():
    entries = {key: spaces.Box(0, 1, (4, 5)) for key in ("rows", "columns")}
    space = spaces.Dict({**entries, "image": spaces.Box(0, 255, (36, 40, 3), np.uint8)})
    env = make_multitask_vec_env([lambda: Sampled(space)] * 2, task_id="none")
    places = {"rows": "first", "columns": "last", "image": "last"}
    env = VecTransposeImage(VecFrameStack(env, 2, channels_order=places))
    pinned = make_pinned_env(env, 1)
    shapes = {key: each.shape[1:] for key, each in pinned.reset().items()}
    assert shapes == {"rows": (8, 5), "columns": (4, 10), "image": (6, 36, 40)}
    assert pinned.observation_space == env.observation_space


@pytest.mark.parametrize(
    ("tasks", "n_envs", "options", "episodes", "expected"),
    [
        (TASKS, 3, {}, 10, 1),
        (TASKS, 9, {}, 2, 2),
        (TASKS, 60, {}, 50, 10),
        (TASKS, 3, {"schedule": Cycle(10)}, 10, 3),
        (TASKS, 3, {"schedule": Interleave(order="random")}, 10, 1),
        (["sb3_moe_envs:SB3MoE/MinAtar-Breakout-v1"] * 2, 2, {}, 10, 10),
    ],
)
def test_copies_are_no_more_than_episodes_and_stepped_singly_no_more_than_in_training(
    tasks, n_envs, options, episodes, expected
):
    env = make_multitask_vec_env(tasks, n_envs, seed=0, **options)
    assert evaluation_copies(env, episodes) == expected
