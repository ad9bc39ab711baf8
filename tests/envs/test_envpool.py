"""Environments of EnvPool: seeds, ends, starts, and Meta-World beside the Python package."""

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

import sb3_moe
import sb3_moe_envs
from sb3_moe_envs.checks import EXTRAS
from sb3_moe_envs.metaworld import TASKS
from sb3_moe_envs.suites import SUITES

needs_envpool = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("envpool") is None, reason="needs envpool"
)


def test_every_task_of_meta_world_has_a_suite_of_envpool():
    assert EXTRAS["envpool"] == "envpool"
    ids = {
        task.kwargs["env_id"]
        for name in TASKS
        for task in SUITES[f"MetaWorld/MT1-{name}-EnvPool"].tasks
    }
    assert len(ids) == 50
    assert {"MetaWorld/Reach-v3", "MetaWorld/ButtonPressTopdown-v3"} <= ids


@needs_envpool
def test_they_are_those_that_envpool_has():
    import envpool

    known = set(envpool.list_all_envs())
    suites = [suite for name, suite in SUITES.items() if name.endswith("-EnvPool")]
    assert {task.kwargs["env_id"] for suite in suites for task in suite.tasks} <= known


def cartpoles(num_envs=3):
    return gym.make_vec("sb3_moe_envs:SB3MoE/EnvPool-v0", num_envs, env_id="CartPole-v1")


@needs_envpool
def test_an_episode_ends_with_its_last_observation_and_the_next_starts_in_the_same_step():
    envs = cartpoles()
    obs, _ = envs.reset(seed=[3, 4, 3])
    assert obs.dtype == np.float32
    assert np.array_equal(obs[0], obs[2])
    assert not np.array_equal(obs[0], obs[1])
    ends = 0
    for _ in range(100):
        obs, rewards, terminated, truncated, infos = envs.step(np.array([0, 1, 0]))
        assert np.array_equal(rewards, [1.0, 1.0, 1.0])
        ended = terminated | truncated
        assert np.array_equal(infos.get("_final_obs", np.zeros(3, bool)), ended)
        for i in np.flatnonzero(ended):
            ends += 1
            assert abs(infos["final_obs"][i][2]) > 0.2
            assert np.abs(obs[i]).max() <= 0.05
    assert ends > 20
    again, _ = envs.reset(seed=[3, 4, 3])
    assert np.array_equal(again[0], again[2])
    envs.close()


@needs_envpool
def test_a_wrong_id_and_images_are_refused():
    with pytest.raises(ValueError, match=r"`env_id` must be one of envpool.list_all_envs\(\)"):
        gym.make_vec("sb3_moe_envs:SB3MoE/EnvPool-v0", 1, env_id="CartPole-v9")
    with pytest.raises(ValueError, match="`render_mode` must be None for EnvPool"):
        gym.make("sb3_moe_envs:SB3MoE/EnvPool-v0", env_id="CartPole-v1", render_mode="rgb_array")


@needs_envpool
def test_ppo_trains_on_several_tasks_of_meta_world():
    env = sb3_moe.make_multitask_vec_env("MetaWorld/MT3-EnvPool", n_envs=6, seed=0)
    model = PPO("MoeMultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1)
    model.learn(48)
    assert env.get_attr("task_names")[0][0] == "door-close(EnvPool)"


@needs_envpool
@pytest.mark.full  # seconds, and Meta-World itself
@pytest.mark.filterwarnings("ignore:Constant")  # of its scripted policies
def test_meta_world_is_that_of_the_python_package():
    pytest.importorskip("metaworld")
    from metaworld.policies import ENV_POLICY_MAP

    for task in ("reach", "door-close", "drawer-open"):
        found = {}
        for ending in ("", "-EnvPool"):
            env = sb3_moe_envs.make_multitask_vector(f"MetaWorld/MT1-{task}{ending}", 5)
            found[ending] = played(env, ENV_POLICY_MAP[f"{task}-v3"]())
            assert env.single_action_space == gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
            env.close()
        (mean, error, success), (other, other_error, other_success) = found.values()
        assert abs(mean - other) < 4 * np.hypot(error, other_error) + 0.05 * mean
        assert abs(success - other_success) <= 0.4


def played(env, policy):
    """Return the mean return of an episode in each environment, its error, and the success rate."""
    obs, _ = env.reset(seed=1)
    returns, success = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=bool)
    for step in range(500):
        rows = obs["obs"] if isinstance(obs, dict) else obs
        actions = np.array([policy.get_action(row) for row in rows], dtype=np.float32)
        obs, rewards, _, truncated, infos = env.step(np.clip(actions, -1, 1))
        assert truncated.all() == (step == 499)
        returns += rewards
        success |= np.asarray(infos.get("final_info", infos)["success"], dtype=bool)
    return returns.mean(), returns.std() / env.num_envs**0.5, success.mean()
