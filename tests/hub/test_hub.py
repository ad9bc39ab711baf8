"""The folder for the Hub: what is in it, what its card says, and that it is uploaded whole."""

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import own_parts
import pytest
import torch as th
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_moe
import sb3_moe_cli
from sb3_moe.hub import push, write_folder
from sb3_moe.hub.card import card, metadata
from sb3_moe.hub.folder import check_folder
from sb3_moe.hub.results import Results
from sb3_moe.vec_env.evaluating import TaskEpisodes
from sb3_moe.vec_env.tasks import suite_of
from sb3_moe_cli import console_script
from sb3_moe_envs import MultiTaskEnv

# The tests before it may have loaded jax, which warns of forks.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

TASKS = ["CartPole-v1", ("SB3MoE/CartPole-v0", {"gravity": 1.62})]
SMALL = {"episodes": 2, "max_steps": 5}
CONFIG = {
    "algorithm": "PPO",
    "num_timesteps": 64,
    "versions": {"sb3_moe": "1"},
    "description": "parts",
}


@pytest.fixture(scope="module")
def model():
    env = sb3_moe.make_multitask_vec_env(TASKS, n_envs=2, seed=0)
    return PPO("MoeMultiInputPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return write_folder(model, tmp_path_factory.mktemp("hub") / "new", **SMALL, repo_id="me/agent")


def head_of(text):
    _, above, _ = text.split("---\n", 2)
    return yaml.safe_load(above)


def results(names=("one", "two"), returns=((1.0, 3.0), (2.0, 2.0))):
    returns = np.array(returns)
    played = TaskEpisodes(returns, 10 * np.abs(returns), np.full(returns.shape, np.nan))
    return Results(list(names), played, deterministic=True)


def test_the_folder_holds_the_agent_and_all_that_is_said_of_it(folder, model):
    names = {each.name for each in folder.iterdir()} - {"replay.mp4", "replay.gif"}
    assert names == {"README.md", "model.moe", "config.json", "results.json", "replay.html"}
    loaded = sb3_moe.load(folder / "model.moe", device="cpu")
    obs = model.get_env().reset()
    found, wanted = (each.predict(obs, deterministic=True)[0] for each in (loaded, model))
    np.testing.assert_array_equal(found, wanted)
    config = json.loads((folder / "config.json").read_text())
    assert config["policy"] == "MoeMultiInputPolicy"
    assert config["cost"]["parameters"] == sum(p.numel() for p in model.policy.parameters())


def test_a_card_says_which_classes_of_its_makers_the_agent_needs(tmp_path):
    options = {"router": "own_parts:Tempered", "num_experts": 2, "net_arch": [4]}
    model = PPO("MoeMlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=options)
    folder = write_folder(model, tmp_path / "own", episodes=1, max_steps=2)
    text = (folder / "README.md").read_text()
    assert "from own_parts import Tempered\n" in text
    assert 'load("model.moe", custom_objects={"Tempered": Tempered})' in text
    config = json.loads((folder / "config.json").read_text())
    assert config["custom_objects"] == ["own_parts:Tempered"]


def test_a_card_says_that_observations_were_normalised(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 1))
    model = PPO("MoeMlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]})
    folder = write_folder(model, tmp_path / "own", episodes=1, max_steps=2)
    text = (folder / "README.md").read_text()
    assert "# Observations were normalised: `env`, of the same tasks, takes the statistics" in text
    assert 'sb3_moe.load("model.moe", env)' in text


def test_a_model_without_an_environment_takes_the_statistics_of_the_one_it_is_played_on(tmp_path):
    env = VecNormalize(make_vec_env("CartPole-v1", 1))
    PPO("MoeMlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [4]}).learn(
        64
    ).save(tmp_path / "agent.zip")
    model = PPO.load(tmp_path / "agent.zip", device="cpu")
    before = env.obs_rms.mean.copy()
    folder = write_folder(model, tmp_path / "own", env, episodes=1, max_steps=2)
    assert json.loads((folder / "config.json").read_text())["normalised"] is True
    assert 'sb3_moe.load("model.moe", env)' in (folder / "README.md").read_text()
    loaded = sb3_moe.load(folder / "model.moe", make_vec_env("CartPole-v1", 1), device="cpu")
    np.testing.assert_array_equal(loaded.get_vec_normalize_env().obs_rms.mean, before)
    assert before.any()


class OwnNormalize(VecNormalize):
    pass


@pytest.mark.parametrize("name", ["model", "env"])
def test_statistics_that_no_file_holds_are_refused_before_anything_is_played(name, tmp_path):
    env = OwnNormalize(make_vec_env("CartPole-v1", 1))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    if name == "env":
        model.env = None
    rule = rf"^`{name}` must be normalised by VecNormalize or .* holds, got OwnNormalize$"
    with pytest.raises(ValueError, match=rule):
        write_folder(model, tmp_path / "new", env)
    assert not (tmp_path / "new").exists()
    env.norm_obs = False
    written = write_folder(model, tmp_path / "new", env, episodes=1, max_steps=2)
    assert sb3_moe.load(written / "model.moe", device="cpu").num_timesteps == 0


@pytest.mark.parametrize("used", [False, True])
def test_an_environment_that_can_not_be_played_leaves_the_folder_as_it_was(used, tmp_path):
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    files = {}
    if used:
        write_folder(agent, tmp_path / "new", episodes=1, max_steps=2)
        files = {each.name: each.read_bytes() for each in (tmp_path / "new").iterdir()}
    env = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match=r"^`env` must be monitored: wrap it in SB3's VecMonitor$"):
        write_folder(agent, tmp_path / "new", env, episodes=1)
    assert (tmp_path / "new").exists() is used
    assert all((tmp_path / "new" / name).read_bytes() == data for name, data in files.items())


def test_a_file_in_the_folders_place_is_named_before_anything_is_played(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^`folder` must be a folder, got the file .*/file$"):
        write_folder(model, tmp_path / "file")


@pytest.mark.parametrize(
    ("module", "file", "line"),
    [
        ("__main__", "/home/me/train.py", "from train import Tempered"),
        ("__main__", None, "# Tempered is its maker's own"),
    ],
)
def test_a_class_of_a_script_is_imported_from_its_file(module, file, line, tmp_path, monkeypatch):
    monkeypatch.setattr(own_parts.Tempered, "__module__", module)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    options = {"router": own_parts.Tempered, "num_experts": 2, "net_arch": [4]}
    model = PPO("MoeMlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=options)
    text = (
        write_folder(model, tmp_path / "own", episodes=1, max_steps=2) / "README.md"
    ).read_text()
    assert f"{line}\n" in text


def test_there_is_a_film_where_there_are_pictures(folder):
    assert "film" in (folder / "README.md").read_text()
    assert [each for each in folder.iterdir() if each.stem == "replay" and each.suffix != ".html"]


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.moe", "replay.gif"])
def test_files_of_other_origin_are_not_written_over(name, model, tmp_path):
    (tmp_path / name).write_text("mine")
    text = rf"`folder` must be a folder of its own, or an earlier card's, .* whose {name} would be"
    with pytest.raises(ValueError, match=text):
        write_folder(model, tmp_path, episodes=1, max_steps=2)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_links_and_folders_where_a_card_has_files_are_left_alone(model, tmp_path):
    card_folder = write_folder(model, tmp_path / "card", episodes=1, max_steps=2)
    mine = tmp_path / "notes.md"
    mine.write_text("mine")
    (card_folder / "README.md").unlink()
    (card_folder / "README.md").symlink_to(mine)
    before = (card_folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"`folder` must have plain .* README\.md is a link$"):
        write_folder(model, card_folder)
    assert mine.read_text() == "mine"
    (card_folder / "README.md").unlink()
    (card_folder / "replay.gif").unlink(missing_ok=True)
    (card_folder / "replay.gif").mkdir()
    with pytest.raises(ValueError, match=r"`folder` must have plain .* replay\.gif is a folder$"):
        write_folder(model, card_folder)
    assert (card_folder / "config.json").read_bytes() == before
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"`folder` must be a folder, got the file .*nowhere"):
        write_folder(model, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"`folder` must be a folder that can .* got .*nowhere"):
        write_folder(model, tmp_path / "nowhere" / "within")


def test_a_config_that_is_nested_without_end_is_no_cards(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"whose config\.json would be lost"):
        check_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none on this system")
def test_what_is_no_plain_file_is_not_called_a_folder(model, tmp_path):
    write_folder(model, tmp_path, episodes=1, max_steps=2)
    (tmp_path / "README.md").unlink()
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(ValueError, match=r"README\.md is no plain file$"):
        check_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are none on this system")
def test_a_pipe_in_the_place_of_a_config_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"whose config\.json would be lost"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "zero\0"])
def test_a_name_that_no_folder_can_have_is_refused_before_anything_is_played(name, tmp_path):
    with pytest.raises(ValueError, match=r"`folder` must be a folder that can be written, got .*"):
        check_folder(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_film_stops_showing_what_stopped_being_drawn(model, tmp_path, monkeypatch):
    render = CartPoleEnv.render

    def breaks(env):
        if env.steps_beyond_terminated is None and abs(env.state[0]) > 0.05:
            raise OSError("no screen")
        return render(env)

    write_folder(model, tmp_path / "whole", episodes=1, max_steps=60)
    monkeypatch.setattr(CartPoleEnv, "render", breaks)
    write_folder(model, tmp_path / "part", episodes=1, max_steps=60)
    films = [{each.name for each in (tmp_path / name).iterdir()} for name in ("whole", "part")]
    assert films[0] == films[1]


def test_a_place_that_cant_be_written_is_named_before_anything_is_played(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"`folder` must be a folder that can be written, got .*/fi"
    ):
        write_folder(model, tmp_path / "file" / "new")


def test_a_film_of_another_agent_does_not_stay(model, tmp_path, monkeypatch):
    write_folder(model, tmp_path, episodes=1, max_steps=2)
    for name in ("replay.mp4", "replay.gif"):
        (tmp_path / name).write_bytes(b"another's")
    monkeypatch.setattr("sb3_moe.hub.folder.find_spec", lambda name: None)  # nothing draws
    write_folder(model, tmp_path, episodes=1, max_steps=2)
    assert {each.name for each in tmp_path.glob("replay.*")} == {"replay.html"}


def test_the_card_says_what_the_results_say(folder):
    head = head_of((folder / "README.md").read_text())
    said = json.loads((folder / "results.json").read_text())
    assert head["library_name"] == "stable-baselines3"
    assert "mixture-of-experts" in head["tags"]
    (index,) = head["model-index"]
    for each in index["results"]:
        means = said["tasks"][each["dataset"]["name"]]
        value = f"{means['mean_reward']:.2f} +/- {means['std_reward']:.2f}"
        assert each["metrics"][0]["value"] == value
    assert 'hf_hub_download("me/agent", "model.moe")' in (folder / "README.md").read_text()


def test_means_are_those_of_the_episodes():
    said = results().to_json()
    assert said["tasks"]["one"] == {"mean_reward": 2.0, "std_reward": 1.0, "mean_ep_length": 20.0}
    assert (said["mean_reward"], said["n_eval_episodes"]) == (2.0, 2)


def test_the_hub_reads_the_cards_metadata(folder):
    cards = pytest.importorskip("huggingface_hub").ModelCard
    found = cards.load(folder / "README.md").data
    assert found.model_name == "PPO"
    assert {each.metric_type for each in found.eval_results} == {"mean_reward"}
    assert len(found.eval_results) == 2


def test_a_suites_card_is_named_after_it_and_the_table_has_its_tasks():
    ours = replace(results(), suite="Classic/CartPole4")
    head = metadata("PPO", True, ours, "mit")
    text = card(CONFIG, ours, head, ["model.moe"], None)
    assert "\n# PPO with a mixture of experts playing **Classic/CartPole4**\n" in text
    assert "| one | 2.00 |" in text
    assert "| two | 2.00 |" in text
    assert head["tags"][:3] == ["Classic/CartPole4", "one", "two"]
    assert [each["dataset"] for each in head["model-index"][0]["results"]] == [
        {"name": "one", "type": "Classic/CartPole4/one"},
        {"name": "two", "type": "Classic/CartPole4/two"},
    ]
    assert ours.to_json()["suite"] == "Classic/CartPole4"


def test_a_card_of_tasks_that_are_no_suite_is_named_after_them():
    ours = results()
    text = card(CONFIG, ours, metadata("PPO", False, ours, "mit"), ["model.moe"], None)
    assert "\n# PPO playing **one**, **two**\n" in text
    assert ours.to_json()["suite"] is None


SUITE_ID = "sb3_moe_envs:SB3MoE/Classic-CartPole4-v0"


@pytest.mark.parametrize(
    ("build", "suite"),
    [
        (lambda: sb3_moe.make_multitask_vec_env("Classic/CartPole4"), "Classic/CartPole4"),
        (
            lambda: VecNormalize(sb3_moe.make_multitask_vec_env("Classic/Mixed3"), norm_obs=False),
            "Classic/Mixed3",
        ),
        (lambda: make_vec_env(SUITE_ID, 4, env_kwargs={"num_envs": 4}), "Classic/CartPole4"),
        (lambda: sb3_moe.make_multitask_vec_env(TASKS), None),
        (lambda: DummyVecEnv([lambda: MultiTaskEnv(TASKS)]), None),
        (lambda: make_vec_env("CartPole-v1"), None),
    ],
)
def test_an_environment_says_which_suite_it_plays(build, suite):
    env = build()
    assert suite_of(env) == suite
    env.close()


def test_a_name_of_any_characters_is_one_name():
    names = ["a|b", 'quote" \\ # : - {x}\n---\nend', "é" * 300]
    ours = results(names, ((1.0, 1.0),) * 3)
    text = card(CONFIG, ours, metadata("PPO", True, ours, "mit"), ["model.moe"], None)
    assert [each["dataset"]["name"] for each in head_of(text)["model-index"][0]["results"]] == names
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(names)
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}


def test_a_dense_agent_of_a_single_task_goes_by_its_id(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu", buffer_size=100)
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    write_folder(model, tmp_path, episodes=1, max_steps=2)
    th.testing.assert_close(th.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    head = head_of((tmp_path / "README.md").read_text())
    assert head["tags"][0] == "CartPole-v1"
    assert "mixture-of-experts" not in head["tags"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"episodes": 0}, ValueError, "`episodes` must be at least 1, got 0"),
        ({"episodes": 2.5}, TypeError, "`episodes` must be an int, got 2.5"),
        ({"max_steps": 0}, ValueError, "`max_steps` must be at least 1, got 0"),
        ({"deterministic": "no"}, TypeError, "`deterministic` must be a bool, got 'no'"),
        ({"license": ""}, ValueError, "`license` must not be empty"),
        ({"repo_id": 3}, TypeError, "`repo_id` must be a str, got 3"),
        ({"repo_id": "a"}, ValueError, "`repo_id` must be 'user/name', got 'a'"),
        ({"repo_id": 'a/b")#'}, ValueError, "`repo_id` must be 'user/name', got"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_written(
    model, tmp_path, arguments, error, message
):
    with pytest.raises(error, match=message):
        write_folder(model, tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_policy_is_no_model(model, tmp_path):
    with pytest.raises(TypeError, match="`model` must be an SB3 model, got a MoeMultiInputPolicy"):
        write_folder(model.policy, tmp_path)


def test_a_policy_that_can_not_be_watched_is_refused_before_anything_is_written(tmp_path):
    agent = ARS("LinearPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(TypeError, match=r"`policy` must be of a known family .* got ARSLinear"):
        write_folder(agent, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_card_is_not_uploaded(tmp_path):
    with pytest.raises(ValueError, match=r"`folder` must have a README\.md"):
        push(tmp_path, "me/agent")


@pytest.mark.parametrize("repo_id", ["", "agent", "me/agent\n", "a/b/c"])
def test_a_repository_is_named_with_its_user(folder, repo_id):
    with pytest.raises(ValueError, match="`repo_id` must"):
        push(folder, repo_id)


def test_uploading_says_what_it_needs(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"huggingface_hub: pip install 'sb3-moe\[hub\]'"):
        push(folder, "me/agent")


def test_the_whole_folder_is_uploaded_by_the_hubs_own_library(folder, monkeypatch):
    calls = []

    class HfApi:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **kwargs):
            calls.append((repo_id, kwargs))

        def upload_folder(self, **kwargs):
            calls.append(kwargs)
            return "where it is"

    stub = SimpleNamespace(HfApi=HfApi, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    assert push(folder, "me/agent", private=True, token="secret") == "where it is"
    assert calls == [
        ("token", "secret"),
        ("me/agent", {"private": True, "exist_ok": True}),
        {
            "repo_id": "me/agent",
            "folder_path": str(folder),
            "commit_message": "Upload an agent",
        },
    ]


def test_the_command_writes_the_folder_of_a_file(folder, tmp_path, capsys):
    words = ["--tasks", "Classic/CartPole4", "--episodes", "1", "--max-steps", "2"]
    assert (
        sb3_moe_cli.main(["card", str(folder / "model.moe"), *words[:1], "CartPole-v1", *words[2:]])
        == 2
    )
    assert "`--tasks` must be those that the model was trained on" in capsys.readouterr().err
    out = tmp_path / "out"
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", n_envs=4, seed=0)
    agent = PPO("MoeMultiInputPolicy", env, n_steps=8, batch_size=8, seed=0, device="cpu")
    sb3_moe.save(agent, tmp_path / "agent.moe")
    assert sb3_moe_cli.main(["card", str(tmp_path / "agent.moe"), *words, "--out", str(out)]) == 0
    assert "playing **Classic/CartPole4**\n" in (out / "README.md").read_text()
    assert json.loads((out / "config.json").read_text())["suite"] == "Classic/CartPole4"
    assert set(json.loads((out / "results.json").read_text())["tasks"]) == {
        "Earth", "Moon", "LongPole", "WeakMotor",
    }  # fmt: skip


def test_the_command_asks_for_tasks(folder, capsys):
    assert sb3_moe_cli.main(["card", str(folder / "model.moe")]) == 2
    assert "`--tasks` must name a suite or Gymnasium ids, got none" in capsys.readouterr().err


def test_the_script_knows_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3-moe", "card", "agent.moe"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match="2"):
        console_script()
    assert "`--tasks` must name a suite" in capsys.readouterr().err
