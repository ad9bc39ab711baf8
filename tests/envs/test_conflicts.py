"""Conflicting tasks: one world in several coordinates, each exactly as hard as the world itself."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.wrappers import TimeLimit

from sb3_moe_envs import MultiTaskEnv, make_multitask_vector
from sb3_moe_envs.conflicts import (
    Conflicting,
    Coordinates,
    conflicting_breakouts,
    conflicting_cartpoles,
    shuffled_breakouts,
)
from sb3_moe_envs.physics import CartPoleVectorEnv

BOX = spaces.Box(-np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32))
CARTPOLES = conflicting_cartpoles(16)
BREAKOUTS = conflicting_breakouts(8)


def plain_view(kwargs, observation):
    """Undo the coordinates of an observation, entry by entry."""
    signs = kwargs.get("signs", (1,) * len(kwargs["permutation"]))
    plain = np.empty_like(observation)
    for place, (entry, sign) in enumerate(zip(kwargs["permutation"], signs, strict=True)):
        plain[..., entry] = observation[..., place] * sign
    return plain


def own_action(kwargs, action):
    """Give the task's name of a plain action."""
    return kwargs["actions"].index(action) if "actions" in kwargs else action


def balance(observation):
    """Keep a pole up for a while."""
    return int(observation[2] > 0)


def play(task, policy, steps, seed):
    """Play a task by a policy for the plain world; return everything that the world says back."""
    env, kwargs = task.make(), dict(task.kwargs)
    observation, _ = env.reset(seed=seed)
    said = []
    for _ in range(steps):
        seen = plain_view(kwargs, observation)
        observation, reward, terminated, truncated, _ = env.step(own_action(kwargs, policy(seen)))
        said.append((seen.tolist(), reward, terminated, truncated))
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    return said


def follow(observation):
    """Move the paddle below the ball."""
    paddle, ball = (np.argwhere(observation[..., channel])[-1][1] for channel in (0, 1))
    return 3 if ball > paddle else 1 if ball < paddle else 0


@pytest.mark.parametrize("task", [*CARTPOLES[1:3], BREAKOUTS[1]], ids=lambda task: task.name)
def test_a_policy_carried_over_plays_each_task_exactly_as_the_plain_one(task):
    if task is BREAKOUTS[1]:
        pytest.importorskip("gymnax")
        plain, policy, steps = BREAKOUTS[0], follow, 150
    else:
        plain, policy, steps = CARTPOLES[0], balance, 1200
    expected = play(plain, policy, steps, seed=1)
    assert len({(reward, terminated) for _, reward, terminated, _ in expected}) >= 2
    assert play(task, policy, steps, seed=1) == expected


def test_the_tables_are_what_they_always_were():
    assert CARTPOLES[1].kwargs == {
        "permutation": (3, 2, 1, 0),
        "signs": (1, -1, 1, -1),
        "actions": (1, 0),
    }
    assert [task.kwargs["permutation"] for task in BREAKOUTS[1:4]] == [
        (3, 2, 1, 0),
        (3, 1, 0, 2),
        (0, 3, 1, 2),
    ]


def test_no_two_cartpoles_have_one_best_policy_even_in_the_mirror():
    every = conflicting_cartpoles(384)
    seen = set()
    for task in every:
        mirror = -1 if "actions" in task.kwargs else 1
        signs = tuple(mirror * sign for sign in task.kwargs["signs"])
        seen.add((task.kwargs["permutation"], signs))
    assert len(seen) == 384


def test_more_tasks_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="`num_tasks` must be at most 384, got 385"):
        conflicting_cartpoles(385)
    with pytest.raises(ValueError, match="`num_tasks` must be at most 48, got 49"):
        conflicting_breakouts(49)


def test_a_world_of_copies_plays_what_lone_cartpoles_do():
    world, lone = CartPoleVectorEnv(3), [TimeLimit(CartPoleEnv(), 500) for _ in range(3)]
    observations, _ = world.reset(seed=7)
    for i, env in enumerate(lone):
        np.testing.assert_array_equal(observations[i], env.reset(seed=7 + i)[0])
    endings = 0
    for _ in range(300):
        actions = np.array([balance(observations[0]), 1 - balance(observations[1]), 0])
        observations, rewards, terminated, truncated, infos = world.step(actions)
        for i, env in enumerate(lone):
            last, reward, fell, cut, _ = env.step(actions[i])
            assert (rewards[i], terminated[i], truncated[i]) == (reward, fell, cut)
            if fell or cut:
                endings += 1
                np.testing.assert_allclose(infos["final_obs"][i], last, rtol=1e-5, atol=1e-6)
                last, _ = env.reset()
            np.testing.assert_allclose(observations[i], last, rtol=1e-5, atol=1e-6)
    assert endings > 40


def test_coordinates_permute_negate_and_exchange_as_worked_out_by_hand():
    found = Coordinates(BOX, spaces.Discrete(3), (2, 0, 1), (1, -1, 1), (1, 2, 0))
    np.testing.assert_array_equal(found.observation(np.array([10, 20, 30])), [30, -10, 20])
    np.testing.assert_array_equal(found.observation_space.low, [-3, -4, -2])
    np.testing.assert_array_equal(found.observation_space.high, [6, 1, 5])
    assert [found.action(action) for action in range(3)] == [1, 2, 0]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"permutation": (0, 1, 1)}, r"`permutation` must hold each of 0 to 2 once, got \(0, 1, 1"),
        ({"actions": (0, 2)}, r"`actions` must hold each of 0 to 1 once, got \(0, 2\)"),
        ({"signs": (1, -1)}, r"`signs` must hold 3 values, each 1 or -1, got \(1, -1\)"),
    ],
)
def test_wrong_coordinates_are_named(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        Coordinates(BOX, spaces.Discrete(2), **arguments)


class Masked(CartPoleEnv):
    """A CartPole that can't be pushed to the left."""

    def action_masks(self):
        return np.array([False, True])


def test_masks_are_in_the_tasks_coordinates_too():
    one = Conflicting(gym.Wrapper(Masked()), actions=(1, 0))
    assert one.get_wrapper_attr("action_masks")().tolist() == [True, False]
    tasks = MultiTaskEnv([lambda: one])
    tasks.reset(seed=0)
    assert tasks.action_masks().tolist() == [True, False]
    assert pickle.loads(pickle.dumps(one.action_masks))().tolist() == [True, False]


def test_environments_play_what_the_plain_game_plays_with_pixels_elsewhere():
    pytest.importorskip("gymnax")
    plain, moved = (
        make_multitask_vector([task], 3, task_id="none") for task in shuffled_breakouts(2)
    )
    shuffled = Coordinates(plain.single_observation_space, plain.single_action_space, shuffle=1)
    (ours, _), (theirs, _) = plain.reset(seed=1), moved.reset(seed=1)
    endings = 0
    for step in range(40):
        np.testing.assert_array_equal(shuffled.observation(ours), theirs)
        actions = np.array([step % 2, 1, 3])
        (ours, *said, infos), (theirs, *heard, others) = plain.step(actions), moved.step(actions)
        np.testing.assert_equal(said, heard)
        for last, its in zip(infos.get("final_obs", ()), others.get("final_obs", ()), strict=True):
            if last is not None:
                endings += 1
                np.testing.assert_array_equal(shuffled.observation(last), its)
    assert endings > 0
