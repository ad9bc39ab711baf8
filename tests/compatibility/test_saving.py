"""What goes into a file comes out of it, as in the tests of SB3 and sb3-contrib."""

import copy
import subprocess
import sys

import arena
import models
import numpy as np
import pytest
import torch as th
from behaviors import over


def saved_again(model, tmp_path, **kwargs):
    model.save(tmp_path / "model")
    return type(model).load(tmp_path / "model", env=model.get_env(), device="cpu", **kwargs)


# torch itself imports what it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@over("compiled", ["PPO", "DQN"])
def test_a_compiled_policy_is_saved_and_loaded(algorithm, placement, tmp_path):
    model = models.make(algorithm, placement)
    before = copy.deepcopy(model.policy.state_dict())
    model.policy = th.compile(model.policy)
    loaded = saved_again(model, tmp_path).policy.state_dict()
    assert all(th.equal(loaded[name], tensor) for name, tensor in before.items())


# Parts of a policy.

PARTS = {
    "DQN": ("q_net", "q_net_target"),
    "QRDQN": ("quantile_net", "quantile_net_target"),
    "SAC": ("actor", "critic", "critic_target"),
    "TD3": ("actor", "actor_target", "critic", "critic_target"),
    "DDPG": ("actor", "critic"),
    "TQC": ("actor", "critic", "critic_target"),
    "CrossQ": ("actor", "critic"),
}
OPTIONS = {
    "middle": {"router": "top_k", "top_k": 2, "bias_rate": 0.1},
    "final": {"router": "task", "top_k": None},
    "big": {"router": "random", "num_experts": 3},
}


def outputs(part, model):
    """Return what a part makes of some observations, and critics of some actions."""
    obs, _ = model.policy.obs_to_tensor(arena.observe(model))
    part.set_training_mode(False)
    if hasattr(part, "_predict"):
        return (part._predict(obs, deterministic=True),)
    with th.no_grad():
        out = part(obs, th.full((3, 2), 0.3))
    return out if isinstance(out, tuple) else (out,)


def assert_loads(part, model, path):
    part.save(path)
    loaded = type(part).load(path, device="cpu")
    assert type(loaded) is type(part)
    arena.assert_same_weights(loaded, part)
    assert all(map(th.equal, outputs(loaded, model), outputs(part, model)))
    ours, theirs = (each._get_constructor_parameters() for each in (part, loaded))
    for unlike in ("lr_schedule", "features_extractor"):
        ours.pop(unlike, None), theirs.pop(unlike, None)
    assert ours == theirs


def trained(algorithm, placement, kind="Mlp", env=None, **kwargs):
    return arena.train(models.make(algorithm, placement, kind, env, **kwargs))


def with_tasks(algorithm, placement):
    """Return a model of three tasks, the options of its placement away from their defaults."""
    env = arena.default_env(algorithm, "MoeMlpPolicy", 3)
    options = {"task_input": "router", **OPTIONS[placement]} if placement != "none" else {}
    options["features_extractor_kwargs"] = {"num_tasks": 3}
    return trained(algorithm, placement, env=env, **options)


@over("part", list(PARTS))
def test_a_policy_an_actor_and_a_q_network_load_as_they_were_saved(algorithm, placement, tmp_path):
    model = with_tasks(algorithm, placement)
    for part in [model.policy, *(getattr(model.policy, n) for n in PARTS[algorithm])]:
        dense_critic = placement == "none" and "Critic" in type(part).__name__
        assert type(part).__module__.startswith("sb3_moe") == (
            placement != "none" or part is model.policy
        )
        if not dense_critic:
            assert_loads(part, model, tmp_path / "part")


@pytest.mark.parametrize("algorithm", ["DQN", "SAC", "TQC"])
@pytest.mark.parametrize("encoding", ["before", "inside"])
def test_parts_behind_images_and_parts_that_encode_them_load(algorithm, encoding, tmp_path):
    if encoding == "before":
        options = {"placement": "middle", "tokens": "conv", "num_slots": 2}
    else:
        # Where one network is big the other must encode too, dense or not.
        options = {"placement": "big" if algorithm == "DQN" else {"pi": "none", "qf": "big"}}
    model = trained(algorithm, options.pop("placement"), "Cnn", **options)
    for name in PARTS[algorithm]:
        assert_loads(getattr(model.policy, name), model, tmp_path / name)


def test_actors_with_gsde_load(tmp_path):
    for algorithm in ("SAC", "CrossQ"):
        options = {"clip_mean": 1.5, "log_std_init": -1.0}
        model = arena.train(models.with_gsde(algorithm, "final", **options))
        assert_loads(model.policy.actor, model, tmp_path / "actor")
        assert type(model.policy.actor).load(tmp_path / "actor").clip_mean == 1.5


def test_a_model_and_a_part_load_in_a_new_process(tmp_path):
    model = trained("TQC", "big", router="top_k", top_k=2, bias_rate=0.01)
    obs, part = arena.observe(model, 20), model.policy.critic
    model.save(tmp_path / "model")
    part.save(tmp_path / "critic")
    np.save(tmp_path / "obs.npy", obs)
    code = f"""
from {type(part).__module__} import {type(part).__name__} as Critic
print(sum(p.double().sum().item() for p in Critic.load("critic", device="cpu").parameters()))
import numpy as np
import sb3_moe
from sb3_contrib import TQC
model = TQC.load("model", device="cpu")
np.save("actions.npy", model.predict(np.load("obs.npy"), deterministic=True)[0])
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert float(run.stdout) == sum(p.double().sum().item() for p in part.parameters())
    found, expected = np.load(tmp_path / "actions.npy"), arena.predict(model, obs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
