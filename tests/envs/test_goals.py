"""What goals are worth in a world of several tasks, as SB3's HER asks for it."""

import functools

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from reach import Reach

from sb3_moe_envs import Interleave, MultiTaskEnv, Task, make_multitask_vector

NEAR = functools.partial(Reach, radius=0.1)
FAR = functools.partial(Reach, radius=0.5)
FLAT = functools.partial(Reach, dim=3, radius=0.5)
GOALS = np.zeros((4, 2), np.float32), np.array([[0.3, 0]] * 4, np.float32)
INFOS = [{"task_id": task} for task in (0, 1, 1, 0)]
WORLDS = {
    "one at a time": lambda tasks: MultiTaskEnv(tasks),
    "side by side": lambda tasks: make_multitask_vector(tasks, 4),
    "in processes": lambda tasks: make_multitask_vector(tasks, 2, vectorization="async"),
    "each its own": lambda tasks: make_multitask_vector(
        tasks, 2, schedule=Interleave(unit="episodes")
    ).envs[0],
}


@pytest.fixture(params=WORLDS)
def build(request):
    built = []

    def make(*tasks):
        named = [Task(f"task {k}", env_fn=each) for k, each in enumerate(tasks)]
        built.append(WORLDS[request.param](named))
        return built[0]

    yield make
    for world in built:
        world.close()


def test_each_step_is_rewarded_by_its_own_task(build):
    rewards = build(NEAR, FAR).compute_reward(*GOALS, INFOS)
    np.testing.assert_array_equal(rewards, [-1, 0, 0, -1])


def test_a_task_sees_goals_without_what_only_others_have(build):
    # In the third dimension the second task is far from its goal, and the first has none.
    achieved, desired = np.zeros((4, 3)), np.array([[0.3, 0, 0.9]] * 4)
    rewards = build(FAR, FLAT).compute_reward(achieved, desired, INFOS)
    np.testing.assert_array_equal(rewards, [0, -1, -1, 0])


def test_a_single_step_is_rewarded_as_by_its_task():
    world = MultiTaskEnv([NEAR, FAR])
    rewards = [world.compute_reward(GOALS[0][0], GOALS[1][0], info) for info in INFOS]
    assert rewards == [-1, 0, 0, -1]


def test_one_task_needs_no_infos(build):
    rewards = build(NEAR).compute_reward(*GOALS, [{}] * 4)
    np.testing.assert_array_equal(rewards, [-1] * 4)


def test_steps_that_do_not_say_their_task_are_refused_with_the_cure(build):
    with pytest.raises(ValueError, match=r"must hold the 'task_id' .*=dict\(copy_info_dict=True\)"):
        build(NEAR, FAR).compute_reward(*GOALS, [{}] * 4)


class Goalless(Reach):
    """Says nothing of what a goal is worth."""

    def __getattribute__(self, name):
        if name == "compute_reward":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_task_that_says_nothing_of_its_goals_is_named(build):
    with pytest.raises(TypeError, match=r"needs tasks with a method `compute_reward`, .*'task 1'"):
        build(NEAR, Goalless).compute_reward(*GOALS, INFOS)


class Vectors(SyncVectorEnv):
    """A vector environment that answers for all of its copies."""

    def compute_reward(self, achieved, desired, info):
        return np.full(len(info), 7.0)


def test_a_vector_environment_of_the_tasks_own_answers_itself():
    def vectors(n):
        return Vectors([NEAR] * n, autoreset_mode=AutoresetMode.SAME_STEP)

    world = make_multitask_vector([Task("own", env_fn=NEAR, vector_fn=vectors), FAR], 2)
    np.testing.assert_array_equal(world.compute_reward(*GOALS, INFOS), [7, 0, 0, 7])
