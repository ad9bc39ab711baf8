"""MinAtar's games against gymnax itself, one at a time; alone and in a batch."""

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("gymnax", reason="needs the minatar extra")

import gymnax
import jax

from sb3_moe_envs.vector.batched import color_channels
from sb3_moe_envs.vector.gymnax import NO_OP_MAX, MinAtarEnv, MinAtarVectorEnv

COPIES = 8


def play_one_copy(game, seed, actions):
    """Play gymnax with no batching: the observations, rewards, flags and final observations."""
    env, params = gymnax.make(f"{game}-MinAtar", use_minimal_action_set=False)
    key, reset_key = jax.random.split(jax.random.PRNGKey(seed))
    observation, state = env.reset_env(reset_key, params)
    rows = [(np.array(observation), 0.0, False, False, None)]
    for action in actions:
        key, step_key = jax.random.split(key)
        observation, state, reward, terminated, _ = env.step_env(step_key, state, action, params)
        truncated, last = bool(env.is_truncated(state, params)), None
        if terminated or truncated:
            last = np.array(observation)
            key, reset_key = jax.random.split(key)
            observation, state = env.reset_env(reset_key, params)
        rows.append((np.array(observation), float(reward), bool(terminated), truncated, last))
    return rows


def test_each_copy_plays_what_gymnax_plays_alone_with_its_seed():
    world = MinAtarVectorEnv("Breakout", 3, no_op_max=0)
    actions = np.random.default_rng(0).integers(6, size=(60, 3))
    alone = [play_one_copy("Breakout", 7 + i, actions[:, i]) for i in range(3)]
    observations, _ = world.reset(seed=7)
    ends = 0
    for t in range(60):
        for i in range(3):
            np.testing.assert_array_equal(observations[i], alone[i][t][0])
        observations, rewards, terminated, truncated, infos = world.step(actions[t])
        for i in range(3):
            _, reward, ended, cut, last = alone[i][t + 1]
            assert (rewards[i], terminated[i], truncated[i]) == (reward, ended, cut)
            if last is not None:
                ends += 1
                np.testing.assert_array_equal(infos["final_obs"][i], last)
    assert ends >= 3


def test_a_time_limit_truncates_and_does_not_terminate():
    world = MinAtarVectorEnv("Asterix", 2, params={"max_steps_in_episode": 5})
    start, _ = world.reset(seed=0)
    for t in range(1, 6):
        observations, _, terminated, truncated, infos = world.step(np.zeros(2, int))
        assert not terminated.any()
        assert truncated.tolist() == [t == 5] * 2
        assert ("final_obs" in infos) == (t == 5)
    assert not np.array_equal(np.stack(list(infos["final_obs"])), observations)
    assert not np.array_equal(observations, start)
    assert world.step(np.zeros(2, int))[3].tolist() == [False, False]


def test_rendering_gives_one_picture_a_copy():
    world = MinAtarVectorEnv("Breakout", 2, render_mode="rgb_array")
    world.reset(seed=0)
    frames = world.render()
    assert [frame.shape for frame in frames] == [(160, 160, 3)] * 2
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) >= 4
    assert MinAtarVectorEnv("Breakout", 2).render() is None
    assert MinAtarEnv("Breakout").render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, r"`num_envs` must be at least 1, got 0"),
        ({"render_mode": "human"}, r"`render_mode` must be None or 'rgb_array', got 'human'"),
        ({"no_op_max": -1}, "`no_op_max` must be at least 0, got -1"),
    ],
)
def test_a_bad_argument_is_named_with_its_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        MinAtarVectorEnv(**({"game": "Breakout", "num_envs": 2} | arguments))


def test_a_bad_call_is_refused():
    world = MinAtarVectorEnv("Breakout", 2)
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) on MinAtarVectorEnv"):
        world.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=r"`seed` must hold num_envs=2 seeds, got 3"):
        world.reset(seed=[1, 2, 3])
    world.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must have shape \(2,\), got \(3,\)"):
        world.step(np.zeros(3, int))
    with pytest.raises(ValueError, match=r"actions must be in \[0, 6\), got \[0.  1.7\]"):
        world.step(np.array([0, 1.7]))
    with pytest.raises(ValueError, match=r"actions must be in \[0, 6\), got \[0 6\]"):
        world.step(np.array([0, 6]))


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
        results.append([*step[:4], *jax.tree.leaves(world.state_dict()["running"])])
    assert worlds[0]._program is worlds[1]._program
    assert worlds[0]._program._compiled_step._cache_size() == 1
    for ten, three, again in zip(*results, strict=True):
        np.testing.assert_array_equal(ten[:3], three)
        np.testing.assert_array_equal(again, three)


def test_choices_have_the_names_of_the_actions_they_are():
    names = ["nothing", "left", "up", "right", "down", "fire"]
    assert MinAtarEnv("Breakout").get_action_meanings() == names


def distinct(observations):
    return len({observation.tobytes() for observation in observations})


def plain_starts(game, num_no_ops):
    """Play no-ops by hand, in many copies: what each sees after 0, 1, ... of them."""
    world = MinAtarVectorEnv(game, 64, no_op_max=0)
    seen = [world.reset(seed=0)[0]]
    seen += [world.step(np.zeros(64, int))[0] for _ in range(num_no_ops)]
    return {observation.tobytes() for batch in seen for observation in batch}


def test_each_start_is_seen_when_playing_no_ops_by_hand():
    game = "SpaceInvaders"
    # An episode that ends during them is followed by the next one.
    possible = plain_starts(game, NO_OP_MAX)
    world = MinAtarVectorEnv(game, COPIES)
    starts = [
        observation for seed in range(0, 800, 100) for observation in world.reset(seed=seed)[0]
    ]
    assert {start.tobytes() for start in starts} <= possible
    assert distinct(starts) > 4


def test_a_state_from_before_the_first_reset_is_restored_too():
    played, fresh = (MinAtarVectorEnv("Breakout", 2) for _ in range(2))
    state = fresh.state_dict()
    played.reset(seed=1)
    played.load_state_dict(state)
    np.testing.assert_array_equal(played.reset()[0], fresh.reset()[0])


def test_no_ops_count_not_as_steps():
    world = MinAtarVectorEnv("SpaceInvaders", COPIES)
    world.reset(seed=0)
    assert not np.asarray(world._states.time).any()
