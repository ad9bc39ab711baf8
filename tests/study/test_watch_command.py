import json
import re
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_moe
import sb3_moe_cli as cli
from sb3_moe.study.building import read_tasks
from sb3_moe.study.opened_agent import env_for
from sb3_moe_envs import SUITES
from sb3_moe_envs.spaces.interface import NamedId

TASKS = ["CartPole-v1", "Acrobot-v1"]


def main(words):
    return cli.main(["watch", *words])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    env = sb3_moe.make_multitask_vec_env(TASKS, seed=0)
    sizes = {"n_steps": 16, "batch_size": 32, "policy_kwargs": {"net_arch": [6], "num_experts": 2}}
    model = PPO("MoeMultiInputPolicy", env, seed=0, **sizes)
    sb3_moe.save(model, folder / "agent.moe")
    model.save(folder / "agent.zip")
    (folder / "page.moe").write_text("no model")
    return folder


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


@pytest.mark.parametrize("name", ["agent.moe", "agent.zip"])
def test_a_file_becomes_a_page(files, tmp_path, capsys, name):
    out = tmp_path / "page.html"
    trust = ["--trust"] if name.endswith(".zip") else []
    words = [str(files / name), "--tasks", *TASKS, "--without", "pi:1", "--max-steps", "5"]
    assert main([*words, "--out", str(out), *trust]) == 0
    assert "20 steps in" in capsys.readouterr().out
    data = data_of(out.read_text())
    assert data["tasks"] == ["CartPole", "Acrobot"]
    assert [run["label"] for run in data["runs"]] == [
        "the agent as it is",
        "without expert 1 of pi",
    ]


def test_a_film_shows_the_agent_as_it_is_and_says_so(files, tmp_path, capsys):
    words = [str(files / "agent.moe"), "--tasks", *TASKS, "--out", str(tmp_path / "x.gif")]
    assert main([*words, "--table", "2"]) == 2
    assert "must be left out where `--out` is a film" in capsys.readouterr().err


def test_a_router_of_ones_own_is_named_on_the_command_line(tmp_path, capsys):
    options = {"router": "own_parts:Tempered", "num_experts": 2, "net_arch": [4]}
    model = PPO("MoeMlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=options)
    sb3_moe.save(model, tmp_path / "own.moe")
    words = [str(tmp_path / "own.moe"), "--tasks", "CartPole-v1", "--max-steps", "5"]
    words += ["--out", str(tmp_path / "page.html")]
    assert main(words) == 2
    assert "'Tempered': ...} to say what that is" in capsys.readouterr().err
    assert main([*words, "--custom", "own_parts:Missing"]) == 2
    assert "`--custom` must be `package.module:name`" in capsys.readouterr().err
    assert main([*words, "--custom", "own_parts:Tempered"]) == 0


def cart_poles():
    return gym.make("CartPole-v1")


def other_poles():
    return gym.make("CartPole-v1", max_episode_steps=50)


def test_tasks_of_ones_own_are_named_on_the_command_line_as_in_a_studys_file(tmp_path):
    for tasks in ([cart_poles, other_poles], [cart_poles]):
        env = sb3_moe.make_multitask_vec_env(tasks, seed=0)
        kwargs = {"net_arch": [4]}
        model = PPO("MoeMultiInputPolicy", env, 1e-3, 8, 8, seed=0, policy_kwargs=kwargs)
        sb3_moe.save(model, tmp_path / "own.moe")
        words = [f"{__name__}:{each.__name__}" for each in reversed(tasks)]
        command = [str(tmp_path / "own.moe"), "--tasks", *words, "--max-steps", "5"]
        assert main([*command, "--out", str(tmp_path / "page.html")]) == 0
        names = data_of((tmp_path / "page.html").read_text())["tasks"]
        assert names == [each.__name__ for each in tasks]


def short_poles():
    env = gym.make("CartPole-v1")
    env.unwrapped.theta_threshold_radians = 1e-9  # which no id says: it ends at its first step
    return env


def test_what_ones_own_task_builds_is_played_for_an_agent_without_tasks_too(tmp_path):
    model = PPO("MoeMlpPolicy", DummyVecEnv([short_poles]), 1e-3, 8, 8, seed=0)
    sb3_moe.save(model, tmp_path / "own.moe")
    command = [str(tmp_path / "own.moe"), "--tasks", f"{__name__}:short_poles"]
    assert main([*command, "--out", str(tmp_path / "page.html")]) == 0
    data = data_of((tmp_path / "page.html").read_text())
    assert data["tasks"] == ["short_poles"]
    assert [track["steps"] for track in data["runs"][0]["tracks"]] == [1]


def test_tasks_are_played_in_the_models_order_whatever_the_lines(files, tmp_path):
    pages = []
    for tasks in (TASKS, TASKS[::-1]):
        words = [str(files / "agent.moe"), "--tasks", *tasks, "--max-steps", "5"]
        assert main([*words, "--out", str(tmp_path / "page.html")]) == 0
        pages.append(data_of((tmp_path / "page.html").read_text()))
    assert pages[0]["tasks"] == ["CartPole", "Acrobot"]
    assert pages[0] == pages[1]


OTHERS = r"`--tasks` must be those that .* trained on, \['CartPole', 'Acrobot'\], got"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.moe", "--tasks", "CartPole-v1", "MountainCar-v0"], OTHERS),
        (["agent.moe", "--tasks", f"[{__name__}:cart_poles, {{length: 3}}]"], "`--tasks` must be"),
        (["agent.moe"], "`--tasks` must name a suite or Gymnasium ids, got none"),
        (["agent.zip", "--tasks", *TASKS], "can run code when it is opened: say --trust"),
        (["agent.zip", "--tasks", *TASKS, "--trust", "--algorithm", "DQN"], "as a model of DQN"),
        (["agent.moe", "--tasks", *TASKS, "--out", "x.pdf"], "`--out` must end in .html, .gif or"),
        (["agent.moe", "--tasks", *TASKS, "--without", "pi:9"], "`expert` must be in .*, got 9"),
        (["page.moe", "--tasks", *TASKS], "page.moe"),
        (["none.moe", "--tasks", *TASKS], "No such file"),
        (["agent.moe", "--tasks", "None-v0"], "None"),
    ],
)
def test_a_wrong_word_is_one_line(files, capsys, words, message):
    name, *rest = words
    assert main([str(files / name), *rest]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(f"error: .*{message}", error)


@pytest.mark.parametrize("shown", ["dict", "onehot"])
def test_tasks_are_shown_as_the_model_saw_them(shown):
    seen = sb3_moe.make_multitask_vec_env(TASKS, task_id=shown).observation_space
    assert env_for(TASKS, seen).observation_space == seen


def test_games_of_a_study_go_by_its_names_and_by_their_ids():
    pytest.importorskip("gymnax", reason="needs the minatar extra")
    games = ["SpaceInvaders", "Breakout"]
    seen = sb3_moe.make_multitask_vec_env(read_tasks(games)).observation_space
    for typed in (games[::-1], [f"SB3MoE/MinAtar-{game}-v1" for game in games]):
        assert env_for(typed, seen).observation_space == seen


def test_a_single_task_is_a_plain_environment():
    env = env_for(["CartPole-v1"], gym.make("CartPole-v1").observation_space)
    assert env.spec.id == "CartPole-v1"
    with pytest.raises(ValueError, match="no way to show"):
        env_for(["CartPole-v1"], spaces.Box(0, 1, (2,), np.float32))


def test_a_world_that_cant_be_built_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)  # as if it were not installed
    names = [task.name for task in SUITES["MetaWorld/MT3"].tasks]
    seen = spaces.Dict({"obs": spaces.Box(-1, 1, (39,)), "task_id": NamedId(names)})
    with pytest.raises(ValueError, match=r"can't be built: .* pip install 'sb3-moe\[metaworld\]'"):
        env_for(["MetaWorld/MT3"], seen)


SHORT = [("CartPole-v1", {}), ("CartPole-v1", {"max_episode_steps": 50})]


def test_tasks_that_differ_in_their_arguments_are_written_as_in_a_studys_file():
    seen = sb3_moe.make_multitask_vec_env(SHORT).observation_space
    env = env_for(["[CartPole-v1, {max_episode_steps: 50}]", "CartPole-v1"], seen)
    assert env.get_attr("task_names")[0] == ["CartPole", "CartPole(max_episode_steps=50)"]
