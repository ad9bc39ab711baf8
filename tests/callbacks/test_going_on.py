"""Runs with callbacks that remember: resumed or from a file they are those that never stopped."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC

import sb3_moe
from sb3_moe.callbacks import (
    EWCCallback,
    FreezeRouterCallback,
    L2AnchorCallback,
    L2InitCallback,
    SnapshotCallback,
    SparseTrainingCallback,
    TaskSwitchCallback,
)
from sb3_moe.saving.model_parts import REMEMBERED
from sb3_moe_envs import Cycle

TASKS = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"]
BLOCK = 64


def make(algo, **policy_kwargs):
    options = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "learning_rate": 1e-3}
    if algo is not PPO:
        options = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16, "train_freq": 4}
    kwargs = {"net_arch": [8], "num_experts": 2} | policy_kwargs
    schedule = Cycle(BLOCK, num_cycles=2)
    tasks = [("Pendulum-v1", {"g": g}) for g in (10.0, 3.0)] if algo is SAC else TASKS
    env = sb3_moe.make_multitask_vec_env(tasks, 2, seed=0, schedule=schedule)
    policy = "MoeMultiInputPolicy"
    return algo(policy, env, policy_kwargs=kwargs, seed=1, device="cpu", **options)


def sparse(method):
    return lambda: [SparseTrainingCallback(0.8, method, interval=5, drop_fraction=0.5)]


CASES = {
    "switches": (
        PPO,
        lambda: [TaskSwitchCallback(reset_optimizer=True, restart_learning_rate=True)],
        2 * BLOCK,
    ),
    "heads at the end": (PPO, lambda: [TaskSwitchCallback(reset_heads=True)], BLOCK),
    "reservoir": (
        DQN,
        lambda: [TaskSwitchCallback(replay_buffer="reservoir", restart_exploration=True)],
        2 * BLOCK + 32,
    ),
    "experts": (PPO, lambda: [TaskSwitchCallback(on_new_task="add_expert")], BLOCK),
    "frozen experts": (PPO, lambda: [TaskSwitchCallback(on_new_task="freeze_old")], 2 * BLOCK),
    "start": (PPO, lambda: [L2InitCallback(0.1)], 32),
    "anchors": (PPO, lambda: [EWCCallback(100.0), L2AnchorCallback(0.1)], BLOCK),
    "anchors by value": (DQN, lambda: [EWCCallback(100.0), L2AnchorCallback(0.1)], BLOCK + 32),
    "frozen routers": (
        PPO,
        lambda: [FreezeRouterCallback(32, bound=1.0, patience=2)],
        BLOCK + 32,
    ),
    "rigl": (PPO, sparse("rigl"), 32),
    "set": (SAC, sparse("set"), 32),
}


def remembered(model):
    return {name: vars(model).get(name) for name in REMEMBERED if name != "frozen_routers"}


@pytest.mark.covering
@pytest.mark.parametrize(
    ("name", "snapshot_first"),
    [*((name, False) for name in CASES), ("switches", True), ("experts", True)],
)
def test_a_resumed_run_is_the_one_that_was_never_stopped(tmp_path, name, snapshot_first):
    algo, callbacks, stop = CASES[name]
    snapshots = [SnapshotCallback(32, tmp_path, keep=20)]
    both = [*snapshots, *callbacks()] if snapshot_first else [*callbacks(), *snapshots]
    whole = make(algo).learn(3 * BLOCK, both)
    model, _ = sb3_moe.resume(tmp_path / "checkpoints" / f"step-{stop:012d}.zip")
    assert model.num_timesteps == stop
    model.learn(3 * BLOCK - stop, callbacks(), reset_num_timesteps=False)
    pairs = zip(whole.policy.parameters(), model.policy.parameters(), strict=True)
    assert all(th.equal(one, other) for one, other in pairs)
    np.testing.assert_equal(remembered(model), remembered(whole))


def through(how, model, path):
    """Return the model of a file."""
    if how == "sb3":
        model.save(path)
        return type(model).load(path, model.get_env(), device="cpu")
    sb3_moe.save(model, path)
    return sb3_moe.load(path, model.get_env(), device="cpu")


@pytest.mark.parametrize("how", ["sb3", "ours"])
def test_files_keep_what_is_remembered_and_a_run_from_step_0_begins_anew(tmp_path, how):
    def callbacks():
        return [EWCCallback(100.0, rows=16), L2InitCallback(0.1), TaskSwitchCallback()]

    model = make(PPO).learn(BLOCK + 32, callbacks())
    model.best_models = {"best of all": {"mean_reward": -np.inf}}  # as MultiTaskEvalCallback has it
    loaded = through(how, model, tmp_path / "model")
    np.testing.assert_equal(remembered(loaded), remembered(model))
    assert loaded.best_models == model.best_models
    kept, start = loaded.anchors["ewc"], loaded.initial_weights["action_net.weight"]
    assert kept["task"] == "Acrobot"
    assert kept["rows"].keys() == {"Acrobot"}
    assert any(each.any() for each in kept["strengths"].values())
    assert not th.equal(th.as_tensor(start), loaded.policy.action_net.weight)
    # A log that is never written keeps what it is told. The new run begins with the other task.
    loaded.learn(BLOCK, callbacks(), log_interval=10**6, reset_num_timesteps=False)
    assert loaded.logger.name_to_value["continual/penalty/ewc"] > 0
    assert (loaded.initial_weights["action_net.weight"] == start).all()
    loaded.learn(32, callbacks())
    assert not loaded.anchors["ewc"]["weights"]
    assert not (loaded.initial_weights["action_net.weight"] == start).all()
    assert loaded.task_switches["switches"] == 0


@pytest.mark.parametrize(("algo", "how"), [(PPO, "sb3"), (SAC, "ours")])
def test_a_model_from_a_file_goes_on_with_its_masks(tmp_path, algo, how):
    from test_sparse_training import Watch, counts, named_masks

    model = make(algo).learn(32, sparse("set")())
    loaded = through(how, model, tmp_path / "model")
    assert all(map(th.equal, named_masks(model).values(), named_masks(loaded).values()))
    loaded.learn(32, [*sparse("set")(), Watch()], reset_num_timesteps=False)
    assert counts(loaded) == counts(model)
