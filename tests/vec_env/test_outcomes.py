"""What an episode comes to, success or the score of a whole game; actions drawn at random."""

from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from tiny import Steps

from sb3_moe.callbacks import MultiTaskEvalCallback, TaskRolloutCallback, evaluate_tasks
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.evaluating import game_return, is_lost_life, random_player
from sb3_moe_envs import Cycle, Interleave, Task


class Passing(Steps):
    """Four steps, of which the second alone reports what it is told to."""

    length = 4

    def __init__(self, **report):
        self.report = report

    def info(self):
        return dict(self.report if self.steps == 2 else dict.fromkeys(self.report, False))


class Fixed:
    """A model that takes the same actions whatever it sees."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def predict(self, obs, state=None, episode_start=None, deterministic=False):
        return self.rng.integers(18, size=len(episode_start)), state


def make_env():
    tasks = [
        Task("success", env_fn=lambda: Passing(success=1.0)),
        Task("is_success", env_fn=lambda: Passing(is_success=True)),
        Task("both", env_fn=lambda: Passing(success=False, is_success=np.True_)),
        Task("never", env_fn=lambda: Passing(success=0.0)),
        Task("silent", env_fn=Passing),
    ]
    return make_multitask_vec_env(tasks, 5, seed=0)


RATES = [1.0, 1.0, 1.0, 0.0, np.nan]


def two_tasks(n_envs, schedule):
    tasks = [Task("one", env_fn=Passing), Task("two", env_fn=Passing)]
    return make_multitask_vec_env(tasks, n_envs, seed=0, schedule=schedule)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: two_tasks(2, Interleave("episodes")), "one task, .*, but environment 0 did not"),
        (lambda: two_tasks(1, Cycle(9)), r"every task have one, but \['two'\] has none"),
        (lambda: DummyVecEnv([Passing]), "must be monitored: wrap it in SB3's VecMonitor"),
        (Passing, "`env` must be a VecEnv, got Passing: use"),
    ],
)
def test_an_environment_in_which_not_every_task_can_be_evaluated_is_refused(build, message):
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate_tasks(Fixed(), build(), 2)


def test_an_episode_succeeds_if_any_step_does_and_the_rates_are_logged_and_kept(tmp_path):
    model = PPO("MultiInputPolicy", make_env(), n_steps=16, batch_size=80, n_epochs=1)
    callback = MultiTaskEvalCallback(10_000, 2, log_path=tmp_path)
    model.learn(0)
    model.logger.dump = lambda step: None  # a log that is never written keeps what it is told
    model.set_logger(model.logger)
    model.learn(80, callback=[callback, TaskRolloutCallback()])
    logged = model.logger.name_to_value
    for name, rate in zip(("success", "is_success", "both", "never"), RATES, strict=False):
        assert logged[f"eval/{name}/success_rate"] == rate
        assert logged[f"rollout/{name}/success_rate"] == rate
    assert not {"eval/silent/success_rate", "rollout/silent/success_rate"} & set(logged)
    with np.load(tmp_path / "scores.npz") as saved:
        np.testing.assert_array_equal(saved["successes"][0].mean(1), RATES)


def lone(success):
    """Build a world of one task, which reports this at its second step."""
    task = Task("lone", env_fn=lambda: Passing(success=success))
    return make_multitask_vec_env([task], 1, seed=0)


def test_an_environment_that_is_put_in_has_no_success_of_the_episode_before():
    callback = TaskRolloutCallback()
    model = PPO("MultiInputPolicy", lone(1.0), n_steps=3, batch_size=3, n_epochs=1)
    model.learn(3, callback)  # within its first episode, behind the step that succeeds
    model.set_env(lone(0.0))
    for _ in range(2):
        model.learn(3, callback, reset_num_timesteps=False)
    assert callback._episodes[0][-1][2] == 0


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"score": 3.0, "game_over": False, "of_atari": True}, True),
        ({"score": 3.0, "game_over": True, "of_atari": True}, False),
        ({"score": 3.0, "game_over": False}, False),
        ({"score": 3.0, "game_over": False, "of_atari": True, "TimeLimit.truncated": True}, False),
        ({"game_over": False}, False),
    ],
)
def test_only_what_reports_a_score_and_no_end_is_a_lost_life(info, expected):
    assert is_lost_life(info) == expected
    # A score of the user's own is none of Atari's.
    assert game_return({**info, "episode": {"r": 1.0}}) == (3.0 if "of_atari" in info else 1.0)


def atari_env(**kwargs):
    pytest.importorskip("ale_py", reason="needs the atari extra")
    game = "sb3_moe_envs:SB3MoE/Atari-Seaquest-v0"
    return make_multitask_vec_env([Task("Seaquest", game, {"num_threads": 1, **kwargs})], 1, seed=5)


def test_an_atari_game_counts_with_its_own_score_over_all_lives():
    clipped = evaluate_tasks(Fixed(), atari_env(), 2)
    whole = evaluate_tasks(Fixed(), atari_env(episodic_life=False, clip_reward=False), 2)
    np.testing.assert_array_equal(clipped.returns, whole.returns)
    np.testing.assert_array_equal(clipped.lengths, whole.lengths)
    assert clipped.returns.max() >= 20


class ThreeLives(Passing):
    """Twelve steps, of which every fourth costs a life; the first step of all succeeds."""

    length = 12

    @property
    def ale(self):
        return self

    def lives(self):
        return 3 - self.steps // 4

    def info(self):
        return {"is_success": self.steps == 1}


def test_a_game_in_sb3s_own_atari_wrappers_is_played_over_all_lives():
    env = DummyVecEnv([lambda: EpisodicLifeEnv(Monitor(ThreeLives()))] * 2)
    episodes = evaluate_tasks(Fixed(), env, 3)
    # SB3's reset after a lost life is one of the twelve steps.
    assert episodes.returns.tolist() == [[12.0] * 3]
    assert episodes.lengths.tolist() == [[12.0] * 3]
    assert episodes.successes.tolist() == [[1.0] * 3]


def drawn(space, *masks, times=60):
    space.seed(0)
    told = {"action_masks": [np.array(mask, dtype=bool) for mask in masks]}
    env = SimpleNamespace(num_envs=2, action_space=space, env_method=told.__getitem__)
    player = random_player(env, masked=True)
    actions = np.array([player.predict()[0] for _ in range(times)])
    assert all(space.contains(action) for step in actions for action in step)
    return [sorted({tuple(np.ravel(action).tolist()) for action in actions[:, k]}) for k in (0, 1)]


def test_each_copy_draws_what_its_own_mask_allows_in_every_entry():
    found = drawn(spaces.Discrete(4), [0, 1, 0, 1], [1, 0, 0, 0])
    assert found == [[(1,), (3,)], [(0,)]]
    found = drawn(spaces.MultiDiscrete([2, 3]), [0, 1, 1, 0, 1], [1, 0, 0, 1, 0])
    assert found == [[(1, 0), (1, 2)], [(0, 1)]]
    # Where nothing is allowed everything is drawn, as sb3-contrib's policies do.
    assert drawn(spaces.Discrete(2), [0, 0], [0, 1]) == [[(0,), (1,)], [(1,)]]


@pytest.mark.parametrize("masked", [False, True])
def test_the_generator_of_the_action_space_says_what_is_drawn(masked):
    env = make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], 4, seed=0)
    env.reset()
    player, draws = random_player(env, masked=masked), []
    for _ in range(2):
        env.action_space.seed(5)
        draws.append([player.predict()[0].tolist() for _ in range(5)])
    assert draws[0] == draws[1]
    env.close()
