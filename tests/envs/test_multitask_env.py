"""One environment with several tasks: switches, seeds, ids and what infos say."""

from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from counting import CountingEnv, counting_tasks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, Task

ID = "sb3_moe_envs:SB3MoE/Classic-CartPole4-v0"


def never_ending(num_tasks=2):
    """Tasks whose episodes end by a switch alone."""

    class Endless(CountingEnv):
        def step(self, action):
            obs, reward, _, _, info = super().step(action)
            return obs, reward, False, False, info

    def build(tag):
        return lambda: Endless(tag=tag, size=1 + tag, num_actions=1 + tag)

    return [Task(f"t{tag - 1}", env_fn=build(tag)) for tag in range(1, num_tasks + 1)]


def test_a_switch_truncates_with_the_old_tasks_terminal_observation():
    env = MultiTaskEnv(never_ending(), schedule=Cycle(3))
    env.reset(seed=0)
    flags = [env.step(0)[2:4] for _ in range(2)]
    obs, _, terminated, truncated, info = env.step(0)
    assert flags == [(False, False)] * 2
    assert (terminated, truncated) == (False, True)
    assert type(truncated) is bool
    assert obs["task_id"] == info["task_id"] == 0
    assert info["task_name"] == "t0"
    assert obs["obs"][:2].tolist() == [1, 3]  # the old task's tag and its third step
    assert obs["obs"][2] == 0  # padding, as in all its observations
    obs, info = env.reset()
    assert obs["task_id"] == info["task_id"] == 1
    assert info["task_name"] == "t1"


def test_schedules_and_tasks_draw_from_streams_of_their_own():
    # The same seed, other schedules: task 0 plays the same episodes in both.
    def noise_of_first_episodes(schedule):
        env = MultiTaskEnv(counting_tasks(1), schedule=schedule)
        return [env.reset(seed=3 if i == 0 else None)[0]["obs"].tolist() for i in range(4)]

    by_turns = noise_of_first_episodes(Interleave("episodes"))
    assert noise_of_first_episodes(Interleave("episodes", order="random")) == by_turns
    np.random.seed(0)
    assert noise_of_first_episodes(Interleave("episodes")) == by_turns


def suite_id(**kwargs):
    return partial(gym.make, ID, schedule=Cycle(40), **kwargs)


def play(env, steps):
    env.reset()
    for _ in range(steps):
        env.step(np.zeros(env.num_envs, int))


def test_environments_that_know_how_many_they_are_count_over_all_of_them():
    told = [
        make_vec_env(suite_id(), n_envs=4, env_kwargs={"num_envs": 4}),
        DummyVecEnv([suite_id(num_envs=4, env_index=i) for i in range(4)]),
    ]
    for env in told:
        play(env, 10)
        assert [schedule.task for schedule in env.get_attr("schedule")] == [1] * 4
    env = gym.make_vec(ID, num_envs=4, schedule=Cycle(40))
    play(env, 10)
    assert env.unwrapped.get_task().tolist() == [1] * 4
    env = make_multitask_vec_env("Classic/CartPole4", 4, schedule=Cycle(40))
    play(env, 10)
    assert env.env_method("get_task") == [1] * 4


def test_a_reset_before_any_step_stays_with_the_task_and_one_after_moves_on():
    env = MultiTaskEnv(counting_tasks(3), schedule=Interleave("episodes"))
    assert [env.reset()[1]["task_id"] for _ in range(3)] == [0, 0, 0]
    env.step(0)
    assert env.reset()[1]["task_id"] == 1


def test_set_task_takes_effect_at_the_next_reset_and_the_schedule_stands_still():
    env = MultiTaskEnv(never_ending(), schedule=Cycle(3))
    env.reset(seed=0)
    env.step(0)
    env.set_task("t1")
    assert env.get_task() == 0
    env.reset()
    assert env.get_task() == 1
    assert not any(env.step(0)[3] for _ in range(10))
    env.set_task(None)
    env.reset()
    assert env.get_task() == 0
    assert [env.step(0)[3] for _ in range(2)] == [False, True]  # one step of three was played


def test_options_choose_the_task_of_one_episode_and_pass_the_rest_on():
    env = MultiTaskEnv(counting_tasks(3))
    options = {"task_id": 2, "level": 7}
    assert env.reset(seed=0, options=options)[1]["task_id"] == 2
    assert env._envs[2].unwrapped.options == {"level": 7}
    assert options == {"task_id": 2, "level": 7}
    assert env.reset()[1]["task_id"] == 0


def test_a_hidden_id_shows_in_no_observation_and_no_mask():
    tasks = [lambda: CountingEnv(tag=1), lambda: CountingEnv(tag=1, num_actions=3)]
    env = MultiTaskEnv(tasks, task_id="none", schedule=Interleave("episodes"))
    seen = []
    for task in range(2):
        obs, _ = env.reset(seed=0, options={"task_id": task})
        assert obs.shape == (3,)
        seen.append((obs[:2].tolist(), env.action_masks().tolist()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("tasks", "options", "error", "message"),
    [
        ([], {}, ValueError, "`tasks` must hold at least one task"),
        (3, {}, TypeError, "`tasks` must be a suite's name or a list"),
        ([3], {}, TypeError, r"`tasks\[0\]` must be a Gymnasium id"),
        (["NoSuchEnv-v0"], {}, ValueError, r"`tasks\[0\]` \('NoSuchEnv'\) can't .*: NameNotFound"),
        ([CountingEnv], {"schedule": 3}, TypeError, "`schedule` must be"),
    ],
)
def test_bad_input_is_refused_with_the_argument_the_rule_and_the_value(
    tasks, options, error, message
):
    with pytest.raises(error, match=message):
        MultiTaskEnv(tasks, **options)


def test_a_task_that_there_is_not_is_refused():
    env = MultiTaskEnv([CountingEnv])
    with pytest.raises(ValueError, match=r"`task` must name a task of \['Count.*, got 'other'"):
        env.set_task("other")
    with pytest.raises(ValueError, match=r"`task_id` must be in \[0, num_tasks=1\), got 1"):
        env.reset(options={"task_id": 1})
