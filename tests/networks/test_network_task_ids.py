"""The task that an observation names."""

import arena
import numpy as np
import pytest
import torch as th
from every_network import make
from gymnasium import spaces

from sb3_moe.networks import networks_of


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN", "RecurrentPPO"])
@pytest.mark.parametrize("kind", ["onehot", "dict"])
def test_task_ids_are_read_from_observations(algorithm, kind):
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    model = make(algorithm, alias)
    obs = arena.observe(model, 6)
    ids = obs[:, -arena.NUM_TASKS :].argmax(1)
    if kind == "dict":
        alias = alias.replace("Mlp", "MultiInput", 1)
        model = arena.make(algorithm, alias, net_arch=[8])
        obs = arena.observe(model, 6)
        ids = obs["task_id"]
    tensors, _ = model.policy.obs_to_tensor(obs)
    found = networks_of(model.policy).task_ids(tensors)
    assert found.tolist() == np.asarray(ids).flatten().tolist()


def test_observations_without_a_task_have_no_ids():
    model = arena.make("PPO", "MlpPolicy")
    assert networks_of(model.policy).task_ids(th.zeros(2, 5)) is None
    model = arena.make("PPO", "MultiInputPolicy", arena.Arena(spaces.Dict({"a": arena.FLAT})))
    assert networks_of(model.policy).task_ids({"a": th.zeros(2, 5)}) is None
