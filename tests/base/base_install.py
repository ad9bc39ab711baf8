"""What holds where only the wheel is installed: run by `make test-base`, with that Python."""

import subprocess
import sys
import tempfile
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import sb3_moe
import sb3_moe_envs
from sb3_moe.layers.extras import EXTRAS
from sb3_moe_envs.checks import EXTRAS as ENVS_EXTRAS

SHIPPED = {
    "sb3_moe": [
        "py.typed",
        "measures/returns.json",
        "study/presets/smoke.yaml",
        "study/templates/style.css",
        "watching/page/draw.js",
        "integrations/hyperparameters/ppo.yml",
    ],
    "sb3_moe_envs": ["py.typed"],
}


def the_packages_are_those_of_the_wheel():
    for package in (sb3_moe, sb3_moe_envs):
        assert "site-packages" in Path(package.__file__).parts, package.__file__
        for name in SHIPPED[package.__name__]:
            assert files(package).joinpath(name).is_file(), name


def there_are_no_extras():
    # Gymnasium and SB3 may come to need one; then it is an extra no longer.
    found = {name for name in {**EXTRAS, **ENVS_EXTRAS} if find_spec(name) is not None}
    assert found <= {"filelock", "jinja2"}, found  # torch's


def the_command_says_in_one_line_what_it_needs():
    script = Path(sys.executable).with_name("sb3-moe")
    for command in ([str(script), "--help"], [sys.executable, "-m", "sb3_moe", "--help"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1, done
        assert line.startswith("error: sb3-moe needs tyro"), line


def an_agent_learns_and_is_saved_and_loaded():
    from stable_baselines3 import PPO

    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", n_envs=4, seed=0)
    model = PPO("MoeMultiInputPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "agent.moe")
        sb3_moe.save(model, path)
        loaded = sb3_moe.load(path, device="cpu")
    obs = env.reset()
    actions = [each.predict(obs, deterministic=True)[0].tolist() for each in (model, loaded)]
    assert actions[0] == actions[1]


if __name__ == "__main__":
    the_packages_are_those_of_the_wheel()
    there_are_no_extras()
    the_command_says_in_one_line_what_it_needs()
    an_agent_learns_and_is_saved_and_loaded()
    print("4 passed, 0 failed")
