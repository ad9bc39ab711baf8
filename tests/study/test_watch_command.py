import json
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

import sb3_moe
import sb3_moe_cli as cli
from sb3_moe.study.commands import _in_order, env_for
from sb3_moe.vec_env.tasks import write_names

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


def tasks_of(data):
    return [track["task"] for track in data["runs"][0]["tracks"]]


@pytest.mark.parametrize("name", ["agent.moe", "agent.zip"])
def test_a_file_becomes_a_page(files, tmp_path, capsys, name):
    out = tmp_path / "page.html"
    trust = ["--trust"] if name.endswith(".zip") else []
    words = [str(files / name), "--tasks", *TASKS, "--without", "pi:1", "--max-steps", "5"]
    assert main([*words, "--out", str(out), "--table", "1", *trust]) == 0
    assert "20 steps in" in capsys.readouterr().out
    data = data_of(out.read_text())
    assert tasks_of(data) == data["importance"]["tasks"] == ["CartPole", "Acrobot"]
    labels = [run["label"] for run in data["runs"]]
    assert labels == ["the agent as it is", "without expert 1 of pi"]


def test_statistics_beside_a_file_are_opened_only_with_trust(files, tmp_path, capsys):
    path = tmp_path / "agent.moe"
    path.write_bytes((files / "agent.moe").read_bytes())
    (tmp_path / "vec_normalize.pkl").touch()
    assert main([str(path), "--tasks", *TASKS]) == 2
    assert "vec_normalize.pkl can run code when it is opened: pass" in capsys.readouterr().err


def test_a_film_shows_the_agent_as_it_is_and_says_so(files, tmp_path, capsys):
    words = [str(files / "agent.moe"), "--tasks", *TASKS, "--out", str(tmp_path / "x.gif")]
    assert main([*words, "--table", "2"]) == 2
    assert "must be left out of a film, got x.gif" in capsys.readouterr().err


def test_a_router_of_ones_own_is_named_on_the_command_line(tmp_path, capsys):
    options = {"router": "own_parts:Tempered", "num_experts": 2, "net_arch": [4]}
    model = PPO("MoeMlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=options)
    sb3_moe.save(model, tmp_path / "own.moe")
    words = [str(tmp_path / "own.moe"), "--tasks", "CartPole-v1", "--max-steps", "5"]
    words += ["--out", str(tmp_path / "page.html")]
    assert main(words) == 2
    assert "in custom_objects={'Tempered': ...}" in capsys.readouterr().err
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
        assert tasks_of(data_of((tmp_path / "page.html").read_text())) == [
            each.__name__ for each in tasks
        ]


def test_tasks_are_played_in_the_models_order_whatever_the_lines(files, tmp_path):
    pages = []
    for tasks in (TASKS, TASKS[::-1]):
        words = [str(files / "agent.moe"), "--tasks", *tasks, "--max-steps", "5"]
        assert main([*words, "--out", str(tmp_path / "page.html")]) == 0
        pages.append(data_of((tmp_path / "page.html").read_text()))
    assert tasks_of(pages[0]) == ["CartPole", "Acrobot"]
    assert pages[0] == pages[1]


def test_an_agent_that_saw_a_history_is_shown_one():
    for kwargs in ({"history": 3}, {"history": 3, "task_id": "info"}):
        space = sb3_moe.make_multitask_vec_env(TASKS, **kwargs).observation_space
        assert env_for(TASKS, space).observation_space == space


OTHERS = r"`--tasks` must be those that .* trained on, \['CartPole', 'Acrobot'\], got"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent.moe", "--tasks", "CartPole-v1", "MountainCar-v0"], OTHERS),
        (["agent.moe", "--tasks", f"[{__name__}:cart_poles, {{length: 3}}]"], "`--tasks` must be"),
        (["agent.zip", "--tasks", *TASKS], "can run code when it is opened: pass --trust"),
        (["agent.zip", "--tasks", *TASKS, "--trust", "--algorithm", "DQN"], "as a model of DQN"),
        (["agent.moe", "--tasks", *TASKS, "--out", "x.pdf"], "`--out` must end in .html, .gif or"),
        (["agent.moe", "--tasks", *TASKS, "--without", "pi:9"], "`expert` must be in .*, got 9"),
        (["page.moe", "--tasks", *TASKS], "page.moe"),
    ],
)
def test_a_wrong_word_is_one_line(files, capsys, words, message):
    name, *rest = words
    assert main([str(files / name), *rest]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(f"error: .*{message}", error)


def test_tasks_stand_in_the_models_order_by_a_studys_short_names_too_and_a_suite_stays_one():
    space = spaces.Dict({"obs": spaces.Box(0, 1, (2,)), "task_id": spaces.Discrete(2)})
    write_names(space, ["Breakout", "Asterix"])
    found = _in_order(["SB3MoE/MinAtar-Asterix-v1", "Breakout"], space)
    assert [task.name for task in found] == ["Breakout", "Asterix"]
    suite = sb3_moe.make_multitask_vec_env("Classic/CartPole4").observation_space
    assert _in_order(["Classic/CartPole4"], suite) == "Classic/CartPole4"


def test_tasks_are_shown_as_the_model_saw_them_whatever_a_normalizer_made_of_the_space():
    for shown in ("dict", "onehot"):
        seen = sb3_moe.make_multitask_vec_env(TASKS, task_id=shown).observation_space
        assert env_for(TASKS, seen).observation_space == seen
    (name, _), numbers = TASKS, spaces.Box(-np.inf, np.inf, (4,))
    assert env_for([name], gym.make(name).observation_space).spec.id == name
    assert env_for([name], numbers).num_envs == 1
    with pytest.raises(ValueError, match=r"no way to show .* gives its observations"):
        env_for([name], spaces.Box(0, 1, (9,)))
    with pytest.raises(ValueError, match="action"):
        env_for([name, "Pendulum-v1"], numbers)
