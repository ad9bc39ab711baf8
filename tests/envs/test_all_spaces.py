"""Every kind of Gymnasium space, alone and mixed: it works, or is refused when built."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from tiny import Sampled

from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, MultiTaskVectorEnv, Task


class SpaceEnv(Sampled):
    """Observe what the space draws, refuse actions of any other space, end after 3 steps."""

    length = 3

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        super().__init__(copy.deepcopy(observation))
        self.action_space = copy.deepcopy(action)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed)

    def reward(self, action: Any) -> float:
        assert self.action_space.contains(action), f"{action!r} isn't in {self.action_space}"
        return 1.0


ACTION, OBSERVATION = spaces.Discrete(2), spaces.Box(-1, 1, (2,))


def tasks_with(role, own):
    pairs = [(space, ACTION) if role == "observation" else (OBSERVATION, space) for space in own]
    return [Task(f"t{k}", env_fn=partial(SpaceEnv, *pair)) for k, pair in enumerate(pairs)]


def box(low, high, dtype, *shape):
    return spaces.Box(low, high, shape, dtype)


BOTH = [
    [box(-1, 1, np.float32, 2), box(0, 5, np.float64, 3)],
    [box(0, 1, np.bool_, 2)] * 2,
    [box(-1, 1, np.float32)] * 2,
    [spaces.Discrete(2, start=-2), spaces.Discrete(3, dtype=np.int32)],
    [spaces.MultiDiscrete([2, 3], start=[1, -2]), spaces.MultiDiscrete([3], dtype=np.int8)],
    [spaces.MultiDiscrete([[1, 2], [2, 2]]), spaces.MultiDiscrete([[3, 2], [2, 2]])],
    [spaces.MultiBinary((2, 3)), spaces.MultiBinary((3, 2))],
]
OBSERVATIONS = [
    [box(-np.inf, np.inf, np.float32, 1), box(-2, 5, np.float16, 3)],
    [box(0, 255, np.uint8, 2), box(1, 9, np.int64, 2)],
    [spaces.Dict(x=OBSERVATION), spaces.Dict(y=spaces.Discrete(3))],
    [spaces.Dict(a=spaces.Dict(b=ACTION)), spaces.Dict(a=spaces.Dict(b=ACTION, c=OBSERVATION))],
]
NEITHER = [
    [box(-1, 1, np.float32), box(-1, 1, np.float32, 2)],
    [box(-1, 1, np.float32, 2), ACTION],
    [spaces.Text(3)] * 2,
    [spaces.Tuple([ACTION, OBSERVATION])] * 2,
    [spaces.Dict(a=spaces.Sequence(ACTION))] * 2,
]


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


@pytest.mark.filterwarnings("ignore:.*Casting input x to numpy array")  # a row of a () Box
@pytest.mark.parametrize(
    ("role", "own"),
    [("observation", own) for own in BOTH + OBSERVATIONS] + [("action", own) for own in BOTH],
)
def test_tasks_of_other_spaces_are_played_alone_together_and_in_sb3(role, own):
    tasks = tasks_with(role, own)
    for env in (
        MultiTaskEnv(tasks, schedule=Interleave("episodes")),
        MultiTaskVectorEnv(tasks, 3, schedule=Cycle(4)),
        MultiTaskVectorEnv(tasks, 3),
    ):
        play(env)
    env = make_multitask_vec_env(tasks, 3, seed=1)
    env.reset()
    for _ in range(4):
        env.step(np.stack([env.action_space.sample() for _ in range(env.num_envs)]))
    env.close()


@pytest.mark.parametrize(
    ("role", "own"),
    [("action", own) for own in OBSERVATIONS + NEITHER] + [("observation", own) for own in NEITHER],
)
def test_spaces_that_cant_be_joined_are_refused_when_built(role, own):
    tasks = tasks_with(role, own)
    for build in (MultiTaskEnv, MultiTaskVectorEnv, make_multitask_vec_env):
        with pytest.raises(ValueError, match=r"`(action|observation)_space`"):
            build(tasks)
