"""The level of a random policy, on the scale on which agents are evaluated."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sb3_moe.study.run import random_policy
from sb3_moe.study.run.random_policy import random_returns, read_returns


class Lives(gym.Env):
    """Three lives of two steps, worth 10 points each; training is paid 1 for each."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        over = self.steps % 6 == 0
        info = {
            "score": 60.0 if over else 10.0 * (self.steps % 6),
            "game_over": over,
            "of_atari": True,
        }
        return np.zeros(2, np.float32), 1.0, self.steps % 2 == 0, False, info


class Built(Lives):
    """Counts how often it was built."""

    count = 0

    def __init__(self):
        type(self).count += 1


def test_each_task_is_built_once_for_each_copy():
    names = [f"BuiltForTests{k}-v0" for k in range(3)]
    for name in names:
        gym.register(name, Built)
    try:
        returns = random_returns(names, 10)
    finally:
        for name in names:
            del gym.registry[name]
    assert Built.count <= 10 * len(names) + len(names)  # and once to see the spaces
    assert [each.tolist() for each in returns.values()] == [[60.0] * 10] * 3


def test_whole_games_count_with_their_score():
    gym.register("LivesForTests-v0", Lives)
    try:
        returns = random_returns(["LivesForTests-v0"], 20)["LivesForTests-v0"]
    finally:
        del gym.registry["LivesForTests-v0"]
    assert returns.tolist() == [60.0] * 20


class Endless(Lives):
    def step(self, action):
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_a_game_that_never_ends_is_named_in_place_of_being_played_for_ever(monkeypatch):
    monkeypatch.setattr(random_policy, "LONGEST", 50)
    gym.register("EndlessForTests-v0", Endless)
    try:
        with pytest.raises(ValueError, match=r"within .*=50, got one of EndlessForTests-v0 that"):
            random_returns(["EndlessForTests-v0"], 20)
    finally:
        del gym.registry["EndlessForTests-v0"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_a_file_of_returns_with_what_is_no_number_is_refused(tmp_path, value):
    path = tmp_path / "random.json"
    path.write_text(json.dumps({"Breakout": [1.0] * 9 + [value]}))
    with pytest.raises(ValueError, match=r"random.json must hold the finite returns of 10"):
        read_returns(path, ("Breakout",), episodes=10)


class Forbidding(Lives):
    """Ends the episode, and is lost, at an action that it forbids."""

    action_space = spaces.Discrete(3)
    mask = np.array([True, False, False])

    def action_masks(self):
        return self.mask

    def step(self, action):
        if not self.mask[action]:
            return np.zeros(2, np.float32), -100.0, True, False, {}
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps % 4 == 0, False, {}


@pytest.mark.parametrize(("algorithm", "is_lost"), [("PPO", True), ("MaskablePPO", False)])
def test_what_is_forbidden_is_drawn_only_where_the_algorithm_would(algorithm, is_lost):
    pytest.importorskip("sb3_contrib")
    gym.register("ForbiddingForTests-v0", Forbidding)
    try:
        found = random_returns(["ForbiddingForTests-v0"], 20, algorithm=algorithm)
    finally:
        del gym.registry["ForbiddingForTests-v0"]
    returns = found["ForbiddingForTests-v0"].tolist()
    assert (min(returns) < 0) == is_lost
    assert is_lost or returns == [4.0] * 20
