"""The folder for the Hub: what is in it, what its card says, and that it is uploaded whole."""

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

import numpy as np
import own_parts
import pytest
import yaml
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_moe
from sb3_moe.integrations.hub import check_folder, write_folder

# The tests before it may have loaded jax, which warns of forks.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
NEEDS_HUB = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs the hub extra")

TASKS = ["CartPole-v1", ("SB3MoE/CartPole-v0", {"gravity": 1.62})]
FEW = {"episodes": 1, "max_steps": 2}


def small(policy="MoeMlpPolicy", env="CartPole-v1", **options):
    kwargs = {"net_arch": [4], **options} if policy.startswith("Moe") else {}
    arguments = {"n_steps": 8, "batch_size": 8, "seed": 0, "device": "cpu"}
    return PPO(policy, env, policy_kwargs=kwargs, **arguments)


def multitask():
    return sb3_moe.make_multitask_vec_env(TASKS, n_envs=2, seed=0)


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the Hub's library, whose cards are then empty."""
    found = mock.Mock(__spec__=SimpleNamespace())
    found.ModelCard.from_template.return_value.save = lambda path: path.write_text("")
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    return found


@pytest.fixture(scope="module")
def model():
    return small("MoeMultiInputPolicy", multitask())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    pytest.importorskip("huggingface_hub", reason="needs the hub extra")
    new = tmp_path_factory.mktemp("hub") / "new"
    return write_folder(model, new, episodes=2, max_steps=5, repo_id="me/agent")


def read(folder, name):
    text = (folder / name).read_text()
    return json.loads(text) if name.endswith(".json") else text


def test_the_folder_holds_the_agent_and_all_that_is_said_of_it(folder, model):
    names = {each.name for each in folder.iterdir()}
    films = names & {"replay.mp4", "replay.gif"}
    assert names - films == {
        *("README.md", "model.moe", "config.json", "results.json", "replay.html")
    }
    assert len(films) == 1
    loaded = sb3_moe.load(folder / "model.moe", device="cpu")
    obs = model.get_env().reset()
    found, wanted = (each.predict(obs, deterministic=True)[0] for each in (loaded, model))
    np.testing.assert_array_equal(found, wanted)
    config = read(folder, "config.json")
    assert config["policy"] == "MoeMultiInputPolicy"
    assert config["cost"]["parameters"] == sum(p.numel() for p in model.policy.parameters())


def test_the_card_says_what_the_results_say_and_the_hub_reads_it(folder):
    from huggingface_hub import ModelCard

    text, said = read(folder, "README.md"), read(folder, "results.json")
    found = ModelCard.load(folder / "README.md").data
    assert (found.model_name, found.library_name) == ("PPO", "stable-baselines3")
    assert {*said["tasks"], "mixture-of-experts"} <= set(found.tags)
    for each in found.eval_results:
        means = said["tasks"][each.dataset_name]
        value = f"{means['mean_reward']:.2f} +/- {means['std_reward']:.2f}"
        assert (each.metric_type, each.metric_value) == ("mean_reward", value)
        assert f"{means['mean_reward']:.2f} | {means['std_reward']:.2f}" in text
    assert "# PPO with a mixture of experts playing **CartPole**, **CartPole(gravity=" in text
    assert 'hf_hub_download("me/agent", "model.moe")' in text
    assert (said["n_eval_episodes"], said["suite"]) == (2, None)


@NEEDS_HUB
def test_a_card_names_classes_of_its_makers_own(tmp_path):
    agent = small(router=own_parts.Tempered, num_experts=2)
    text = read(write_folder(agent, tmp_path, **FEW), "README.md")
    assert 'load("model.moe", custom_objects={"Tempered": Tempered})' in text


def test_the_file_has_the_statistics_by_which_observations_were_normalized(tmp_path, hub):
    env = VecNormalize(make_vec_env("CartPole-v1", 1))
    small("MoeMlpPolicy", env).learn(64).save(tmp_path / "agent.zip")
    # A model without an environment takes the statistics of the one that it is played on.
    model, mean = PPO.load(tmp_path / "agent.zip", device="cpu"), env.obs_rms.mean.copy()
    folder = write_folder(model, tmp_path / "own", env, **FEW)
    loaded = sb3_moe.load(folder / "model.moe", make_vec_env("CartPole-v1", 1), device="cpu")
    np.testing.assert_array_equal(loaded.get_vec_normalize_env().obs_rms.mean, mean)
    [(name, means)] = read(folder, "results.json")["tasks"].items()
    assert (name, means["mean_reward"]) == ("CartPole-v1", means["mean_ep_length"])
    assert [*folder.glob("replay.[mg]*")]  # a film of either kind


@NEEDS_HUB
def test_a_dense_agent_of_a_single_task_goes_by_its_id(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu", buffer_size=100)
    before = np.random.get_state()[1].copy()
    text = read(write_folder(model, tmp_path, **FEW), "README.md")
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert yaml.safe_load(text.split("---\n")[1])["tags"][0] == "CartPole-v1"
    assert "\n# DQN playing **CartPole-v1**\n" in text
    assert "mixture-of-experts" not in text


@NEEDS_HUB
def test_an_agent_of_a_suite_goes_by_the_suites_name(tmp_path):
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", n_envs=4, seed=0)
    folder = write_folder(small("MoeMultiInputPolicy", env), tmp_path, episodes=1, max_steps=2)
    assert "playing **Classic/CartPole4**\n" in read(folder, "README.md")
    assert {*read(folder, "results.json")["tasks"]} == {"Earth", "Moon", "LongPole", "WeakMotor"}


def test_an_environment_that_can_not_be_played_leaves_the_folder_as_it_was(tmp_path, hub):
    agent = small("MlpPolicy")
    write_folder(agent, tmp_path, **FEW)
    files = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    env = DummyVecEnv([CartPoleEnv])
    with pytest.raises(ValueError, match=r"the environment must be monitored: wrap it in SB3's"):
        write_folder(agent, tmp_path, env, episodes=1)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == files


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_files_of_other_origin_are_not_written_over(name, tmp_path):
    (tmp_path / name).write_text("mine")
    text = rf"`folder` must be empty, or hold an earlier card, .* whose {name} would be"
    with pytest.raises(ValueError, match=text):
        check_folder(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_a_card_says_what_it_needs(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"huggingface_hub: pip install 'sb3-moe\[hub\]'"):
        write_folder(model, tmp_path)
