"""A task that misbehaves is named, with what was wrong; closing goes on after one that raises."""

import numpy as np
import pytest
from counting import CountingEnv
from gymnasium import spaces
from tiny import Steps

from sb3_moe_envs import Interleave, MultiTaskEnv, MultiTaskVectorEnv, Task, TaskError


class Faulty(CountingEnv):
    """Goes wrong in one way, at the first step."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        faults = {
            "raises": lambda: 1 / 0,
            "shape": lambda: (obs[:2], reward, False, False, info),
            "nan": lambda: (obs, float("nan"), False, False, info),
            "four": lambda: (obs, reward, False, info),
        }
        return faults.get(self.fault, lambda: (obs, reward, False, False, info))()

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return (obs[:1] if self.fault == "reset" else obs), info


def tasks_with(fault):
    return [Task("fine", env_fn=Faulty), Task("broken", env_fn=lambda: Faulty(fault))]


FAULTS = [
    ("raises", "ZeroDivisionError: division by zero"),
    ("shape", r"the observation must have the shape \(3,\), got \(2,\)"),
    ("nan", "the reward must be a finite number in the range of float32, got nan"),
    ("four", "ValueError: not enough values to unpack"),
    ("reset", r"the observation must have the shape \(3,\), got \(1,\)"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_lone_environment_names_the_task_at_fault(fault, message):
    env = MultiTaskEnv(tasks_with(fault), schedule=Interleave("episodes"))
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(TaskError, match=rf"^task 1 \('broken'\): (TypeError: )?{message}"):
        [env.reset(), env.step(0)]


@pytest.mark.parametrize(("fault", "message"), [FAULTS[0], FAULTS[1]])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's own, as it closes its workers
def test_a_vector_environment_names_the_task_at_fault_and_does_not_hang(
    fault, message, vectorization
):
    env = MultiTaskVectorEnv(tasks_with(fault), 4, vectorization=vectorization)
    env.reset(seed=0)
    with pytest.raises(TaskError, match=rf"^task 1 \('broken'\): .*({message})"):
        env.step(np.zeros(4, np.int64))
    env.close()


def test_a_dict_observation_must_have_its_keys():
    class Keys(Steps):
        observation_space = spaces.Dict(x=spaces.Box(0, 1, (1,)))

        def observe(self):
            return {"y": np.zeros(1, np.float32)}

    with pytest.raises(TaskError, match=r"the observation must have the keys \['x'\], got"):
        MultiTaskEnv([Keys]).reset()


def test_a_task_needs_one_way_to_be_built():
    with pytest.raises(ValueError, match="a task takes either `env_id` or `env_fn`, got"):
        Task("none")
    with pytest.raises(ValueError, match=r"Atari games are SB3MoE/Atari-<game>-v0, or"):
        MultiTaskEnv(["ALE/Nothing-v5"])


class Door(CountingEnv):
    """Counts itself among those that are open, and may jam."""

    def __init__(self, is_open, jams=False):
        super().__init__()
        self.is_open, self.jams = is_open, jams
        is_open.append(self)

    def close(self):
        if self.jams:
            raise OSError("it jams")
        self.is_open.remove(self)


@pytest.mark.parametrize("build", [MultiTaskEnv, MultiTaskVectorEnv])
def test_closing_goes_on_after_a_task_that_raises_and_the_error_is_heard(build):
    is_open, jammed = [], []
    env = build([lambda: Door(jammed, jams=True), lambda: Door(is_open)])
    with pytest.raises(OSError, match="it jams"):
        env.close()
    assert not is_open
    jammed[0].jams = False  # for the garbage collector, which closes once more
