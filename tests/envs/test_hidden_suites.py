"""Suites in which transitions, or rewards alone, tell which task is played."""

import gymnasium as gym
import numpy as np
import pytest

from sb3_moe_envs import get_suite


def played(task, steps=4):
    """Return observations and rewards of one episode's start, with the same actions everywhere."""
    env = task.make()
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    seen = [env.step(env.action_space.sample())[:2] for _ in range(steps)]
    observations, rewards = zip((obs, 0.0), *seen, strict=True)
    return np.array(observations), np.array(rewards, dtype=float)


@pytest.mark.parametrize(
    ("suite", "num_tasks"), [("Physics/CartPole8", 8), ("Physics/Pendulum4", 4)]
)
def test_other_physics_show_in_the_transitions_of_each_task(suite, num_tasks):
    observations = [played(task)[0] for task in get_suite(suite)]
    assert len(np.unique(observations, axis=0)) == num_tasks


@pytest.mark.parametrize(("suite", "num_tasks"), [("Goal/CartPole4", 4), ("Goal/Pendulum6", 6)])
def test_other_goals_show_in_rewards_alone(suite, num_tasks):
    observations, rewards = zip(*map(played, get_suite(suite)), strict=True)
    assert len(np.unique(observations, axis=0)) == 1
    assert len(np.unique(rewards, axis=0)) == num_tasks


@pytest.mark.parametrize(
    ("name", "goal", "state", "action", "reward"),
    [
        # Half a meter from its goal, a resting cart earns half.
        ("CartPole", 0.5, [0.5, 0, 0, 0], 0, 1.0),
        ("CartPole", 0.0, [0.5, 0, 0, 0], 0, 0.5),
        # Minus the square of what is missing; the shorter way is over 3.0.
        ("Pendulum", 0.25, [0.25, 0], [0.0], 0.0),
        ("Pendulum", 3.0, [-3.0, 0], [0.0], -((2 * np.pi - 6.0) ** 2)),
        ("Pendulum", None, [0.5, 1.0], [1.0], -(0.25 + 0.1 + 0.001)),
    ],
)
def test_rewards_of_goals_are_these(name, goal, state, action, reward):
    env = gym.make(f"sb3_moe_envs:SB3MoE/{name}-v0", goal=goal)
    env.reset(seed=0)
    env.unwrapped.state = np.array(state)
    assert env.step(np.array(action))[1] == pytest.approx(reward, abs=1e-6)
