"""Rewards of goals in environments of several tasks, as SB3's HER asks for them."""

import functools

import arena
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from reach import Reach
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe import make_multitask_vec_env
from sb3_moe.vec_env import GymnasiumVecEnv
from sb3_moe_envs import Adaptive, Interleave, MultiTaskEnv, Task, make_multitask_vector

NEAR = functools.partial(Reach, radius=0.1)
FAR = functools.partial(Reach, radius=0.5)
FLAT = functools.partial(Reach, dim=3, radius=0.5)
GOALS = np.zeros((4, 2), np.float32), np.array([[0.3, 0]] * 4, np.float32)
INFOS = [{"task_id": task} for task in (0, 1, 1, 0)]
BUILT = {
    "one at a time": lambda tasks: MultiTaskEnv(tasks),
    "side by side": lambda tasks: make_multitask_vector(tasks, 4),
    "in processes": lambda tasks: make_multitask_vector(tasks, 2, vectorization="async"),
    "each its own": lambda tasks: make_multitask_vector(
        tasks, 2, schedule=Interleave(unit="episodes")
    ).envs[0],
}


@pytest.fixture(params=BUILT)
def build(request):
    built = []

    def make(*tasks):
        named = [Task(f"task {k}", env_fn=each) for k, each in enumerate(tasks)]
        built.append(BUILT[request.param](named))
        return built[-1]

    yield make
    for world in built:
        world.close()


def test_each_step_is_rewarded_by_its_own_task(build):
    world = build(NEAR, FAR)
    np.testing.assert_array_equal(world.compute_reward(*GOALS, INFOS), [-1, 0, 0, -1])
    with pytest.raises(ValueError, match=r"must hold the 'task_id' .*=dict\(copy_info_dict=True\)"):
        world.compute_reward(*GOALS, [{}] * 4)
    # One task needs no infos.
    np.testing.assert_array_equal(build(NEAR).compute_reward(*GOALS, [{}] * 4), [-1] * 4)


def test_a_task_sees_goals_without_what_only_others_have(build):
    # In the third dimension the second task is far from its goal, and the first has none.
    achieved, desired = np.zeros((4, 3)), np.array([[0.3, 0, 0.9]] * 4)
    rewards = build(FAR, FLAT).compute_reward(achieved, desired, INFOS)
    np.testing.assert_array_equal(rewards, [0, -1, -1, 0])


def test_a_single_step_is_rewarded_as_by_its_task():
    world = MultiTaskEnv([NEAR, FAR])
    rewards = [world.compute_reward(GOALS[0][0], GOALS[1][0], info) for info in INFOS]
    assert rewards == [-1, 0, 0, -1]


class Goalless(Reach):
    """Says nothing of what a goal is worth."""

    def __getattribute__(self, name):
        if name == "compute_reward":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_task_that_says_nothing_of_its_goals_is_named(build):
    with pytest.raises(TypeError, match=r"needs tasks with a method `compute_reward`, .*'task 1'"):
        build(NEAR, Goalless).compute_reward(*GOALS, INFOS)


def tasks(discrete=False):
    """Return two tasks of other sizes, of which the second is never content."""
    near = functools.partial(Reach, discrete=discrete)
    never = functools.partial(Reach, dim=3, radius=-1.0, discrete=discrete)
    return [Task("near", env_fn=near), Task("never", env_fn=never)]


WORLDS = {
    "side by side": (4, {}),
    "in turn": (2, {"schedule": Adaptive("episodes>=1")}),
    "each its own": (2, {"schedule": Interleave(unit="episodes")}),
    "in processes": (2, {"vectorization": "async"}),
}


def world_of(name, discrete=False):
    if name == "alone":
        return DummyVecEnv([lambda: MultiTaskEnv(tasks(discrete), num_envs=1)])
    n_envs, options = WORLDS[name]
    return make_multitask_vec_env(tasks(discrete), n_envs, seed=0, **options)


@pytest.mark.covering
@pytest.mark.parametrize(
    ("algorithm", "world"),
    [*(("SAC", world) for world in (*WORLDS, "alone")), ("DQN", "side by side")],
)
def test_worlds_of_several_tasks_of_goals_are_learned_from_in_hindsight(algorithm, world):
    env = world_of(world, algorithm == "DQN")
    arguments = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"copy_info_dict": True, "n_sampled_goal": 20},
        "learning_starts": 48,
        "buffer_size": 300,
    }
    options = {"net_arch": [8], "router": "task"}
    model = arena.make(algorithm, "MoeMultiInputPolicy", env, model=arguments, **options)
    arena.train(model, 96)
    samples = model.replay_buffer.sample(256)
    never = samples.observations["task_id"][:, 0] == 1
    assert never.any()
    # Whoever takes its own place for its goal is there, but in the task that is never content.
    assert (samples.rewards[never] == -1).all()
    assert (samples.rewards[~never] == 0).float().mean() > 0.3
    env.close()


def test_one_batch_may_be_as_large_as_there_are_environments():
    env = world_of("side by side")
    goals = np.zeros((4, 3)), np.zeros((4, 3))
    infos = [{"task_id": task} for task in (0, 0, 1, 1)]
    (rewards,) = env.env_method("compute_reward", *goals, infos, indices=[0])
    np.testing.assert_array_equal(rewards, [0, 0, -1, -1])


def test_copies_of_one_world_of_goals_answer_one_for_all():
    env = GymnasiumVecEnv(SyncVectorEnv([Reach] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    goals = np.zeros((5, 2)), np.zeros((5, 2))
    (rewards,) = env.env_method("compute_reward", *goals, [{}] * 5, indices=[0])
    np.testing.assert_array_equal(rewards, [0] * 5)
