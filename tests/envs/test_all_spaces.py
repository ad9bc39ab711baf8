"""Every kind of Gymnasium space, alone and mixed: it works, or is refused when built."""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, MultiTaskVectorEnv, Task


class SpaceEnv(gym.Env[Any, Any]):
    """Observe what the space draws, refuse actions of any other space, end after 3 steps."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space = copy.deepcopy(observation)
        self.action_space = copy.deepcopy(action)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} isn't in {self.action_space}"
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 3, False, {}


ACTION, OBSERVATION = spaces.Discrete(2), spaces.Box(-1, 1, (2,))


def tasks_with(role, own):
    pairs = [(space, ACTION) if role == "observation" else (OBSERVATION, space) for space in own]
    return [Task(f"t{k}", env_fn=partial(SpaceEnv, *pair)) for k, pair in enumerate(pairs)]


def box(low, high, dtype, *shape):
    return spaces.Box(low, high, shape, dtype)


SMALL = st.integers(1, 3)
INTEGERS = {np.int8: (-128, 127), np.uint8: (0, 255), np.int64: (-(2**40), 2**40)}
BOXES = st.one_of(
    st.builds(box, st.sampled_from([-2.0, 0.0]), st.sampled_from([1.0, 5.0]),
              st.sampled_from([np.float16, np.float32, np.float64]), SMALL),
    st.builds(box, st.just(-np.inf), st.sampled_from([np.inf, 1.0]), st.just(np.float32), SMALL),
    st.sampled_from(list(INTEGERS)).flatmap(
        lambda dtype: st.sampled_from([(1, 3), (1, 9), INTEGERS[dtype]]).map(
            lambda bounds: box(*bounds, dtype, 2))
    ),
    st.just(box(0, 1, np.bool_, 2)),
    st.just(box(-1, 1, np.float32)),
    st.just(box(-1, 1, np.float32, 2, 2)),
)  # fmt: skip
DISCRETE = st.builds(
    spaces.Discrete, SMALL, start=st.integers(-2, 2), dtype=st.sampled_from([np.int32, np.int64])
)
MULTI = st.one_of(
    st.builds(
        spaces.MultiDiscrete, st.lists(SMALL, min_size=1, max_size=3),
        dtype=st.sampled_from([np.int8, np.int64]),
    ),
    st.just(spaces.MultiDiscrete([2, 3], start=[1, -2])),
    st.lists(SMALL, min_size=2, max_size=2).map(lambda row: spaces.MultiDiscrete([row, [2, 2]])),
)  # fmt: skip
BINARY = st.sampled_from([2, 3, (2, 3), (3, 2)]).map(spaces.MultiBinary)
TEXT = st.builds(spaces.Text, st.integers(2, 6), charset=st.sampled_from(["ab", "xyz"]))
ARRAYS = st.one_of(BOXES, DISCRETE, MULTI, BINARY)
# Gymnasium itself can't deal out an empty Dict.
DICTS = st.recursive(
    ARRAYS | TEXT,
    lambda part: st.dictionaries(st.sampled_from("abc"), part, min_size=1, max_size=2).map(
        spaces.Dict
    ),
    max_leaves=4,
)
OTHERS = st.one_of(
    st.tuples(DISCRETE, BOXES).map(spaces.Tuple),
    DISCRETE.map(spaces.Sequence),
    st.just(spaces.Graph(OBSERVATION, None)),
    st.tuples(DISCRETE, BOXES).map(spaces.OneOf),
    DISCRETE.map(lambda part: spaces.Dict(a=spaces.Sequence(part))),
)
# Of one kind, so that most can be joined; of any two kinds; equal.
KINDS = [BOXES, DISCRETE, MULTI, BINARY, TEXT, DICTS, OTHERS]
PAIRS = st.one_of(
    *[st.tuples(kind, kind) for kind in KINDS],
    st.tuples(DICTS | OTHERS, DICTS | OTHERS),
    *[kind.map(lambda space: (space, space)) for kind in KINDS],
)


REFUSALS = r"^`(action|obs)_space`='"


def built_or_refused(build):
    """Return what was built, or None if that was refused for the spaces, in so many words."""
    try:
        return build()
    except ValueError as error:
        if not re.match(REFUSALS, str(error)):
            raise
        return None


def play(env, num_steps=8):
    env.action_space.seed(0)
    assert env.reset(seed=1)[0] in env.observation_space
    for _ in range(num_steps):
        obs, _, terminated, truncated, infos = env.step(env.action_space.sample())
        assert obs in env.observation_space
        for last in infos.get("final_obs", []):
            assert last is None or last in env.single_observation_space
        if not isinstance(env, MultiTaskVectorEnv) and (terminated or truncated):
            assert env.reset()[0] in env.observation_space
    env.close()


def play_in_sb3(env, num_steps=4):
    env.reset()
    for _ in range(num_steps):
        env.step(np.stack([env.action_space.sample() for _ in range(env.num_envs)]))
    env.close()


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # a row of a () Box
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    role=st.sampled_from(["observation", "action"]),
    own=PAIRS,
    mode=st.sampled_from(["pad", "pad", "strict"]),
    schedule=st.sampled_from([Interleave("episodes"), Cycle(4)]),
)
def test_tasks_of_any_spaces_play_or_are_refused_when_built(role, own, mode, schedule):
    tasks = tasks_with(role, own)
    options = {"obs_space": mode, "action_space": mode}
    single = built_or_refused(partial(MultiTaskEnv, tasks, schedule=schedule, **options))
    joined = built_or_refused(partial(MultiTaskVectorEnv, tasks, 3, schedule=Cycle(4), **options))
    fixed = built_or_refused(partial(MultiTaskVectorEnv, tasks, 3, **options))
    assert (single is None) == (joined is None) == (fixed is None)
    for env in (single, joined, fixed):
        if env is not None:
            play(env)
    sb3 = built_or_refused(partial(make_multitask_vec_env, tasks, 3, seed=1, **options))
    if sb3 is not None:
        play_in_sb3(sb3)


@pytest.mark.parametrize(
    ("role", "own"),
    [
        ("observation", [box(-1, 1, np.float32, 2), box(0, 5, np.float64, 3)]),
        ("observation", [spaces.Dict(x=OBSERVATION), spaces.Dict(y=spaces.Discrete(3))]),
        ("action", [box(-1, 1, np.float32, 2), box(0, 5, np.float32, 3)]),
        ("action", [spaces.MultiBinary(2), spaces.MultiBinary(3)]),
    ],
)
def test_joined_spaces_pass_both_checkers(role, own):
    tasks = tasks_with(role, own)
    check_env(MultiTaskEnv(tasks), skip_render_check=True)
    sb3_check_env(MultiTaskEnv(tasks))


@pytest.mark.parametrize(
    ("algorithm", "own"),
    [
        (DQN, [spaces.Discrete(3, start=2)] * 2),
        (PPO, [spaces.MultiDiscrete([2, 3], start=[1, -1])] * 2),
    ],
)
def test_sb3s_actions_reach_each_task_in_its_own_space(algorithm, own):
    options = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"learning_starts": 4}
    env = MultiTaskEnv(tasks_with("action", own))
    algorithm("MultiInputPolicy", env, seed=0, device="cpu", **options).learn(12)
