"""An actor that steps more seldom than its critic keeps its last gradient, through every file."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC, TD3

import sb3_moe
from sb3_moe.callbacks import ReDoCallback, SnapshotCallback
from sb3_moe.measures.gradients import recall_actor_gradients, remember_actor_gradients


def algorithm(name):
    contrib = pytest.importorskip("sb3_contrib", reason="needs the contrib extra")
    return {"TD3": TD3, "SAC": SAC}.get(name) or getattr(contrib, name)


def make(name="TD3", policy="MlpPolicy", **kwargs):
    options = {"learning_starts": 10, "buffer_size": 100, "batch_size": 16, "train_freq": 1}
    net = {"policy_kwargs": {"net_arch": [12, 12]}}
    options |= {"seed": 0, "device": "cpu", **net}
    return algorithm(name)(policy, "Pendulum-v1", **options | kwargs)


def redo():
    return ReDoCallback(31, tau=0.5, criterion="gradient")


@pytest.mark.parametrize(("name", "delay"), [("TD3", 2), ("TD3", 5), ("CrossQ", 4), ("SAC", 1)])
def test_a_run_resumed_just_before_neurons_are_restarted_is_the_one_that_was_never_stopped(
    tmp_path, name, delay
):
    kwargs = {} if name == "SAC" else {"policy_delay": delay}
    whole = make(name, **kwargs)
    whole.learn(40, [redo(), SnapshotCallback(30, tmp_path)])
    resumed, _ = sb3_moe.resume(tmp_path / "checkpoints" / "step-000000000030")
    assert resumed.num_timesteps == 30
    resumed.learn(10, redo(), reset_num_timesteps=False)
    pairs = zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True)
    assert all(th.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("how", ["zip", "moe"])
def test_files_keep_the_actors_last_gradient(tmp_path, how):
    model = make()
    model.learn(20, redo())
    remember_actor_gradients(model)
    gradients = {name: p.grad.clone() for name, p in model.actor.named_parameters()}
    assert any(each.any() for each in gradients.values())
    if how == "zip":
        model.save(tmp_path / "model")
        loaded = TD3.load(tmp_path / "model", device="cpu")
    else:
        sb3_moe.save(model, tmp_path / "model.moe")
        loaded = sb3_moe.load(tmp_path / "model.moe", device="cpu")
    assert all(p.grad is None for p in loaded.actor.parameters())
    recall_actor_gradients(loaded)
    for name, parameter in loaded.actor.named_parameters():
        assert th.equal(parameter.grad, gradients[name])


def test_a_gradient_that_is_there_stays_and_one_of_another_shape_is_left_alone():
    model = make().learn(20)
    remember_actor_gradients(model)
    first, *others = model.actor.named_parameters()
    model.actor_gradients[first[0]] = np.ones((1, 1), np.float32)
    first[1].grad = None
    before = [p.grad.clone() for _, p in others]
    for _, parameter in others[:1]:
        parameter.grad.fill_(7.0)
    recall_actor_gradients(model)
    assert first[1].grad is None
    assert (others[0][1].grad == 7.0).all()
    for (_, parameter), old in zip(others[1:], before[1:], strict=True):
        assert th.equal(parameter.grad, old)


def test_nothing_is_kept_where_the_actor_steps_with_its_critic():
    model = make("SAC")
    model.learn(20, redo())
    assert "actor_gradients" not in vars(model)
    recall_actor_gradients(model)


def test_gradients_of_experts_that_are_others_now_are_forgotten():
    model = make(policy="MoeMlpPolicy").learn(20)
    remember_actor_gradients(model)
    assert model.actor_gradients
    sb3_moe.remove_experts(model, [0])
    sb3_moe.add_experts(model)
    assert "actor_gradients" not in vars(model)
    model.learn(12, redo(), reset_num_timesteps=False)
