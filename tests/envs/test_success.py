"""A schedule hears that an episode succeeded if any of its steps said so."""

from functools import partial

import numpy as np
import pytest
from tiny import Steps

from sb3_moe_envs import MultiTaskEnv, MultiTaskVectorEnv, Task
from sb3_moe_envs.schedules.by_episode import Schedule

YES, NO = {"success": True}, {"success": False}
# What the three steps of an episode say, and what it comes to.
EPISODES = {
    "last": ([NO, NO, YES], 1.0),
    "first": ([YES, {}, {}], 1.0),
    "both keys": ([{}, {"is_success": False, "success": 1.0}, {}], 1.0),
    "never": ([NO, {}, {"is_success": 0}], 0.0),
    "NaN beside": ([{"success": np.nan}, NO, {"success": np.float32(np.nan)}], 0.0),
    "an array": ([NO, {"success": np.array(True)}, {}], 1.0),
    "silent": ([{}, {}, {}], np.nan),
}


class Saying(Steps):
    """Episodes whose steps say what they are told to."""

    def __init__(self, said):
        self.said, self.length = said, len(said)

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], {"success": True}  # which is no step's

    def info(self):
        return dict(self.said[self.steps - 1])


class Listening(Schedule):
    """One task for good; keeps what it hears of episodes."""

    task = 0
    _state = ("heard",)

    def _start(self, task_names):
        self.heard = []

    def end(self, episode):
        self.heard.append(episode.success)


class Single:
    """A MultiTaskEnv that resets itself, as a copy of a vector environment does."""

    def __init__(self, tasks, schedule):
        self.env = MultiTaskEnv(tasks, schedule=schedule)

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, actions):
        result = self.env.step(0)
        if result[2] or result[3]:
            self.env.reset()
        return result


KINDS = {"one": Single, "many": partial(MultiTaskVectorEnv, num_envs=1)}


def says(episode, kind):
    return KINDS[kind]([Task("says", env_fn=partial(Saying, episode))], schedule=Listening())


def play(env, steps):
    for _ in range(steps):
        env.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("episode", "success"), EPISODES.values(), ids=EPISODES)
def test_an_episode_succeeds_if_any_of_its_steps_says_so(kind, episode, success):
    env = says(episode, kind)
    env.reset(seed=0)
    play(env, 6)
    np.testing.assert_array_equal(env.schedule.heard, [success, success])


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_keeps_the_running_success(kind):
    env = says([YES, {}, NO], kind)
    env.reset(seed=0)
    play(env, 1)
    other = says([YES, {}, NO], kind)
    other.load_state_dict(env.state_dict())
    play(other, 2)
    assert other.schedule.heard == [1.0]
