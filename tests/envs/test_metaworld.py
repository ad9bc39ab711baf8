"""Meta-World's tasks: goals from the seed, rewards by name, and a time limit that truncates."""

import importlib.util
import pickle

import gymnasium as gym
import numpy as np
import pytest

from sb3_moe_envs import get_suite, make_multitask_vector, metaworld
from sb3_moe_envs.suites import suite_names

needed = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None, reason="needs the metaworld extra"
)


def played(env, steps=8, seed=None):
    """Play fixed actions in an episode."""
    frames = [env.reset(seed=seed)[0]]
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)
    return np.stack([*frames, *(env.step(action)[0] for action in actions)])


def test_an_unknown_suite_is_answered_with_a_list_that_can_be_read():
    assert {"MetaWorld/MT1-<task>", "MetaWorld/MT1-<task>-V1"} <= set(suite_names())
    with pytest.raises(ValueError, match=r"got 'MetaWorld/MT2'; did you mean 'MetaWorld/MT3'"):
        get_suite("MetaWorld/MT2")
    assert len(suite_names()) < 50


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "reach-v3"}, r"`task` must be one of \['assembly', .*got 'reach-v3'"),
        ({"reward": 2}, r"`reward` must be one of \['V1', 'V2'\], got 2"),
    ],
)
def test_unknown_tasks_and_rewards_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        metaworld.MetaWorldEnv(**kwargs)


@needed
def test_our_lists_are_those_of_meta_world():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

    assert [f"{name}-v3" for name in metaworld.TASKS] == list(ALL_V3_ENVIRONMENTS)
    assert [f"{name}-v3" for name in metaworld.MT10] == list(MT10_V3)
    assert set(metaworld.CW10) | set(metaworld.EASY) <= set(metaworld.TASKS)


EVERY = [
    pytest.param(
        name, reward, marks=[] if (name, reward) in {("push", "V2"), ("reach", "V1")}
        else pytest.mark.full,
    )
    for name in metaworld.TASKS
    for reward in metaworld.REWARDS
]  # fmt: skip


@needed
@pytest.mark.parametrize(("name", "reward"), EVERY)
def test_an_episode_follows_from_its_seed_whatever_came_before(name, reward):
    env = metaworld.MetaWorldEnv(name, reward)
    np.random.seed(0)
    first = played(env, seed=3)
    second = played(env)
    np.random.seed(1)
    np.testing.assert_array_equal(played(env, seed=3), first)
    np.testing.assert_array_equal(played(env), second)
    fresh = metaworld.MetaWorldEnv(name, reward)
    np.testing.assert_array_equal(played(fresh, seed=3), first)
    assert first.dtype == np.float32
    assert all(obs in env.observation_space for obs in first)


@needed
def test_the_goal_is_seen_and_drawn_anew_at_each_reset():
    env = metaworld.MetaWorldEnv("push")
    goals = np.stack([env.reset(seed=0 if i == 0 else None)[0][-3:] for i in range(4)])
    assert len(np.unique(goals, axis=0)) == 4
    assert (env.reset(seed=1)[0][-3:] != goals[0]).any()
    observation = env.step(np.zeros(4, np.float32))[0]
    np.testing.assert_allclose(observation[-3:], env._env._target_pos, rtol=1e-6)


@needed
def test_what_is_played_is_meta_worlds_own_task():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env = metaworld.MetaWorldEnv("push", "V1")
    env.reset(seed=0)
    theirs = ALL_V3_ENVIRONMENTS["push-v3"](reward_function_version="v1")
    theirs._partially_observable = False
    del theirs.sawyer_observation_space
    theirs._set_task_called, theirs._last_rand_vec = True, env._env._last_rand_vec
    theirs.reset()
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32):
        obs, reward, *_, info = env.step(action)
        expected, their_reward, *_, their_info = theirs.step(action)
        np.testing.assert_allclose(obs, expected, rtol=1e-6)
        assert (reward, info["success"]) == (their_reward, their_info["success"])


@needed
def test_the_limit_of_500_steps_truncates_and_the_last_observation_is_kept():
    env = make_multitask_vector(["sb3_moe_envs:SB3MoE/MetaWorld-v0"] * 2)
    env.reset(seed=0)
    actions = np.zeros((2, 4), np.float32)
    for _ in range(499):
        *_, terminated, truncated, infos = env.step(actions)
        assert not (terminated | truncated).any()
    obs, _, terminated, truncated, infos = env.step(actions)
    assert truncated.all()
    assert not terminated.any()
    assert (infos["final_obs"][0]["obs"][-3:] != obs["obs"][0][-3:]).any()
    assert infos["final_info"]["success"].shape == (2,)
    env.close()


@needed
def test_a_pickle_is_built_again_with_the_generators_and_plays_as_one_that_never_was():
    env = gym.make("sb3_moe_envs:SB3MoE/MetaWorld-v0", task="door-close")
    played(env, seed=3)
    again = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(played(again), played(env))
    assert again.unwrapped.task == "door-close"
    # Meta-World's own pickle forgets how the hand hangs in the world, and where the door is.
    assert again.unwrapped._env.init_qpos is not None
