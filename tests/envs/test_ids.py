"""Registered ids: each passes both checkers in each way to show the task, and builds by name."""

import importlib.util
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from sb3_moe_envs import SUITES, MultiTaskEnv, get_suite, make_multitask_vector, register_suite
from sb3_moe_envs.suites import IDS, tasks_of
from sb3_moe_envs.tasks import Task

EXTRAS = {"MinAtar": "gymnax", "Atari": "ale_py", "MuJoCo": "mujoco", "Hop": "mujoco",
          "HalfC": "mujoco", "MetaWorld": "metaworld", "Conflict-Breakout": "gymnax",
          "ConflictingBreakout": "gymnax", "ShuffledBreakout": "gymnax"}  # fmt: skip
IMAGES = ("MinAtar", "Atari", "Conflict-Breakout", "ConflictingBreakout", "Plasticity")
SUITE_IDS = {f"{name.replace('/', '-')}-v0": name for name in SUITES}
# These are checked in each way to show the task; `make test-full` checks all ids.
IN_EACH_WAY = ("Classic-Mixed3-v0", "Conflict-Breakout2-v0")
QUICK = ("CartPole-v0", "Pendulum-v0", "MinAtar-Breakout-v1", "Atari-Pong-v0", "Atari-Two-v0",
         "Hopper-v0", "ConflictingCartPole-v0", "ShuffledBreakout-v0", "MuJoCo-Four-v0",
         "Physics-Pendulum4-v0", "Goal-CartPole4-v0", "MinAtar-CRL3-v0",
         "MetaWorld-MT3-v0")  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes its warnings into the working directory."""
    monkeypatch.chdir(tmp_path)


def need_extra(name):
    needed = [module for prefix, module in EXTRAS.items() if name.startswith(prefix)]
    for module in ["envpool"] if "EnvPool" in name else needed:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}, which isn't installed")


def marks(name):
    if name in ("Atari-v0", "EnvPool-v0"):
        return pytest.mark.skip(reason="it needs the name of a game")
    return [] if name in (*IN_EACH_WAY, *QUICK) else [pytest.mark.full]


def cases():
    found = []
    for name in IDS:
        shown = "channels" if name.startswith(IMAGES) else "onehot"
        modes = ("dict", shown, "info", "none") if name in IN_EACH_WAY else (None,)
        found += [pytest.param(name, mode, marks=marks(name)) for mode in modes]
    return found


@pytest.mark.covering
# Some of Meta-World's goals lie at one height.
@pytest.mark.filterwarnings("ignore:.*maximum and minimum values are equal")
@pytest.mark.parametrize(("name", "task_id"), cases())
def test_each_id_passes_the_checkers_of_gymnasium_and_sb3(name, task_id):
    need_extra(name)
    kwargs = {} if task_id is None else {"task_id": task_id}
    env = gym.make(f"sb3_moe_envs:SB3MoE/{name}", **kwargs)
    # Pictures of classic control and MuJoCo need a screen; those of MinAtar and Atari don't.
    no_screen = not name.startswith(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on bounds and image sizes
        gymnasium_check(env.unwrapped, skip_render_check=no_screen)
        sb3_check(env.unwrapped)
    env.close()


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SUITE_IDS])
def test_each_suite_builds_as_a_vector_environment_by_its_id(name):
    need_extra(name)
    num_envs = len(get_suite(SUITE_IDS[name]))
    env = gym.make_vec(f"sb3_moe_envs:SB3MoE/{name}", num_envs=num_envs)
    obs, infos = env.reset(seed=0)
    assert obs in env.observation_space
    assert infos["task_id"].shape == (num_envs,)
    assert repr(env).startswith("MultiTaskVectorEnv")
    env.close()


def test_an_environment_can_be_built_again_from_its_spec():
    env = gym.make("sb3_moe_envs:SB3MoE/Classic-Pendulum4-v0", task_id="onehot")
    again = gym.make(gym.spec("SB3MoE/Classic-Pendulum4-v0"), task_id="onehot")
    assert again.observation_space == env.observation_space
    assert env.spec.make().observation_space == env.observation_space


def test_a_suite_of_ones_own_is_one_line(monkeypatch):
    monkeypatch.setattr("sb3_moe_envs.suites.SUITES", dict(SUITES))
    tasks = ["CartPole-v1", ("Acrobot-v1", {"max_episode_steps": 9})]
    register_suite("Mine/Two", tasks, lambda progress: "Acrobot")
    env = MultiTaskEnv("Mine/Two")
    env.reset(seed=0)
    assert env.task_names == ["CartPole", "Acrobot"]
    assert env.get_task() == 1
    with pytest.raises(ValueError, match="`name` must be new, got 'Mine/Two'"):
        register_suite("Mine/Two", ["CartPole-v1"])


@pytest.mark.parametrize("build", [MultiTaskEnv, make_multitask_vector])
def test_a_task_that_steps_all_copies_at_once_takes_a_limit_of_steps(build):
    env = build([("sb3_moe_envs:SB3MoE/ConflictingCartPole-v0", {"max_episode_steps": 3})])
    env.reset(seed=0)
    for steps in (1, 2, 3):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert (np.any(terminated), np.any(truncated)) == (False, steps == 3)


def test_tasks_have_names_of_their_own():
    def my_task():
        return gym.make("CartPole-v1")

    tasks = tasks_of(
        [
            "CartPole-v1",
            "sb3_moe_envs:SB3MoE/CartPole-v0",
            ("Pendulum-v1", {"g": 5.0}),
            ("Pendulum-v1", {"g": 9.8}),
            my_task,
            lambda: my_task(),
            Task("named", "CartPole-v1"),
            ("SB3MoE/Atari-v0", {"game": "carnival"}),
        ]
    )
    assert [task.name for task in tasks] == [
        "CartPole", "CartPole#2", "Pendulum(g=5.0)", "Pendulum(g=9.8)", "my_task", "task5", "named",
        "Atari-carnival",
    ]  # fmt: skip


def test_gravity_is_a_multiple_of_the_usual():
    need_extra("MuJoCo")
    pulls = [
        float(task.make().unwrapped.model.opt.gravity[2])
        for task in get_suite("MuJoCo/HopperGravity4")
    ]
    assert pulls == pytest.approx([-4.905, -7.3575, -9.81, -14.715])


@pytest.mark.parametrize(
    ("env_id", "kwargs", "message"),
    [
        ("CartPole", {"colour": 1}, r"the physics must be among \['gravity', .*got 'colour'"),
        ("Pendulum", {"gravity": 1}, r"the physics must be among \['g', 'm', 'l'\], got 'gravity'"),
        ("Hopper", {"gravity": 0}, "`gravity` must be positive, got 0"),
        ("CartPole", {"length": 0.0}, r"`length` must be positive, got 0\.0"),
        ("CartPole", {"masscart": -1}, r"`masscart \+ masspole` must be positive, got -0\.9"),
        ("Pendulum", {"m": 0}, "`m` must be positive, got 0"),
    ],
)
def test_physics_that_do_not_exist_are_refused(env_id, kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make(f"SB3MoE/{env_id}-v0", **kwargs)


def played(task, steps=4):
    """Return observations and rewards of one episode's start, with the same actions everywhere."""
    env = task.make()
    obs, _ = env.reset(seed=0)
    env.action_space.seed(0)
    seen = [env.step(env.action_space.sample())[:2] for _ in range(steps)]
    observations, rewards = zip((obs, 0.0), *seen, strict=True)
    return np.array(observations), np.array(rewards, dtype=float)


def test_the_first_cartpole_is_the_usual_one_and_another_has_three_times_its_pole():
    earth, _, long, _ = get_suite("Classic/CartPole4")
    usual = played(Task("usual", "CartPole-v1"))
    for seen, expected in zip(played(earth), usual, strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    assert long.make().unwrapped.polemass_length == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("suite", "num_tasks"),
    [("Classic/CartPole4", 4), ("Physics/CartPole8", 8), ("Physics/Pendulum4", 4)],
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
