"""Callbacks with SB3's own policy in a plain environment: they work, or their page says why not."""

import inspect
import re
from pathlib import Path

import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe import callbacks

PAGE = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
CALLBACKS = {
    name: found
    for name in callbacks.__all__
    if isinstance(found := getattr(callbacks, name), type) and issubclass(found, BaseCallback)
}
ALGORITHMS = {
    "PPO": (PPO, {"n_steps": 32, "batch_size": 32, "n_epochs": 1}),
    "DQN": (DQN, {"learning_starts": 16, "buffer_size": 200}),
}


def plain(algorithm):
    algo, options = ALGORITHMS[algorithm]
    return algo("MlpPolicy", "CartPole-v1", seed=0, device="cpu", **options)


def needs(name):
    """Read what a callback needs: in a column of its table, or in words of its row."""
    header = []
    for line in PAGE.splitlines():
        # A cell may be empty, and what divides it from the next stands behind its own.
        cells = [cell.strip() for cell in re.split(r" \|(?= )", line.strip("|"))]
        if line.startswith("| callback"):
            header = cells
        elif line.startswith(f"| `{name}("):
            column = dict(zip(header, cells, strict=False)).get("needs", "")
            return column or "".join(re.findall(r"needs .*", line))
    return ""


def made(name, tmp_path):
    """Make a callback with the arguments that it can't do without."""
    given = {"every": 32, "path": tmp_path, "log_path": tmp_path, "sparsity": 0.5, "coef": 0.1}
    given |= {"max_steps": 4}  # drawing is slow
    asked = inspect.signature(CALLBACKS[name]).parameters
    return CALLBACKS[name](**{key: value for key, value in given.items() if key in asked})


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_works_with_plain_sb3_or_its_page_says_what_it_needs(name, algorithm, tmp_path):
    callback = made(name, tmp_path)
    model = plain(algorithm)
    refused = None
    try:
        model.learn(96, callback=callback)
    except (ValueError, TypeError) as error:
        refused = error
    if refused:
        assert needs(name), f"{name}: {refused}"
    assert model.num_timesteps == (0 if refused else 96)  # before work is lost, or not at all


def test_what_the_page_lists_besides_callbacks_works_with_plain_sb3(tmp_path):
    rate = callbacks.LinearPerBlock(1e-3, 1)
    model = PPO("MlpPolicy", "CartPole-v1", learning_rate=rate, n_steps=32, batch_size=32)
    env = model.learn(32).get_env()
    assert len(callbacks.collect_probe(env, 8)[0]) == 8
    (returns,) = callbacks.evaluate_tasks(model, env, 2).returns
    assert len(returns) == 2
    callbacks.save_snapshot(model, tmp_path / "one.zip")
    assert PPO.load(tmp_path / "one.zip").num_timesteps == 32
