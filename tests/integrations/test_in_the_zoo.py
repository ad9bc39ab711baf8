"""rl-baselines3-zoo, as it is, trains, plays, tunes and draws our policies."""

import os
import subprocess
import sys

import pytest
from stable_baselines3 import DQN, PPO, SAC

import sb3_moe  # noqa: F401  registers what saved models name
from sb3_moe.integrations.zoo import hyperparameters

pytest.importorskip("rl_zoo3")
pytestmark = pytest.mark.full

PACKAGES = ["--gym-packages", "sb3_moe_envs", "sb3_moe.integrations.zoo"]
# With these seeds the zoo's samplers draw five trials of few and large batches.
RUNS = {
    "ppo": (PPO, "SB3MoE/CartPole-v0", "75", ["n_envs:1"]),
    "dqn": (DQN, "SB3MoE/CartPole-v0", "1", ["train_freq:16", "gradient_steps:1"]),
    "sac": (SAC, "SB3MoE/Pendulum-v0", "1", ["learning_starts:100"]),
}
GIVEN = "policy_kwargs:dict(router='top_k', placement='final')"


def zoo(script, *words, folder):
    done = subprocess.run(
        [sys.executable, "-m", f"rl_zoo3.{script}", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def train(algorithm, *words, folder, given=(GIVEN,)):
    _, env_id, seed, params = RUNS[algorithm]
    run = ["--algo", algorithm, "--env", env_id, "--seed", seed, "--n-timesteps", "300"]
    run += ["--conf-file", str(hyperparameters(algorithm)), "--device", "cpu"]
    return zoo("train", *run, *PACKAGES, *words, "-params", *params, *given, folder=folder)


def trained(algorithm, number, folder):
    """Open what a run has saved."""
    cls, env_id, _, _ = RUNS[algorithm]
    name = env_id.replace("/", "-")
    return cls.load(folder / "logs" / algorithm / f"{name}_{number}" / f"{name}.zip", device="cpu")


@pytest.mark.parametrize("algorithm", RUNS)
def test_it_trains_plays_tunes_and_trains_again_as_a_trial_says(algorithm, tmp_path):
    _, env_id, _, _ = RUNS[algorithm]
    train(algorithm, "--eval-freq", "150", "--eval-episodes", "1", folder=tmp_path)
    assert trained(algorithm, 1, tmp_path).policy.moe_options["placement"] == "final"

    played = ["--algo", algorithm, "--env", env_id, "-f", "logs", "--no-render", "-n", "210"]
    assert "Mean reward" in zoo("enjoy", *played, *PACKAGES, folder=tmp_path)

    storage = ["--storage", "sqlite:///study.db", "--study-name", "ours"]
    search = ["-optimize", "--n-trials", "5", "--n-startup-trials", "5", "--n-evaluations", "1"]
    said = train(algorithm, *search, *storage, "--eval-episodes", "1", folder=tmp_path)
    assert "Number of finished trials:  5" in said

    import optuna

    trials = optuna.load_study(storage=f"sqlite:///{tmp_path}/study.db", study_name="ours").trials
    # What is given is kept, and not sampled; what isn't given is sampled.
    assert all("router" not in each.params for each in trials)
    assert len({each.params["num_experts"] for each in trials}) > 1

    # The search has taken the second folder.
    train(algorithm, *storage, "--trial-id", "3", folder=tmp_path, given=())
    options = trained(algorithm, 3, tmp_path).policy.moe_options
    assert (options["placement"], options["router"]) == ("final", "top_k")
    assert options["num_experts"] == trials[3].params["num_experts"]
