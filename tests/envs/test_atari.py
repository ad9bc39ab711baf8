"""AtariVectorEnv against ale-py itself, and the episode for each life that SB3 has."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

pytest.importorskip("ale_py", reason="needs the atari extra")

from ale_py.vector_env import AtariVectorEnv as Ale

from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.evaluating import game_return, is_lost_life
from sb3_moe_envs.vector.atari import AtariEnv, AtariVectorEnv

STEPS = 300


def world(game="breakout", num_envs=2, **kwargs):
    return AtariVectorEnv(game, num_envs, num_threads=1, **kwargs)


def bare(game="breakout", num_envs=2):
    return Ale(
        game,
        num_envs,
        autoreset_mode=AutoresetMode.SAME_STEP,
        full_action_space=True,
        reward_clipping=False,
        num_threads=1,
    )


def actions(num_envs=2):
    return np.random.default_rng(0).integers(18, size=(STEPS, num_envs))


def test_frames_and_rewards_are_those_of_ale_py_and_each_lost_life_ends_an_episode():
    ours, theirs = world(clip_reward=False), bare()
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    lives = np.full(2, 5)
    scores, lost, over = np.zeros(2), 0, 0
    for action in actions():
        observations, rewards, terminated, _, infos = ours.step(action)
        expected = theirs.step(action)
        np.testing.assert_array_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        scores += rewards
        life_lost = (expected[4]["lives"] < lives) & ~expected[2]
        np.testing.assert_array_equal(terminated, expected[2] | life_lost)
        for i in np.flatnonzero(terminated):
            last = expected[4]["final_obs"] if expected[2][i] else expected[0]
            np.testing.assert_array_equal(infos["final_obs"][i], last[i])
            assert infos["final_info"]["score"][i] == scores[i]
            assert infos["final_info"]["game_over"][i] == expected[2][i]
        scores[expected[2]] = 0
        lives = expected[4]["lives"].copy()
        lost, over = lost + life_lost.sum(), over + expected[2].sum()
    assert lost > 4
    assert over >= 2


def test_rewards_are_clipped_to_their_sign_and_scores_are_not():
    clipped, raw = world("seaquest"), world("seaquest", clip_reward=False)
    assert clipped.reset(seed=0)[0].shape == raw.reset(seed=0)[0].shape == (2, 4, 84, 84)
    largest, totals, finals = 0, np.zeros(2), 0
    for action in actions():
        _, rewards, _, _, infos = clipped.step(action)
        unclipped = raw.step(action)[1]
        np.testing.assert_array_equal(rewards, np.sign(unclipped))
        largest = max(largest, unclipped.max())
        totals += unclipped
        for i in np.flatnonzero(infos.get("_final_info", ())):
            finals += 1
            assert infos["final_info"]["score"][i] == totals[i]
            totals[i] *= not infos["final_info"]["game_over"][i]
    assert largest >= 20
    assert finals


def test_a_frame_limit_truncates():
    ours = world("pong", max_frames=100)
    ours.reset(seed=0)
    for _ in range(25):
        *_, terminated, truncated, infos = ours.step(np.zeros(2, int))
    assert truncated.all()
    assert not terminated.any()
    assert infos["final_info"]["game_over"].all()
    assert not ours.step(np.zeros(2, int))[3].any()


def test_every_game_has_the_full_action_set_unless_told_otherwise():
    full, least = world("pong"), world("pong", full_action_space=False)
    assert full.single_action_space == gym.spaces.Discrete(18)
    assert full.get_action_meanings()[:3] == ["NOOP", "FIRE", "UP"]
    assert least.single_action_space == gym.spaces.Discrete(6)
    assert " ".join(least.get_action_meanings()) == "NOOP FIRE RIGHT LEFT RIGHTFIRE LEFTFIRE"


def test_the_single_environment_passes_gymnasiums_checker_and_reports_the_score():
    env = AtariEnv("breakout", render_mode="rgb_array", num_threads=1)
    check_env(env, skip_render_check=True)
    env.reset(seed=0)
    done = False
    while not done:
        *_, done, truncated, info = env.step(env.action_space.sample())
    assert set(info) == {"score", "game_over", "of_atari"}
    assert not truncated


def test_a_game_that_a_limit_of_steps_cuts_counts_with_its_score_so_far():
    task = ("sb3_moe_envs:SB3MoE/Atari-Breakout-v0", {"max_episode_steps": 150, "num_threads": 1})
    env = make_multitask_vec_env([task], 1, seed=0)
    env.reset()
    rng, score, infos = np.random.default_rng(0), 0.0, [{}]
    while not infos[0].get("TimeLimit.truncated"):
        score = 0.0 if infos[0].get("game_over") else score
        _, reward, _, infos = env.step(rng.integers(18, size=1))
        # Those of Breakout's lowest rows are 1 each, and aren't changed by clipping.
        score += reward[0]
    assert (infos[0]["score"], infos[0]["game_over"]) == (score, False)
    assert not is_lost_life(infos[0])
    assert game_return(infos[0]) == score > 0


def test_a_game_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"`game` must be one of \[.*'breakout'.*, got 'pacman3'"):
        AtariVectorEnv("pacman3")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([18, 0], r"actions must be in \[0, 18\), got \[18  0\]"),
        ([0, np.nan], r"actions must be in \[0, 18\), got \[ 0. nan\]"),
    ],
)
def test_an_action_that_no_game_has_is_refused_before_ale_py_hangs_on_it(wrong, message):
    ours = world("pong")
    ours.reset(seed=0)
    ours._ale.send = lambda actions: pytest.fail(f"{actions} were sent")
    with pytest.raises(ValueError, match=message):
        ours.step(np.array(wrong))
