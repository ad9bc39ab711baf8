"""Policies train, act and are looked into on a device, and wait for it only where a table says."""

import math
import os
import subprocess
import sys
from functools import cache

import arena
import cases
import numpy as np
import pytest
from covering import fewest
from fake_device import ALONE, NAME, Place, fake_device
from gymnasium import spaces

from sb3_moe.layers import experts
from sb3_moe.vec_env.replay_buffers import DeviceReplayBuffer, MultiTaskReplayBuffer
from sb3_moe.vec_env.rollout_buffers import DeviceRolloutBuffer

# What of ours may wait for the device, each with its reason. SB3's own code may, wherever it does.
READS = {
    Place("sb3_moe/policies/plain_distributions.py", "get_actions"): "one look for NaN",
    Place("sb3_moe/policies/optimizers.py", "__init__"): "experts' counts, before the first step",
    Place("sb3_moe/policies/optimizers.py", "_active"): "which experts moved, where idle ones hold",
    Place("sb3_moe/vec_env/rollout_buffers.py", "add"): "SB3's advantages are numpy's: one a step",
}
# Torch checks arguments of SB3's distributions at each call, which dense policies have.
CHECKED = ("stable_baselines3/common/distributions.py", "sb3_contrib/common/maskable/distrib")
UPLOADS = {
    Place("sb3_moe/vec_env/observations.py", "write"): "what the environment gave, once",
    Place("sb3_moe/vec_env/rollout_buffers.py", "_finish"): "advantages and returns",
    Place("sb3_moe/vec_env/rollout_buffers.py", "get"): "numpy draws indices, as in SB3's buffers",
    Place("sb3_moe/vec_env/replay_buffers.py", "_gather"): "numpy draws indices",
}
STEPS = 4
EVERY = cases.every_case()
# One of each kind of algorithm, and each placement, router and kind of token.
KINDS = {"PPO", "MaskablePPO", "RecurrentPPO", "TRPO", "DQN", "SAC", "CrossQ"}
OF_KINDS = [case for case in EVERY if case.algorithm in KINDS]
SOME = fewest({case: {case.algorithm, *case[2:]} for case in OF_KINDS})
REST = [
    pytest.param(case, marks=pytest.mark.full) for case in cases.pairwise(EVERY) if case not in SOME
]
BUFFERS = {
    "PPO": {"rollout_buffer_class": DeviceRolloutBuffer},
    "DQN": {"replay_buffer_class": DeviceReplayBuffer},
    "SAC": {"replay_buffer_class": DeviceReplayBuffer},
}


def undue(watch, *, dense=False):
    """Return where a device was asked for what it may not be asked for."""
    reads = {each for each in watch.reads if each.file.startswith("sb3_moe")} - READS.keys()
    uploads = {each for each in watch.uploads if each.file.startswith("sb3_moe")} - UPLOADS.keys()
    checks = {each for each in watch.reads if each.file.startswith(CHECKED)}
    return reads | uploads | (set() if dense else checks)


def sizes(algorithm):
    """Return arguments with which ``STEPS`` steps hold an update."""
    if algorithm not in arena.ON_POLICY:
        return {"learning_starts": 2, "batch_size": 4, "train_freq": 2, "gradient_steps": 1}
    found = {"n_steps": STEPS}
    if algorithm == "TRPO":
        found |= {"cg_max_steps": 2, "line_search_max_iter": 2, "n_critic_updates": 1}
    if algorithm != "A2C":
        found["batch_size"] = STEPS
    if algorithm in ("PPO", "MaskablePPO", "RecurrentPPO"):
        found["n_epochs"] = 1
    return found


def learned(algorithm, alias, model=None, **options):
    """Return what was asked of the device while a small model was made and learned."""
    arguments = sizes(algorithm) | (model or {})
    with fake_device() as watch:
        made = arena.make(algorithm, alias, model=arguments, device=NAME, net_arch=[8], **options)
        arena.train(made, STEPS)
    return watch


@pytest.mark.skipif("SB3_MOE_FAKE_DEVICE" in os.environ, reason="this is that process")
@pytest.mark.parametrize("which", ["not full", pytest.param("full", marks=pytest.mark.full)])
def test_on_a_device_of_a_process_of_its_own(which):
    """Run the tests of this file there: torch takes a device only before the first backward."""
    command = [sys.executable, "-m", "pytest", "-x", "-m", which, __file__]
    env = os.environ | {"SB3_MOE_FAKE_DEVICE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@ALONE
@pytest.mark.parametrize("case", [*SOME, *REST], ids=str)
def test_a_policy_trains_and_acts_on_the_device(case):
    with fake_device() as watch:
        model = cases.make(case, model=sizes(case.algorithm), device=NAME)
        arena.train(model, STEPS)
        obs = arena.observe(model)
        model.predict(obs)
        model.policy.routing(obs)
        for name, tensor in (*model.policy.named_parameters(), *model.policy.named_buffers()):
            assert tensor.device.type == NAME, name
            assert tensor.grad is None or tensor.grad.device.type == NAME, name
    assert undue(watch, dense=case.placement == "none") == set()


@cache
def buffered(algorithm, alias):
    return learned(algorithm, alias, BUFFERS[algorithm])


@ALONE
@pytest.mark.covering
@pytest.mark.parametrize("alias", ["MoeMlpPolicy", "MoeCnnPolicy", "MoeMultiInputPolicy"])
@pytest.mark.parametrize("algorithm", list(BUFFERS))
def test_a_buffer_on_the_device_gives_minibatches_that_are_there(algorithm, alias):
    watch = buffered(algorithm, alias)
    assert undue(watch) == set()
    assert Place("stable_baselines3/common/buffers.py", "to_torch") not in watch.uploads


@ALONE
def test_a_rollout_on_the_device_is_read_once_a_step():
    reads = buffered("PPO", "MoeMlpPolicy").reads
    of_buffers = {place.file: n for place, n in reads.items() if place.function == "add"}
    assert of_buffers == {"sb3_moe/vec_env/rollout_buffers.py": STEPS}
    assert [n for place, n in reads.items() if place.function == "get_actions"] == [STEPS]


@ALONE
def test_batches_of_tasks_are_drawn_on_the_device():
    space = arena.with_task(arena.FLAT)
    obs = {"obs": np.zeros((2, 5), np.float32), "task_id": np.array([0, 1])}
    with fake_device() as watch:
        buffer = MultiTaskReplayBuffer(8, space, spaces.Discrete(4), NAME, 2)
        infos = [{"task_id": 0}, {"task_id": 1}]
        buffer.add(obs, obs, np.zeros((2, 1)), np.ones(2), np.zeros(2), infos)
        batch = buffer.sample(4)
    assert batch.rewards.device.type == batch.observations["obs"].device.type == NAME
    assert not watch.reads
    assert undue(watch) == set()


@ALONE
@pytest.mark.parametrize("groups", [True, False])
def test_sorted_rows_in_one_call_per_layer_stay_on_the_device(monkeypatch, groups):
    """And where there is no such call, no rows are counted on the host."""
    monkeypatch.setattr(experts, "WIDE_UP_TO_ELSEWHERE", -math.inf)
    monkeypatch.setattr(experts.StackedNetwork, "_groups", lambda self, x: groups)
    calls = []
    grouped = experts.StackedNetwork._grouped

    def counted(self, *args):
        calls.append(args[0].device.type)
        return grouped(self, *args)

    monkeypatch.setattr(experts.StackedNetwork, "_grouped", counted)
    watch = learned("PPO", "MoeMlpPolicy", router="top_k", placement="middle", num_experts=8)
    assert undue(watch) == set()
    assert set(calls) == ({NAME} if groups else set())
