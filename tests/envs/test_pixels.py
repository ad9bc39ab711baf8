"""Pictures whose pixels are elsewhere: worked out by hand, and played as the plain game is."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env as sb3_check

from sb3_moe_envs import get_suite, make_multitask_vector
from sb3_moe_envs.pixels import Shuffle, ShufflePixels, shuffled_breakouts
from sb3_moe_envs.suites import suite_schedule

PICTURE = spaces.Box(0, 1, (2, 3, 2), np.uint8)


class Pictures(gym.Env):
    """Shows one picture of numbered pixels."""

    observation_space = spaces.Box(0, 255, (2, 3, 2), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, **kwargs):
        return np.arange(12, dtype=np.uint8).reshape(2, 3, 2), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def test_pixels_go_where_the_numbers_order_says_and_channels_stay_together():
    shuffle = Shuffle(PICTURE, 1)
    picture = np.arange(12).reshape(2, 3, 2)
    shown = shuffle.observation(picture).reshape(6, 2)
    assert sorted(shuffle.order) == list(range(6)) != list(shuffle.order)
    for place, pixel in enumerate(shuffle.order):
        np.testing.assert_array_equal(shown[place], [2 * pixel, 2 * pixel + 1])
    np.testing.assert_array_equal(
        shuffle.observation(np.stack([picture, picture]))[1], shuffle.observation(picture)
    )


def test_the_orders_are_what_they_always_were():
    assert Shuffle(PICTURE, 0).order.tolist() == [0, 1, 2, 3, 4, 5]
    assert Shuffle(PICTURE, 1).order.tolist() == [0, 3, 5, 4, 2, 1]
    orders = {tuple(Shuffle(spaces.Box(0, 1, (10, 10, 4), np.uint8), k).order) for k in range(10)}
    assert len(orders) == 10


def test_a_wrapped_environment_passes_sb3s_checker_and_shows_each_picture_the_same_way():
    env = ShufflePixels(Pictures(), shuffle=3)
    sb3_check(env)
    first, _ = env.reset()
    np.testing.assert_array_equal(env.step(0)[0], first)
    assert not np.array_equal(first, Pictures().reset()[0])


def test_copies_play_what_the_plain_game_plays_with_pixels_elsewhere():
    pytest.importorskip("gymnax")
    plain, moved = shuffled_breakouts(2)
    worlds = [make_multitask_vector([task], 3, task_id="none") for task in (plain, moved)]
    shuffle = Shuffle(worlds[0].single_observation_space, 1)
    (ours, _), (theirs, _) = (world.reset(seed=1) for world in worlds)
    endings = 0
    for step in range(40):
        np.testing.assert_array_equal(shuffle.observation(ours), theirs)
        actions = np.array([step % 2, 1, 3])
        (ours, *said, infos), (theirs, *heard, others) = (world.step(actions) for world in worlds)
        np.testing.assert_equal(said, heard)
        for last, its in zip(infos.get("final_obs", ()), others.get("final_obs", ()), strict=True):
            if last is not None:
                endings += 1
                np.testing.assert_array_equal(shuffle.observation(last), its)
    assert endings > 0


def test_the_suite_plays_ten_orders_one_after_the_other():
    tasks = get_suite("Plasticity/Breakout10")
    assert [task.kwargs["shuffle"] for task in tasks] == list(range(10))
    assert suite_schedule("Plasticity/Breakout10").steps_per_task == 131_072


def test_more_orders_go_on_from_any_number():
    assert shuffled_breakouts(3, first=7) == shuffled_breakouts(10)[7:]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: Shuffle(spaces.Discrete(3), 1),
            TypeError,
            "observations must be a Box .*Discrete",
        ),
        (lambda: Shuffle(PICTURE, -1), ValueError, "`shuffle` must be at least 0, got -1"),
        (lambda: Shuffle(PICTURE, 0.5), ValueError, "`shuffle` must be a whole number, got 0.5"),
        (lambda: shuffled_breakouts(0), ValueError, "`num_tasks` must be at least 1, got 0"),
        (lambda: shuffled_breakouts(2, -1), ValueError, "`first` must be at least 0, got -1"),
    ],
    ids=["space", "negative", "broken", "none", "first"],
)
def test_what_is_no_permutation_of_a_picture_is_named(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_pixels_with_bounds_of_their_own_stay_where_they_are():
    low = np.zeros((1, 2, 1), np.float32)
    space = spaces.Box(low, low + np.array([[[1.0], [2.0]]], np.float32))
    with pytest.raises(TypeError, match="observations must have the same bounds at every pixel"):
        Shuffle(space, 1)
