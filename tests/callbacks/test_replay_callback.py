import io
import sys
from types import SimpleNamespace

import pytest
from arena import assert_same_weights
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import sb3_moe
from sb3_moe.callbacks import ReplayCallback, keeping


def agent():
    env = sb3_moe.make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], n_envs=2, seed=0)
    options = {"net_arch": [6], "num_experts": 2}
    sizes = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
    return PPO("MoeMultiInputPolicy", env, seed=0, policy_kwargs=options, **sizes)


@pytest.fixture
def without_pictures(monkeypatch):
    """Drawing CartPole is slow, and not what is tried here."""
    watch = keeping.watch
    monkeypatch.setattr(keeping, "watch", lambda *a, **k: watch(*a, frames=False, **k))


@pytest.mark.usefixtures("without_pictures")
def test_pages_are_written_every_so_many_steps_and_training_is_the_same(tmp_path):
    callback = ReplayCallback(32, max_steps=3, log_path=tmp_path / "new")
    watched = agent().learn(64, callback=callback)
    plain = agent().learn(64)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["replay-0.html", "replay-32.html", "replay-64.html"]
    assert_same_weights(watched.policy, plain.policy)


@pytest.mark.usefixtures("without_pictures")
def test_tensorboard_gets_a_film_of_each_task(tmp_path):
    model = agent()
    model.set_logger(configure(str(tmp_path), ["csv", "tensorboard"]))
    model.learn(32, callback=ReplayCallback(64, max_steps=3))
    model.logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["images"] == ["replay/0", "replay/1"]
    films = events.Images("replay/1")
    assert [film.step for film in films] == [0, 32]
    with Image.open(io.BytesIO(films[0].encoded_image_string)) as film:
        assert film.n_frames == 3


@pytest.mark.usefixtures("without_pictures")
def test_a_running_wandb_gets_the_page(monkeypatch):
    logged = []
    fake = SimpleNamespace(
        run=object(), Html=lambda text, inject: (text, inject), log=logged.append
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    agent().learn(32, callback=ReplayCallback(64, max_steps=3))
    assert [each["replay/step"] for each in logged] == [0, 32]
    page, injected = logged[0]["replay"]
    assert page.startswith("<!doctype html>")
    assert injected is False, "nothing of W&B's own, from its network"
    fake.run = None
    agent().learn(32, callback=ReplayCallback(64, max_steps=3))
    assert len(logged) == 2
