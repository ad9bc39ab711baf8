"""A file holds the models of a belief: the agent acts as before and goes on learning."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import arena
import numpy as np
import pytest
from hidden import drifts, hidden_tasks
from stable_baselines3.common.vec_env import VecNormalize

import sb3_moe
from sb3_moe.saving.model_parts import WrapperLeftOutWarning
from sb3_moe.vec_env import VecBelief
from sb3_moe.vec_env.belief import belief_of

OPTIONS = {"net_arch": [8], "placement": "big", "router": "belief"}


def saved(path, env, algorithm="PPO"):
    model = arena.make(algorithm, "MoeMultiInputPolicy", env, **OPTIONS).learn(64)
    sb3_moe.save(model, path)
    return model


def play(model):
    """Return a digest of 25 steps, in which nothing learns: observations, beliefs and actions."""
    env = model.get_env()
    belief_of(env).training = False
    env.seed(7)
    obs, seen = env.reset(), []
    for _ in range(25):
        actions = model.predict(obs, deterministic=True)[0]
        seen += [obs["obs"].tobytes(), obs["belief"].tobytes(), actions.tobytes()]
        obs, *_ = env.step(actions)
    return hashlib.sha256(b"".join(seen)).hexdigest()


def test_a_loaded_agent_acts_as_the_saved_one_in_a_new_process(tmp_path):
    model = saved(tmp_path / "agent.moe", drifts())
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "agent.moe")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == play(model)


NORMALIZED = {
    "raw": (hidden_tasks, lambda venv: venv),
    "below": (lambda: VecNormalize(hidden_tasks()), lambda venv: venv),
    "above": (hidden_tasks, lambda venv: VecNormalize(venv, norm_obs_keys=["obs"])),
}


@pytest.mark.parametrize("place", NORMALIZED)
def test_a_plain_environment_is_wrapped_as_it_was_and_learns_on_bit_for_bit(place, tmp_path):
    inside, outside = NORMALIZED[place]
    env = outside(VecBelief(inside(), 3, train_freq=8, memory=0.9))
    model = saved(tmp_path / "agent.moe", env)
    digests = []
    for plain in (hidden_tasks(), env):
        again = sb3_moe.load(tmp_path / "agent.moe", plain, device="cpu")
        own, theirs = belief_of(again.env), belief_of(model.env)
        assert [type(e) for e in wrappers(again.env)] == [type(e) for e in wrappers(env)]
        assert own.models.settings == theirs.models.settings
        assert own.train_freq == 8
        again.learn(64, reset_num_timesteps=False)
        digests.append(play(again))
    assert digests[0] == digests[1]


def wrappers(env):
    while hasattr(env, "venv"):
        yield env
        env = env.venv


def test_without_an_environment_the_models_are_left_out_with_a_warning(tmp_path):
    saved(tmp_path / "agent.moe", drifts())
    with pytest.warns(WrapperLeftOutWarning, match="the models of the belief in observations"):
        sb3_moe.load(tmp_path / "agent.moe", device="cpu")


def test_a_function_that_encodes_must_be_given_again(tmp_path):
    def encoding():
        return VecBelief(hidden_tasks(), 3, encode=lambda obs: np.repeat(obs, 2, axis=1))

    model = saved(tmp_path / "agent.moe", encoding())
    with pytest.raises(ValueError, match="with the function `encode` that the saved model's had"):
        sb3_moe.load(tmp_path / "agent.moe", hidden_tasks(), device="cpu")
    again = sb3_moe.load(tmp_path / "agent.moe", encoding(), device="cpu")
    assert play(again) == play(model)
    with pytest.raises(ValueError, match=r"the models are for .* and the environment has"):
        sb3_moe.load(tmp_path / "agent.moe", drifts(), device="cpu")


if __name__ == "__main__":
    print(play(sb3_moe.load(Path(sys.argv[1]), hidden_tasks(), device="cpu")))
