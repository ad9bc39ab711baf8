"""The last steps of an episode beside its observation, in one environment and in many."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tiny import Steps

from sb3_moe_envs import AddHistory, History, MultiTaskEnv
from sb3_moe_envs.snapshot import restore, snapshot


class Counter(Steps):
    """Observe the step and its negative; the reward is ten times the step; three steps."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)

    def __init__(self, action_space=None, length=3):
        super().__init__(length)
        self.action_space = action_space or spaces.Discrete(2)

    def observe(self):
        return np.array([self.steps, -self.steps], np.float32)

    def reward(self, action):
        return 10.0 * self.steps


# Observation (2), action (2), reward, and whether the row is real.
PADDING = [0, 0, 0, 0, 0, 0]
START = [0, 0, 0, 0, 0, 1]
FIRST = [1, -1, 0, 1, 10, 1]  # action 1
SECOND = [2, -2, 1, 0, 20, 1]  # action 0
THIRD = [3, -3, 0, 1, 30, 1]  # action 1


def test_a_history_grows_from_padding_and_starts_again_with_each_episode():
    env = AddHistory(Counter(), length=3)
    obs, _ = env.reset(seed=0)
    assert obs["history"].dtype == np.float32
    assert obs["history"].tolist() == [PADDING, PADDING, START]
    seen = [env.step(action)[0] for action in (1, 0, 1)]
    assert seen[0]["history"].tolist() == [PADDING, START, FIRST]
    assert seen[1]["history"].tolist() == [START, FIRST, SECOND]
    assert seen[2]["history"].tolist() == [FIRST, SECOND, THIRD]
    np.testing.assert_array_equal(seen[2]["obs"], [3, -3])
    assert env.reset()[0]["history"].tolist() == [PADDING, PADDING, START]


@pytest.mark.parametrize(
    ("space", "action", "numbers"),
    [
        (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.Box(-1, 1, (2,)), np.array([0.5, -0.25], np.float32), [0.5, -0.25]),
    ],
)
def test_actions_are_one_hots_side_by_side_or_the_numbers_of_a_box(space, action, numbers):
    env = AddHistory(Counter(space), length=1)
    env.reset()
    assert env.step(action)[0]["history"].tolist() == [[1, -1, *numbers, 10, 1]]


@pytest.mark.parametrize("dictionary", [False, True], ids=["Box", "Dict"])
def test_last_observations_carry_the_finished_episodes_history(dictionary):
    def make(length):
        counter = partial(Counter, length=length)
        return AddHistory(MultiTaskEnv([counter]) if dictionary else counter(), length=3)

    env = SyncVectorEnv(
        [partial(make, 3), partial(make, 9)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    env.reset(seed=0)
    for action in (1, 0, 1):
        obs, _, terminated, _, infos = env.step(np.array([action, action]))
    assert terminated.tolist() == [True, False]
    assert obs["history"].tolist() == [[PADDING, PADDING, START], [FIRST, SECOND, THIRD]]
    assert infos["final_obs"][0]["history"].tolist() == [FIRST, SECOND, THIRD]
    assert obs in env.observation_space
    assert ("task_id" in obs) == dictionary


def test_without_an_environment_a_history_is_kept_by_hand():
    env = AddHistory(plain := Counter(), 3)
    history = History(plain.observation_space, plain.action_space, 3)
    shown = history.start(np.zeros(2))["history"]
    np.testing.assert_array_equal(shown, env.reset()[0]["history"])
    for action in (1, 0):
        obs, reward, *_ = env.step(action)
        np.testing.assert_array_equal(
            history.step(action, obs["obs"], reward)["history"], obs["history"]
        )


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is wrapped, and has no bounds
def test_it_is_rebuilt_from_its_spec_and_passes_gymnasiums_checks():
    env = AddHistory(gym.make("CartPole-v1"), length=4)
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space
    gymnasium_check(again, skip_render_check=True)


def test_the_state_goes_on_with_the_running_history():
    env = AddHistory(Counter(length=9), 3)
    env.reset()
    env.step(1)
    restored = restore(AddHistory(Counter(length=9), 3), snapshot(env))
    np.testing.assert_array_equal(restored.step(0)[0]["history"], env.step(0)[0]["history"])


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (spaces.Discrete(3), spaces.Discrete(2)),
        (spaces.Dict({"obs": spaces.Box(0, 1, (2,)), "else": spaces.Discrete(2)}),) * 2,
        (spaces.Box(0, 1, (2,)), spaces.MultiBinary(2)),
    ],
)
def test_what_has_no_history_is_refused(observations, actions):
    with pytest.raises(ValueError, match="a history needs"):
        History(observations, actions, 2)
