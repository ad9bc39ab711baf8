"""GymnasiumVecEnv against SB3's DummyVecEnv, and the multi-task call that builds it."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from tiny import Steps

from sb3_moe.vec_env import GymnasiumVecEnv, make_multitask_vec_env
from sb3_moe.vec_env.tasks import suite_of
from sb3_moe_envs import Cycle, Interleave

TASKS = ["CartPole-v1", "Acrobot-v1"]


def short_cart_pole(limit=15, render_mode=None):
    return TimeLimit(gym.make("CartPole-v1", render_mode=render_mode).unwrapped, limit)


def sync(env_fns, mode=AutoresetMode.SAME_STEP, **kwargs):
    return SyncVectorEnv(env_fns, autoreset_mode=mode, **kwargs)


class TwoTasks(VectorEnv):
    """Two slots on tasks that change at every end; slot 1 ends at every third step."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    num_envs = 2
    task_names = ("left", "right")
    mark = 0
    single_observation_space = gym.spaces.Dict(
        {"obs": gym.spaces.Box(-1, 1, (2,)), "task_id": gym.spaces.Discrete(2)}
    )
    single_action_space = gym.spaces.Discrete(2)

    def get_action_meanings(self):
        return ["stay", "go"]

    def __init__(self):
        self.task = np.array([0, 1])
        self.time = 0
        self.calls = []

    def observation(self):
        return {"obs": np.full((2, 2), self.time / 100, np.float32), "task_id": self.task.copy()}

    def reset(self, *, seed=None, options=None):
        self.calls.append((seed, options))
        self.time = 0
        return self.observation(), {"task_id": self.task.copy()}

    def step(self, actions):
        self.time += 1
        done = np.array([False, self.time % 3 == 0])
        last = self.observation()
        info = {}
        if done.any():
            final = {"task_id": self.task.copy(), "lives": np.array([3, 0])}
            info = {"final_obs": last, "final_info": final}
            self.task[1] = 1 - self.task[1]
        info |= {"task_id": self.task.copy(), "lives": np.array([3, 5])}
        return self.observation(), np.ones(2), np.zeros(2, bool), done, info

    def get_task(self):
        return self.task.copy()

    def set_task(self, task, indices=None):
        self.task[slice(None) if indices is None else indices] = task

    def paint(self, color):
        """Take an argument, and no indices."""

    def state_dict(self):
        return {"task": self.task.copy(), "time": self.time}

    def load_state_dict(self, state):
        self.task, self.time = state["task"].copy(), state["time"]


def test_it_steps_ends_and_starts_again_exactly_as_dummy_vec_env():
    ours = GymnasiumVecEnv(sync([short_cart_pole] * 3))
    theirs = DummyVecEnv([short_cart_pole] * 3)
    for env in (ours, theirs):
        env.seed(5)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    kinds = set()
    for actions in np.random.default_rng(0).integers(2, size=(90, 3)):
        obs, rewards, dones, infos = ours.step(actions)
        expected_obs, expected_rewards, expected_dones, expected_infos = theirs.step(actions)
        np.testing.assert_array_equal(obs, expected_obs)
        np.testing.assert_array_equal(dones, expected_dones)
        assert rewards.dtype == expected_rewards.dtype
        np.testing.assert_array_equal(rewards, expected_rewards)
        for info, expected in zip(infos, expected_infos, strict=True):
            last, expected_last = (i.pop("terminal_observation", None) for i in (info, expected))
            np.testing.assert_array_equal(last, expected_last)
            assert info == expected
            assert type(info["TimeLimit.truncated"]) is bool
            kinds.add((last is not None, info["TimeLimit.truncated"]))
    assert kinds == {(False, False), (True, False), (True, True)}


def test_the_task_in_an_info_is_the_one_that_made_the_step():
    env = GymnasiumVecEnv(TwoTasks())
    env.reset()
    for t in range(1, 7):
        _, _, dones, infos = env.step(np.zeros(2, int))
        assert infos[0]["task_id"] == 0
        assert infos[0]["task_name"] == "left"
        assert infos[1]["task_id"] == (1 if t <= 3 else 0)
        assert infos[1]["task_name"] == ("right" if t <= 3 else "left")
        assert type(infos[1]["task_id"]) is int
        assert dones.tolist() == [False, t % 3 == 0]
        if t == 3:  # what is said at the end is of the episode that ended
            last = infos[1]["terminal_observation"]
            np.testing.assert_allclose(last["obs"], [0.03, 0.03])
            assert (last["task_id"], infos[1]["lives"], infos[0]["lives"]) == (1, 0, 3)
            assert "terminal_observation" not in infos[0]
            assert env.reset_infos[1] == {"task_id": 0, "lives": 5}


class Forgetful(TwoTasks):
    """Tells the task in the infos of steps, and not where an episode starts."""

    def reset(self, **kwargs):
        return super().reset(**kwargs)[0], {}

    def step(self, actions):
        made = self.task.copy()
        *result, done, info = super().step(actions)
        info |= {"task_id": made, "_task_id": ~done}
        if done.any():
            info["final_info"]["task_id"] = made
        return *result, done, info


def test_a_task_that_only_steps_tell_is_that_of_each_step():
    env = GymnasiumVecEnv(Forgetful())
    env.reset()
    told = [env.step(np.zeros(2, int))[3][1]["task_id"] for _ in range(7)]
    assert told == [1, 1, 1, 0, 0, 0, 1]


def test_one_seed_reaches_a_vector_environment_as_one_number_and_once():
    base = TwoTasks()
    env = GymnasiumVecEnv(base)
    env.seed(7)
    env.set_options({"task_id": 1})
    env.reset()
    env.reset()
    assert base.calls == [(7, {"task_id": 1}), (None, None)]
    env.set_options([{"task_id": 0}, {"task_id": 1}])
    with pytest.raises(ValueError, match="options must be the same for all environments"):
        env.reset()


def test_methods_and_attributes_of_a_vector_environment_are_dealt_out():
    env = VecMonitor(GymnasiumVecEnv(VectorWrapper(TwoTasks())))
    assert env.get_attr("task_names") == [("left", "right")] * 2
    assert env.env_method("get_task") == [0, 1]
    assert env.env_method("get_task", indices=[1]) == [1]
    assert env.env_method("get_action_meanings") == [["stay", "go"]] * 2
    env.env_method("set_task", 1, indices=[0])
    assert env.env_method("get_task") == [1, 1]
    env.env_method("set_task", 0)
    assert env.env_method("get_task") == [0, 0]
    with pytest.raises(ValueError, match=r"`indices` of paint must be None.*got \[0\]"):
        env.env_method("paint", "red", indices=[0])
    assert env.has_attr("get_task")
    assert not env.has_attr("action_masks")
    env.set_attr("mark", 3)
    assert env.get_attr("mark", indices=1) == [3]
    with pytest.raises(ValueError, match=r"`indices` of set_attr must be None.*got \[0\]"):
        env.set_attr("mark", 4, indices=0)


@pytest.mark.parametrize("schedule", [None, Interleave("episodes")])
def test_what_no_task_would_hear_of_is_refused(schedule):
    env = make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], 2, schedule=schedule)
    with pytest.raises(AttributeError, match=r"`set_attr` reaches no task: .* 'gravity'"):
        env.set_attr("gravity", 3.0)


def test_members_of_a_sync_vector_are_reached_one_by_one():
    env = GymnasiumVecEnv(sync([lambda: Monitor(short_cart_pole())] * 2))
    env.set_attr("gravity", 3.0, indices=[1])
    assert env.get_attr("gravity") == [9.8, 3.0]
    assert env.env_method("get_wrapper_attr", "gravity", indices=1) == [3.0]
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(RecordEpisodeStatistics, indices=[0]) == [False]


def test_pictures_are_tiled_and_absent_without_a_render_mode():
    env = GymnasiumVecEnv(sync([Picture] * 2))
    env.reset()
    assert env.render_mode == "rgb_array"
    assert env.render().shape == (8, 4, 3)
    assert [image.shape for image in env.get_images()] == [(4, 4, 3)] * 2
    assert GymnasiumVecEnv(TwoTasks()).render_mode is None


class Picture(Steps):
    render_mode = "rgb_array"

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)


def test_a_restored_environment_goes_on_and_a_reset_starts_new_episodes():
    env, resumed = GymnasiumVecEnv(TwoTasks()), GymnasiumVecEnv(TwoTasks())
    env.reset()
    for _ in range(4):
        env.step(np.zeros(2, int))
    resumed.load_state_dict(env.state_dict())
    _, _, _, infos = resumed.step(np.zeros(2, int))
    assert infos[1]["task_name"] == "left"
    assert infos == env.step(np.zeros(2, int))[3]
    resumed.reset()
    assert len(resumed.env.calls) == 1


def test_another_autoreset_mode_is_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"AutoresetMode.SAME_STEP, .* got .*NEXT_STEP"):
        GymnasiumVecEnv(sync([short_cart_pole] * 2, AutoresetMode.NEXT_STEP))


def tasks():
    return ["CartPole-v1", ("CartPole-v1", {"sutton_barto_reward": True}), "Acrobot-v1"]


def test_one_call_builds_a_monitored_vec_env_with_one_environment_per_task():
    env = make_multitask_vec_env(tasks(), seed=0)
    assert isinstance(env, VecMonitor)
    assert env.num_envs == env.get_attr("num_tasks")[0] == 3
    assert env.observation_space["task_id"] == gym.spaces.Discrete(3)
    assert env.env_method("get_task") == [0, 1, 2]
    env.reset()
    episodes = []
    for _ in range(60):
        infos = env.step(np.zeros(3, int))[3]
        assert [info["task_id"] for info in infos] == [0, 1, 2]
        episodes += [info["episode"] for info in infos if "episode" in info]
    names = env.get_attr("task_names")[0]
    assert {episode["task_name"] for episode in episodes} == set(names[:2])
    returns = {name: {e["r"] for e in episodes if e["task_name"] == name} for name in names[:2]}
    assert min(returns[names[0]]) > 5
    assert returns[names[1]] == {-1.0}


def test_an_environment_knows_the_suite_that_it_was_made_of():
    assert suite_of(make_multitask_vec_env("Classic/Pendulum4")) == "Classic/Pendulum4"
    assert suite_of(DummyVecEnv([lambda: gym.make("CartPole-v1")])) is None


@pytest.mark.parametrize("kind", [str, Path])
def test_the_monitors_file_says_whose_each_episode_is(tmp_path, kind):
    keywords = {"info_keywords": ("task_id",)}  # one's own stand beside ours
    folder = kind(tmp_path / "logs")
    env = make_multitask_vec_env(tasks()[:1], 2, 0, monitor_dir=folder, monitor_kwargs=keywords)
    env.reset()
    for _ in range(30):
        env.step(np.zeros(2, int))
    env.close()
    lines = (tmp_path / "logs" / "monitor.csv").read_text().splitlines()
    assert lines[1] == "r,l,t,task_id,task_name"
    assert lines[2].endswith(",0,CartPole")


@pytest.mark.parametrize(
    ("asked", "options", "error", "message"),
    [
        (TASKS, {"n_env": 2}, TypeError, "argument 'n_env'"),
        (TASKS, {"schedule": Cycle}, TypeError, r"a Schedule \(not its class\), .*, got <class"),
        ("MinAtar/MTRL", {}, ValueError, r"got 'MinAtar/MTRL'; did you mean 'MinAtar/MTRL3'\?"),
        ("zz", {}, ValueError, "got 'zz'; there are Atari/Five"),
        ("CartPole-v1", {}, ValueError, r"ids .* stand in a list, \['CartPole-v1'\]$"),
    ],
)
def test_a_wrong_argument_is_named_with_what_may_be_meant(asked, options, error, message):
    with pytest.raises(error, match=message):
        make_multitask_vec_env(asked, **options)
