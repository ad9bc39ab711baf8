"""The single MinAtar environment: checkers, pictures, and the same play as the vector world."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("gymnax", reason="needs the minatar extra")

from sb3_moe_envs.vector.batched import color_channels
from sb3_moe_envs.vector.gymnax import MinAtarEnv, MinAtarVectorEnv


def test_one_environment_plays_what_its_slot_of_a_world_plays():
    world, env = MinAtarVectorEnv("Breakout", 2), MinAtarEnv("Breakout")
    batch, _ = world.reset(seed=4)
    observation, _ = env.reset(seed=5)
    episodes = 0
    for action in np.random.default_rng(0).integers(6, size=80):
        np.testing.assert_array_equal(observation, batch[1])
        batch, rewards, terminated, truncated, infos = world.step(np.array([0, action]))
        observation, *rest, info = env.step(action)
        assert rest == [rewards[1], terminated[1], truncated[1]]
        assert [type(x) for x in rest] == [float, bool, bool]
        if terminated[1] or truncated[1]:
            episodes += 1
            np.testing.assert_array_equal(observation, infos["final_obs"][1])
            observation, info = env.reset()
        assert info == {}
    assert episodes >= 2


def test_a_step_after_the_end_asks_for_a_reset():
    env = MinAtarEnv("Breakout")
    env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before step\(\)"):
        env.step(0)


def test_a_picture_has_a_colour_a_channel_and_the_first_channel_on_top():
    observation = np.zeros((2, 3, 2), np.uint8)
    observation[0, 0, 0] = observation[1, 2, 1] = 1
    observation[0, 1] = 1
    picture = color_channels(observation)
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    first, second, third = picture[0, 0], picture[31, 47], picture[31, 0]
    assert not np.array_equal(first, second)
    assert third.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(picture[0, 16], first)


def test_fewer_copies_take_what_is_compiled_for_a_few_more():
    # Of these arguments, so that no other test has compiled it.
    worlds = [MinAtarVectorEnv("Breakout", n, params={"max_steps_in_episode": 77}) for n in (10, 3)]
    worlds.append(MinAtarVectorEnv("Breakout", 3, params={"max_steps_in_episode": 77}))
    results = []
    for world in worlds:
        world.reset(seed=5)
        step = world.step(np.full(world.num_envs, 3))
        results.append([*step[:4], world.observations, *world.state_dict()["states"]])
    assert worlds[0]._program is worlds[1]._program
    assert worlds[0]._program._compiled_step._cache_size() == 1
    for ten, three, again in zip(*results, strict=True):
        np.testing.assert_array_equal(ten[:3], three)
        np.testing.assert_array_equal(again, three)


def test_choices_have_the_names_of_the_actions_they_are():
    names = ["nothing", "left", "up", "right", "down", "fire"]
    assert MinAtarEnv("Breakout").get_action_meanings() == names
    least = MinAtarEnv("Breakout", use_minimal_action_set=True)
    assert least.get_action_meanings() == ["nothing", "left", "right"]
    assert len(least.get_action_meanings()) == least.action_space.n
