"""Policies train, act and are looked into on a device, and wait for it only where a list says."""

import math
import os
import subprocess
import sys
from functools import cache

import arena
import cases
import numpy as np
import on_device
import pytest
from device_reads import undue
from fake_device import ALONE, NAME, Place, fake_device
from gymnasium import spaces

from sb3_moe.layers import experts
from sb3_moe.vec_env.replay_buffers import DeviceReplayBuffer, MultiTaskReplayBuffer
from sb3_moe.vec_env.rollout_buffers import DeviceRolloutBuffer

EVERY = cases.every_case()
SOME = cases.each_value(EVERY)
REST = [
    pytest.param(case, marks=pytest.mark.full) for case in cases.pairwise(EVERY) if case not in SOME
]
BUFFERS = {
    "PPO": {"rollout_buffer_class": DeviceRolloutBuffer},
    "DQN": {"replay_buffer_class": DeviceReplayBuffer},
    "SAC": {"replay_buffer_class": DeviceReplayBuffer},
}


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
    watch = on_device.train_and_act(case)
    assert undue(watch, dense=case.placement == "none") == set()


@cache
def buffered(algorithm, alias):
    with fake_device() as watch:
        model = on_device.make(algorithm, alias, model=BUFFERS[algorithm])
        on_device.learn(model)
    return watch


@ALONE
@pytest.mark.parametrize("alias", ["MoeMlpPolicy", "MoeCnnPolicy", "MoeMultiInputPolicy"])
@pytest.mark.parametrize("algorithm", list(BUFFERS))
def test_a_buffer_on_the_device_gives_minibatches_that_are_there(algorithm, alias):
    watch = buffered(algorithm, alias)
    assert undue(watch) == set()
    from_numpy = {Place("stable_baselines3/common/buffers.py", "to_torch")}
    assert not from_numpy & watch.uploads.keys()


@ALONE
def test_a_rollout_on_the_device_is_read_once_a_step():
    reads = buffered("PPO", "MoeMlpPolicy").reads
    of_buffers = {place.file: n for place, n in reads.items() if place.function == "add"}
    assert of_buffers == {"sb3_moe/vec_env/rollout_buffers.py": on_device.STEPS}
    looks = [n for place, n in reads.items() if place.function == "get_actions"]
    assert looks == [on_device.STEPS]


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
    with fake_device() as watch:
        model = on_device.make(
            "PPO", "MoeMlpPolicy", router="top_k", placement="middle", num_experts=8
        )
        on_device.learn(model)
    assert undue(watch) == set()
    assert set(calls) == ({NAME} if groups else set())
