"""States: what is restored goes on exactly, and survives the seed that loading a model brings."""

import pickle
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from counting import CountingEnv, counting_tasks
from gymnasium.utils import EzPickle
from gymnasium.wrappers import TimeLimit
from tiny import Steps

from sb3_moe_envs import (
    Adaptive,
    Cycle,
    MultiTaskEnv,
    MultiTaskVectorEnv,
    make_multitask_vector,
)
from sb3_moe_envs.snapshot import restore, snapshot


def play(env, num_steps):
    """What a number of steps gives, one environment or many."""
    seen = []
    single = not hasattr(env, "single_action_space")
    action = 1 if single else np.ones(env.num_envs, np.int64)
    for _ in range(num_steps):
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs["obs"].tolist(), np.asarray(obs["task_id"]).tolist(), reward))
        if single and (terminated or truncated):
            seen.append(env.reset()[0]["obs"].tolist())
    return repr(seen)


def test_a_restored_environment_goes_on_as_the_original_does_with_tasks_chosen_by_hand():
    schedule = Adaptive("episodes>=4", window=2, num_cycles=None)
    env, other = (make_multitask_vector(counting_tasks(3), 4, schedule=schedule) for _ in range(2))
    env.reset(seed=3)
    env.set_task(2, indices=[0, 2])
    play(env, 17)
    state = pickle.loads(pickle.dumps(env.state_dict()))
    assert state["exact"]
    expected = play(env, 40)
    other.load_state_dict(state)
    assert play(other, 40) == expected


@pytest.mark.parametrize("num_resets", [1, 2])
def test_a_restored_state_survives_one_seeded_reset_and_no_more(num_resets):
    for env in (
        MultiTaskEnv(counting_tasks(3), schedule=Cycle(20)),
        MultiTaskVectorEnv(counting_tasks(3), 1, schedule=Cycle(20)),
    ):
        env.reset(seed=0)
        play(env, 25)
        state = env.state_dict()
        env.load_state_dict(state)
        for _ in range(num_resets):
            env.reset(seed=0)
        assert np.ravel(env.get_task()).tolist() == ([1] if num_resets == 1 else [0])


class Drawing(CountingEnv, EzPickle):
    """Draws at each step, and can't be saved."""

    def step(self, action):
        obs, _, *others = super().step(action)
        return obs, float(self.np_random.random()), *others


@pytest.mark.parametrize("kind", [MultiTaskEnv, MultiTaskVectorEnv])
def test_what_cant_be_restored_begins_anew_from_a_seed_that_follows_from_the_first(kind):
    def started(state=None, seed=0):
        env = kind([Drawing, CountingEnv])
        if state is None:
            env.reset(seed=seed)
        else:
            env.load_state_dict(pickle.loads(pickle.dumps(state)))
        return env

    env = started()
    fresh = play(started(), 3)
    play(env, 3)
    state = env.state_dict()
    once, again, other = started(state), started(state), started(started(seed=1).state_dict())
    state_after = once.state_dict()
    played = play(once, 3)
    assert played == play(again, 3)
    assert played not in (fresh, play(other, 3))  # no stream is played twice
    assert played != play(started(state_after), 3)


class Giving(CountingEnv):
    """Gives its state."""

    def state_dict(self):
        return {"steps": self.steps, "random": self.np_random.bit_generator.state}

    def load_state_dict(self, state):
        self.steps, self.np_random.bit_generator.state = state["steps"], state["random"]


class NotAll(Giving):
    def state_dict(self):
        return {**super().state_dict(), "exact": False}


@pytest.mark.parametrize(("task", "exact"), [(Giving, True), (NotAll, False)])
@pytest.mark.parametrize("build", [MultiTaskEnv, partial(MultiTaskVectorEnv, num_envs=2)])
def test_a_state_that_an_environment_gives_is_exact_if_it_says_so_and_takes_it_back(
    build, task, exact
):
    env, other = build([task]), build([task])
    env.reset(seed=0)
    play(env, 2)
    state = env.state_dict()
    assert state["exact"] is exact
    other.load_state_dict(state)
    if exact:
        assert play(other, 20) == play(env, 20)


def test_a_state_of_other_tasks_or_slots_is_refused():
    state = MultiTaskEnv(counting_tasks(2)).state_dict()
    with pytest.raises(ValueError, match="`state` must have num_tasks=3, got 2"):
        MultiTaskEnv(counting_tasks(3)).load_state_dict(state)
    state = MultiTaskVectorEnv(counting_tasks(2), 2).state_dict()
    with pytest.raises(ValueError, match="`state` must have num_envs=3, got 2"):
        MultiTaskVectorEnv(counting_tasks(2), 3).load_state_dict(state)


def test_a_single_atari_game_is_restored_by_cloning():
    ale_py = pytest.importorskip("ale_py", reason="needs the atari extra")
    gym.register_envs(ale_py)
    tasks = [("ALE/Pong-v5", {"obs_type": "ram", "full_action_space": True})]
    env, other = MultiTaskEnv(tasks), MultiTaskEnv(tasks)
    env.reset(seed=0)
    other.reset(seed=5)
    play(env, 40)
    state = pickle.loads(pickle.dumps(env.state_dict()))
    assert state["exact"]
    other.load_state_dict(state)
    assert play(other, 40) == play(env, 40)


class OfTheScript(Steps):
    """As one that stands in the script that is run."""


def test_an_environment_of_a_script_goes_on_where_that_script_is_not_run(monkeypatch):
    monkeypatch.setattr(OfTheScript, "__module__", "__main__")
    env = TimeLimit(OfTheScript(), 10)
    env.reset(seed=0)
    env.step(1)
    with monkeypatch.context() as script:
        script.setattr(sys.modules["__main__"], "OfTheScript", OfTheScript, raising=False)
        state = snapshot(env)
    restored = restore(TimeLimit(OfTheScript(), 10), state)
    assert type(restored.unwrapped) is OfTheScript
    assert restored.unwrapped.steps == 1
    with pytest.raises(pickle.UnpicklingError, match="into a module of their own"):
        restore(TimeLimit(Steps(), 10), state)
