"""Callbacks of a model that goes on in an environment of other tasks, by `set_env`."""

from contextlib import suppress

import numpy as np
import pytest
import torch as th
from learners import learner
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from toy import Toy, toy_vec_env

import sb3_moe
from sb3_moe.callbacks import (
    EWCCallback,
    FreezeRouterCallback,
    L2AnchorCallback,
    MultiTaskEvalCallback,
    RoutingCallback,
    SparseTrainingCallback,
    TaskSwitchCallback,
    WeightNormDecayCallback,
)
from sb3_moe.growing import drop_masks
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Task

STEPS = 96


def world(*names):
    """Build a world whose tasks are the toys of these names."""
    tasks = [Task(name, env_fn=lambda k=k: Toy((k,))) for k, name in enumerate(names)]
    return make_multitask_vec_env(tasks, n_envs=6, seed=0, task_id="info")


def make(env, policy="MultiInputPolicy", **kwargs):
    return learner(PPO, env, policy, n_steps=16, policy_kwargs=kwargs)


def goes_on(model, env, callback):
    model.set_env(env)
    return model.learn(STEPS, callback, reset_num_timesteps=False)


def test_scores_in_memory_begin_anew_with_other_tasks_and_go_on_with_the_same():
    callback = MultiTaskEvalCallback(96, 2)
    model = make(world("a", "b")).learn(STEPS, callback)
    goes_on(model, world("a", "b"), callback)
    assert callback.scores["steps"].tolist() == [0, 96, 192]
    goes_on(model, world("c", "d"), callback)
    assert callback.scores["task_names"].tolist() == ["c", "d"]
    assert callback.scores["steps"].min() >= 192


@pytest.mark.parametrize("kind", [RoutingCallback, FreezeRouterCallback])
def test_a_probe_is_of_the_tasks_that_are_trained_now(kind):
    callback = kind(16, probe_size=6)
    model = make(world("a", "b", "c"), "MoeMultiInputPolicy", router="soft")
    model.learn(STEPS, callback)
    assert [batch["task_id"][0] for batch in callback.batches()] == [0, 1, 2]
    goes_on(model, world("c", "d"), callback)
    assert [batch["task_id"][0] for batch in callback.batches()] == [0, 1]
    assert callback.diagnostics["task_names"].tolist() == ["c", "d"]


@pytest.mark.parametrize("kind", [EWCCallback, L2AnchorCallback])
def test_a_world_of_another_task_ends_the_one_before(kind):
    callback = kind(1.0)
    model = make(toy_vec_env((0,), names=("a",))).learn(STEPS, callback)
    goes_on(model, toy_vec_env((0,), names=("a",)), callback)
    assert not model.anchors[callback.key]["weights"]
    before = {name: each.detach().clone() for name, each in model.policy.named_parameters()}
    goes_on(model, toy_vec_env((0,), names=("b",)), callback)
    kept = model.anchors[callback.key]
    assert kept["task"] == "b"
    for name, weights in kept["weights"].items():
        np.testing.assert_array_equal(weights, before[name])
    if kind is EWCCallback:
        assert [*kept["rows"]] == ["b"]


def test_a_world_of_another_task_is_a_switch():
    callback = TaskSwitchCallback(on_new_task="add_expert")
    model = make(toy_vec_env((0,), names=("a",)), "MoeMultiInputPolicy", num_experts=2)
    for name in ("a", "b", "a", "c"):
        model.set_env(toy_vec_env((0,), names=(name,)))
        model.learn(STEPS, callback, reset_num_timesteps=False)
    assert callback.switches == 3
    assert model.task_switches["met"] == ["a", "b", "c"]
    assert {each.num_experts for each in model.policy.moe_layers().values()} == {4}


class Interrupt(BaseCallback):
    """Interrupt the training at the end of a rollout."""

    def __init__(self, after=0):
        super().__init__()
        self.after = after

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.num_timesteps > self.after:
            raise KeyboardInterrupt


def test_a_penalty_ends_with_a_training_that_was_interrupted_in_an_update():
    trained = []
    for interrupted in (True, False):
        model = make(toy_vec_env((0,)))
        if interrupted:
            with suppress(KeyboardInterrupt):
                model.learn(STEPS, [WeightNormDecayCallback(10.0), Interrupt()])
            assert any(each._post_accumulate_grad_hooks for each in model.policy.parameters())
        model.set_random_seed(0)
        model.learn(STEPS)
        trained.append(th.cat([each.detach().flatten() for each in model.policy.parameters()]))
    th.testing.assert_close(*trained, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["static", "rigl"])
def test_masks_end_with_a_training_that_was_interrupted(method):
    changes = {"interval": 2} if method == "rigl" else {}
    model = make(toy_vec_env((0,)))
    with suppress(KeyboardInterrupt):
        model.learn(STEPS, [SparseTrainingCallback(0.9, method, **changes), Interrupt(STEPS // 2)])
    weights = [each for each in model.policy.parameters() if each.dim() == 2]
    assert sum(int((each == 0).sum()) for each in weights) > 1000
    model.learn(STEPS, reset_num_timesteps=False)
    assert sum(int((each == 0).sum()) for each in weights) < 1000


def test_masks_of_a_training_that_was_interrupted_can_be_dropped_for_experts_to_join():
    model = make(toy_vec_env((0,)), "MoeMultiInputPolicy", num_experts=2)
    with suppress(KeyboardInterrupt):
        model.learn(STEPS, [SparseTrainingCallback(0.5), Interrupt()])
    drop_masks(model)
    sb3_moe.add_experts(model)


def test_a_switch_forgets_the_averages_of_the_entropy_coefficient_too():
    env = sb3_moe.make_multitask_vec_env(["Pendulum-v1"], n_envs=1, task_id="info")
    options = {"learning_starts": 4, "buffer_size": 64, "batch_size": 8, "seed": 0}
    model = SAC("MlpPolicy", env, **options, policy_kwargs={"net_arch": [8]}, device="cpu")
    callback = TaskSwitchCallback(reset_optimizer=True)
    model.learn(12, callback)
    assert model.ent_coef_optimizer.state
    callback._task.names = ["task"]
    callback._switch("task")
    assert not model.ent_coef_optimizer.state
