"""A task's own action masks and names of actions, together with those of the common space."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from gymnasium.wrappers import TransformAction, vector
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import Steps

from sb3_moe import make_multitask_vec_env
from sb3_moe.vec_env.tasks import action_meanings
from sb3_moe_envs import Interleave, MultiTaskEnv, MultiTaskVectorEnv, Task, TaskError
from sb3_moe_envs.conflicts import Conflicting, ConflictingVectorEnv
from sb3_moe_envs.methods import meanings_of
from sb3_moe_envs.physics import CartPoleVectorEnv
from sb3_moe_envs.snapshot import gives_state
from sb3_moe_envs.vector.batched import SingleEnv
from sb3_moe_envs.vector.gymnax import MinAtarVectorEnv


class Forbidding(Steps):
    """Forbids a choice that changes with each step, and refuses it; three steps a game."""

    length = 3

    def __init__(self, space: Any) -> None:
        self.action_space = space
        self.sizes = [space.n] if isinstance(space, spaces.Discrete) else space.nvec.tolist()

    def step(self, action: Any) -> Any:
        mask, start = self.action_masks(), 0
        for choice, size in zip(np.ravel(action), self.sizes, strict=True):
            assert mask[start + int(choice)], f"illegal: {action}"
            start += size
        return super().step(action)

    def action_masks(self) -> np.ndarray:
        """Forbid one choice in each dimension: that of the step's number."""
        return np.concatenate([np.arange(n) != self.steps % n for n in self.sizes])


class Free(Forbidding):
    """Allows everything, and has no masks to say so."""

    action_masks = property()  # type: ignore[assignment]  # hasattr is False
    step = Steps.step


def pair(space: spaces.Space[Any], other: spaces.Space[Any]) -> list[Task]:
    return [
        Task("forbids", env_fn=partial(Forbidding, space)),
        Task("free", env_fn=partial(Free, other)),
    ]


DISCRETE = pair(spaces.Discrete(3), spaces.Discrete(4))
PAIRS = {
    "discrete": (DISCRETE, [[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]], [1, 1, 1, 1]),
    "multidiscrete": (
        pair(spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([3, 3, 2])),
        [[0, 1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 0, 1, 1, 0], [0, 1, 0, 1, 1, 0, 1, 0]],
        [1] * 8,
    ),
}
LEGAL = {"discrete": [1, 2, 0], "multidiscrete": [[1, 1, 0], [0, 0, 0], [1, 0, 0]]}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_lone_environment_gives_both_masks_as_they_change(kind):
    tasks, expected, free = PAIRS[kind]
    env = MultiTaskEnv(tasks, schedule=Interleave("episodes"))
    # Before the first reset, a game that deals cards, for example, has no masks of its own.
    assert env.action_masks().tolist() == np.any(expected, axis=0).tolist()
    for _ in range(2):
        env.reset(seed=0)
        for mask, action in zip(expected, LEGAL[kind], strict=True):
            assert env.action_masks().tolist() == mask
            env.step(np.asarray(action))
        env.reset()
        assert env.action_masks().tolist() == free


@pytest.mark.parametrize(
    ("kind", "vectorization"), [("multidiscrete", "sync"), ("discrete", "async")]
)
def test_a_vector_gives_both_masks_and_the_next_episodes_after_an_autoreset(kind, vectorization):
    tasks, expected, free = PAIRS[kind]
    env = MultiTaskVectorEnv(tasks, 4, vectorization=vectorization)
    assert env.action_masks()[0].tolist() == np.any(expected, axis=0).tolist()
    env.reset(seed=0)
    for step in range(4):
        masks = env.action_masks()
        assert masks.tolist() == [expected[step % 3]] * 2 + [free] * 2
        env.step(np.array([LEGAL[kind][step % 3]] * 4))
    env.close()


def other_way_round():
    env = Forbidding(spaces.Discrete(3))
    return TransformAction(env, lambda action: 2 - action, spaces.Discrete(3))


class Turned(gym.ActionWrapper):
    """Actions the other way round, and masks of its own."""

    def action(self, action):
        return 2 - action

    def action_masks(self):
        return self.env.action_masks()[::-1]


@pytest.mark.parametrize("build", [MultiTaskEnv, partial(MultiTaskVectorEnv, num_envs=1)])
def test_masks_behind_other_actions_are_none_unless_the_wrapper_gives_its_own(build):
    for task, expected in (
        (other_way_round, [1, 1, 1]),
        (lambda: Turned(Forbidding(spaces.Discrete(3))), [1, 1, 0]),
    ):
        env = build([task])
        env.reset(seed=0)
        assert np.ravel(env.action_masks()).tolist() == expected
        env.close()


@pytest.mark.parametrize(
    ("invalid", "first", "second"),
    [
        # 3 and 4 become the task's 0 ("noop"), or its 0 and 1.
        ("noop", [0, 1, 1, 0, 0], [1, 0, 1, 1, 1]),
        ("modulo", [0, 1, 1, 0, 1], [1, 0, 1, 1, 0]),
        ("error", [0, 1, 1, 1, 1], [1, 0, 1, 1, 1]),
    ],
)
def test_a_hidden_task_allows_what_stands_for_an_allowed_action(invalid, first, second):
    tasks = pair(spaces.Discrete(3), spaces.Discrete(5))
    options = {"task_id": "none", "invalid_action": invalid}
    lone = MultiTaskEnv(tasks, **options)
    vector = MultiTaskVectorEnv(tasks, 2, **options)
    lone.reset(seed=0)
    vector.reset(seed=0)
    for expected in (first, second):
        assert lone.action_masks().tolist() == expected
        assert vector.action_masks().tolist() == [expected, [1] * 5]
        lone.step(2)
        vector.step(np.array([2, 2]))


def test_masks_of_another_length_name_the_task():
    class Short(Forbidding):
        def action_masks(self):
            return np.ones(2, bool)

    tasks = [Task("short", env_fn=partial(Short, spaces.Discrete(3)))]
    for env, shape in ((MultiTaskEnv(tasks), "2,"), (MultiTaskVectorEnv(tasks, 2), "2, 2")):
        env.reset(seed=0)
        message = (
            rf"^task 0 \('short'\): .*`action_masks` must have the shape .*3.*, got \({shape}\)"
        )
        with pytest.raises(TaskError, match=message):
            env.action_masks()


def test_maskable_ppo_never_plays_what_a_task_forbids():
    maskable = pytest.importorskip("sb3_contrib", reason="needs the contrib extra").MaskablePPO
    env = make_multitask_vec_env(DISCRETE, 4, seed=0)
    model = maskable("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=1, seed=0)
    model.learn(64)
    env.close()


class Named(Steps):
    def get_action_meanings(self):
        return ("stay", "go")


class Nameless(Steps):
    action_space = spaces.Discrete(3)


NAMES = {0: ["stay", "go"]}


def test_environments_of_several_tasks_know_each_ones_names():
    env = make_multitask_vec_env([Named, Nameless], n_envs=3)
    assert action_meanings(env) == MultiTaskEnv([Named, Nameless]).action_meanings() == NAMES
    env.close()


@pytest.mark.parametrize(("make", "found"), [(Named, NAMES), (Nameless, {})])
def test_an_environment_without_tasks_is_asked_itself(make, found):
    assert action_meanings(make_multitask_vec_env([make])) == found
    assert action_meanings(DummyVecEnv([make])) == found


def test_where_actions_are_exchanged_their_names_are_too():
    world = MinAtarVectorEnv("Breakout", 2, use_minimal_action_set=True)
    assert meanings_of(world) == ["nothing", "left", "right"]
    exchanged = ConflictingVectorEnv(world, actions=(2, 0, 1))
    assert meanings_of(exchanged) == ["right", "nothing", "left"]
    assert meanings_of(Conflicting(Named(), actions=(1, 0))) == ["go", "stay"]
    assert meanings_of(Conflicting(Nameless(), actions=(1, 0, 2))) is None


def test_one_environment_of_a_vector_has_no_names_and_no_state_that_the_vector_lacks():
    pole = SingleEnv(CartPoleVectorEnv(1))
    assert meanings_of(pole) is None
    assert not gives_state(pole)


def test_behind_a_wrapper_that_changes_actions_nothing_has_a_name():
    def changed():
        return gym.wrappers.TransformAction(Named(), lambda action: 1 - action, Named.action_space)

    many = SyncVectorEnv([Named] * 2)
    assert meanings_of(VectorWrapper(many)) == ["stay", "go"]
    assert meanings_of(vector.TransformAction(many, lambda actions: 1 - actions)) is None
    assert meanings_of(changed()) is None
    assert action_meanings(DummyVecEnv([changed])) == {}
