"""A task that misbehaves is named, with what was wrong, and the others are closed."""

from __future__ import annotations

import numpy as np
import pytest
from counting import CountingEnv

from sb3_moe_envs import (
    Cycle,
    Interleave,
    MultiTaskEnv,
    MultiTaskVectorEnv,
    Task,
    TaskError,
)


class Faulty(CountingEnv):
    """Goes wrong in one way, at the first step."""

    def __init__(self, fault=None, closed=None):
        super().__init__()
        self.fault, self.closed_list = fault, [] if closed is None else closed

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        faults = {
            "raises": lambda: 1 / 0,
            "shape": lambda: (obs[:2], reward, False, False, info),
            "nan": lambda: (obs, float("nan"), False, False, info),
            "text": lambda: (obs, "3", False, False, info),
            "four": lambda: (obs, reward, False, info),
        }
        return faults.get(self.fault, lambda: (obs, reward, False, False, info))()

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return (obs[:1] if self.fault == "reset" else obs), info

    def close(self):
        self.closed_list.append(self.fault)


def tasks_with(fault, closed):
    return [
        Task("fine", env_fn=lambda: Faulty(closed=closed)),
        Task("broken", env_fn=lambda: Faulty(fault, closed)),
    ]


FAULTS = [
    ("raises", "ZeroDivisionError: division by zero"),
    ("shape", r"the observation must have the shape \(3,\), got \(2,\)"),
    ("nan", "the reward must be a finite number, and within float32, got nan"),
    ("text", "the reward must be a finite number, and within float32, got '3'"),
    ("four", "ValueError: not enough values to unpack"),
    ("reset", r"the observation must have the shape \(3,\), got \(1,\)"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_lone_environment_names_the_task_at_fault_and_closes_all(fault, message):
    closed = []
    env = MultiTaskEnv(tasks_with(fault, closed), schedule=Interleave("episodes"))
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(TaskError, match=rf"^task 1 \('broken'\): (TypeError: )?{message}"):
        [env.reset(), env.step(0)]
    assert len(closed) == 2


@pytest.mark.parametrize(("fault", "message"), [FAULTS[0], FAULTS[1], FAULTS[2], FAULTS[4]])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's own, as it closes its workers
def test_a_vector_environment_names_the_task_at_fault_and_does_not_hang(
    fault, message, vectorization
):
    env = MultiTaskVectorEnv(tasks_with(fault, []), 4, vectorization=vectorization)
    env.reset(seed=0)
    with pytest.raises(TaskError, match=rf"^task 1 \('broken'\): .*({message})"):
        env.step(np.zeros(4, np.int64))
    env.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: (r[0][:, :2], *r[1:]), r"the observation must have the shape \(2, 3\), got"),
        (lambda r: (r[0], r[1][:1], *r[2:]), "the rewards must be 2 finite numbers"),
    ],
)  # fmt: skip
def test_what_a_tasks_own_vector_environment_returns_is_checked(change, message):
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    class Careless(SyncVectorEnv):
        def step(self, actions):
            return change(super().step(actions))

    def vector_fn(num_envs):
        return Careless([CountingEnv] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)

    task = Task("careless", env_fn=CountingEnv, vector_fn=vector_fn)
    env = MultiTaskVectorEnv([task], 2, schedule=Cycle(10))
    env.reset(seed=0)
    with pytest.raises(TaskError, match=rf"^task 0 \('careless'\): TypeError: {message}"):
        env.step(np.zeros(2, np.int64))


def test_a_dict_observation_must_have_its_keys():
    from gymnasium import Env, spaces

    class Keys(Env):
        observation_space = spaces.Dict(x=spaces.Box(0, 1, (1,)))
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"y": np.zeros(1, np.float32)}, {}

    with pytest.raises(TaskError, match=r"the observation must have the keys \['x'\], got"):
        MultiTaskEnv([Keys]).reset()


def test_a_task_needs_one_way_to_be_built():
    with pytest.raises(ValueError, match="a task takes either `env_id` or `env_fn`, got"):
        Task("none")
