"""SB3's HER with our policies, in one world of goals and in several."""

import functools

import arena
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from reach import Reach
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe import make_multitask_vec_env
from sb3_moe.vec_env import GymnasiumVecEnv
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, Task

ALGORITHMS = ("SAC", "DQN", "TQC", "QRDQN")


def tasks(discrete=False):
    """Return two tasks of other sizes, of which the second is never content."""
    near = functools.partial(Reach, discrete=discrete)
    never = functools.partial(Reach, dim=3, radius=-1.0, discrete=discrete)
    return [Task("near", env_fn=near), Task("never", env_fn=never)]


def make(algorithm, env, options=None, **kwargs):
    arguments = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": kwargs,
        "learning_starts": 48,
        "buffer_size": 300,
    }
    options = {"net_arch": [8], **(options or {})}
    return arena.make(algorithm, "MoeMultiInputPolicy", env, model=arguments, **options)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_off_policy_algorithms_learn_from_hindsight(algorithm):
    discrete = algorithm not in arena.BOX_ACTIONS
    model = make(algorithm, Reach(discrete=discrete), {"placement": "big"})
    arena.train(model, 64)
    assert model._n_updates
    assert np.isfinite(evaluate_policy(model, Monitor(Reach(discrete=discrete)), 2)[0])


WORLDS = {
    "side by side": lambda discrete: make_multitask_vec_env(tasks(discrete), 4, seed=0),
    "in turn": lambda discrete: make_multitask_vec_env(
        tasks(discrete), 2, seed=0, schedule=Cycle(episodes_per_task=1)
    ),
    "each its own": lambda discrete: make_multitask_vec_env(
        tasks(discrete), 2, seed=0, schedule=Interleave(unit="episodes")
    ),
    "in processes": lambda discrete: make_multitask_vec_env(
        tasks(discrete), 2, seed=0, vectorization="async"
    ),
    "alone": lambda discrete: DummyVecEnv([lambda: MultiTaskEnv(tasks(discrete), num_envs=1)]),
}


@pytest.mark.covering
@pytest.mark.parametrize(
    ("algorithm", "world"), [("SAC", world) for world in WORLDS] + [("DQN", "side by side")]
)
def test_worlds_of_several_tasks_of_goals_are_learned_from_in_hindsight(algorithm, world):
    env = WORLDS[world](algorithm == "DQN")
    model = make(algorithm, env, {"router": "task"}, copy_info_dict=True, n_sampled_goal=20)
    arena.train(model, 96)
    samples = model.replay_buffer.sample(256)
    never = samples.observations["task_id"][:, 0] == 1
    assert never.any()
    # Whoever takes its own place for its goal is there, but in the task that is never content.
    assert (samples.rewards[never] == -1).all()
    assert (samples.rewards[~never] == 0).float().mean() > 0.3
    env.close()


def test_one_batch_may_be_as_large_as_there_are_environments():
    env = WORLDS["side by side"](False)
    goals = np.zeros((4, 3)), np.zeros((4, 3))
    infos = [{"task_id": task} for task in (0, 0, 1, 1)]
    (rewards,) = env.env_method("compute_reward", *goals, infos, indices=[0])
    np.testing.assert_array_equal(rewards, [0, 0, -1, -1])


# The tests before it may have loaded jax, which warns of forks.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_copies_of_one_world_of_goals_answer_one_for_all(kind):
    env = GymnasiumVecEnv(kind([Reach] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    goals = np.zeros((5, 2)), np.zeros((5, 2))
    (rewards,) = env.env_method("compute_reward", *goals, [{}] * 5, indices=[0])
    np.testing.assert_array_equal(rewards, [0] * 5)
    env.close()
