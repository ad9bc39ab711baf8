"""What environments return stays what it was, is within float32, and is built when it is played."""

from functools import partial

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import Steps

from sb3_moe.vec_env import GymnasiumVecEnv
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, Task, make_multitask_vector


class SameArray(Steps):
    """Returns one array every step: how many steps there were."""

    observation_space = spaces.Box(-1, 9, (2,), np.float32)

    def __init__(self, length=3):
        super().__init__(length)
        self.array = np.zeros(2, np.float32)

    def observe(self):
        self.array[:] = self.steps
        return self.array


def lone(tasks, schedule, **kwargs):
    return DummyVecEnv([partial(MultiTaskEnv, tasks, schedule=schedule, num_envs=1, **kwargs)])


def vector(tasks, schedule, **kwargs):
    return GymnasiumVecEnv(make_multitask_vector(tasks, 2, schedule=schedule, **kwargs))


ARRANGEMENTS = {
    "alone": (lone, None),
    "alone, switched": (lone, Cycle(2, num_cycles=None)),
    "side by side": (vector, None),
    "in processes": (partial(vector, vectorization="async"), None),
    "together, switched": (vector, Cycle(4, num_cycles=None)),
    "slots of their own": (vector, Interleave("episodes")),
}


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # others may have loaded jax
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_final_observation_is_not_overwritten_by_the_next_episodes_start(arrangement):
    build, schedule = ARRANGEMENTS[arrangement]
    env = build([SameArray, SameArray], schedule, task_id="none")
    env.reset()
    last = 2.0 if "switched" in arrangement else 3.0
    infos = [env.step(np.zeros(env.num_envs, np.int64))[3] for _ in range(6)]
    seen = [info["terminal_observation"].tolist() for step in infos for info in step
            if "terminal_observation" in info]  # fmt: skip
    assert len(seen) >= 2
    assert seen == [[last, last]] * len(seen)
    env.close()


class Simulator(SyncVectorEnv):
    """A vector environment of the user's own, with tasks."""

    task_names = ("a", "b")


def same_batch(num_envs, kind=SyncVectorEnv):
    """Build a vector environment that writes every step into one array."""
    return kind(
        [partial(SameArray, 9)] * num_envs, copy=False, autoreset_mode=AutoresetMode.SAME_STEP
    )


@pytest.mark.parametrize("kind", [SyncVectorEnv, Simulator])
def test_observations_of_a_vector_environment_of_ones_own_are_not_overwritten_either(kind):
    env = GymnasiumVecEnv(same_batch(2, kind))
    seen = [env.reset(), *(env.step(np.zeros(2, np.int64))[0] for _ in range(3))]
    assert [obs[0, 0] for obs in seen] == [0, 1, 2, 3]


def test_environments_of_tasks_that_come_later_are_built_when_they_are_played():
    built = []

    def build(name):
        built.append(name)
        return SameArray(length=9)

    tasks = [Task(name, env_fn=partial(build, name)) for name in "ab"]
    env = make_multitask_vector(tasks, 3, schedule=Cycle(6))
    env.reset(seed=0)
    assert built == ["a", "b", "a", "a", "a"]  # one of each, whose spaces are needed
    assert env.state_dict()["exact"]
    for _ in range(2):
        env.step(np.zeros(3, np.int64))
    assert built == ["a", "b", "a", "a", "a", "b", "b", "b"]
