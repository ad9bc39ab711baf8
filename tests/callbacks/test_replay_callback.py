import sys
from types import SimpleNamespace

import pytest
from arena import assert_same_weights
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_moe
from sb3_moe.callbacks import ReplayCallback, replay


def agent():
    env = sb3_moe.make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], n_envs=2, seed=0)
    options = {"net_arch": [6], "num_experts": 2}
    sizes = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    return PPO("MoeMultiInputPolicy", env, seed=0, policy_kwargs=options, **sizes)


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing CartPole is slow, and not what is tried here."""
    watch = replay.watch
    monkeypatch.setattr(replay, "watch", lambda *a, **k: watch(*a, frames=False, **k))


@pytest.mark.usefixtures("without_pictures")
def test_pages_are_written_every_so_many_steps_and_training_is_the_same(tmp_path):
    watched, plain = agent(), agent()
    watched.learn(64, callback=ReplayCallback(32, max_steps=3, log_path=tmp_path / "new"))
    plain.learn(64)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["replay-0.html", "replay-32.html", "replay-64.html"]
    assert_same_weights(watched.policy, plain.policy)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("has_moviepy", [True, False])
def test_tensorboard_gets_a_picture_of_each_task(tmp_path, monkeypatch, has_moviepy):
    if not has_moviepy:
        monkeypatch.setattr(replay, "find_spec", lambda name: None)
    model = agent()
    model.set_logger(configure(str(tmp_path), ["tensorboard"]))
    model.learn(32, callback=ReplayCallback(64, max_steps=3))
    model.logger.dump(32)
    model.logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["replay/0", "replay/1"]


@pytest.mark.usefixtures("without_pictures")
def test_a_running_wandb_gets_the_page(monkeypatch):
    logged = []
    fake = SimpleNamespace(run=object(), Html=lambda text: text, log=logged.append)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    agent().learn(32, callback=ReplayCallback(64, max_steps=3))
    assert [each["replay/step"] for each in logged] == [0, 32]
    assert logged[0]["replay"].startswith("<!doctype html>")
    fake.run = None
    agent().learn(32, callback=ReplayCallback(64, max_steps=3))
    assert len(logged) == 2


@pytest.mark.parametrize("name", ["every", "episodes", "max_steps"])
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1.* got 0"):
        ReplayCallback(**{"every": 8, name: 0})
