"""The tests on the fake device fail where a path that they cover waits for it or mixes devices."""

from importlib import import_module
from itertools import cycle

import arena
import numpy as np
import on_device
import pytest
import torch as th
from device_reads import undue
from fake_device import ALONE, NAME, Place, fake_device
from gymnasium import spaces
from torch import nn
from torch.utils._pytree import tree_leaves

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.vec_env import DeviceReplayBuffer, DeviceRolloutBuffer, MultiTaskReplayBuffer

pytestmark = ALONE
HERE = "tests/policies/test_fake_device_mutations.py"
MUTATIONS = {
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "wrong device": lambda x: x.flatten() + th.ones(x.numel()),
}
FAMILIES = [pair for pair in arena.PAIRS if pair[1].startswith("MoeMlp")]
MEASURES = [
    "sb3_moe.measures.plasticity:online_parameters",
    "sb3_moe.measures.plasticity:dormant_fraction",
    "sb3_moe.measures.plasticity:dormant_fraction_per_expert",
    "sb3_moe.measures.plasticity:effective_rank",
    "sb3_moe.measures.plasticity:stable_rank",
    "sb3_moe.measures.plasticity:weight_norm",
    "sb3_moe.measures.plasticity:gradient_norm",
    "sb3_moe.measures.plasticity:zero_gradient_fraction",
    "sb3_moe.measures.plasticity:ntk_rank",
    "sb3_moe.measures.plasticity:policy_activations",
    "sb3_moe.callbacks.routing:_stacked",
]
REMEDIES = [
    "sb3_moe.measures.redo:_restart",
    "sb3_moe.measures.resets:_forget_moments",
    "sb3_moe.measures.resets:reset_optimizers",
]
BUFFERS = [
    (DeviceRolloutBuffer, "add"),
    (DeviceRolloutBuffer, "_get_samples"),
    (DeviceReplayBuffer, "add"),
    (DeviceReplayBuffer, "_gather"),
    (MultiTaskReplayBuffer, "add"),
    (MultiTaskReplayBuffer, "sample"),
]


def with_each(rows):
    """Try one mutation on each row, a different one each time; the product is for ``full``."""
    chosen = cycle(MUTATIONS)
    for row in rows:
        row = row if isinstance(row, tuple) else (row,)
        now = next(chosen)
        for mutation in MUTATIONS:
            marks = [] if mutation == now else [pytest.mark.full]
            names = [each.__name__ if isinstance(each, type) else str(each) for each in row]
            yield pytest.param(*row, mutation, marks=marks, id="-".join([*names, mutation]))


def first_tensor(*values):
    """Return a tensor on the device out of arguments, modules or buffers."""
    for value in tree_leaves(values):
        found = [value]
        if isinstance(value, nn.Module):
            found = [*value.parameters()]
        elif hasattr(value, "actions"):
            found = [value.actions]
        for each in found:
            if isinstance(each, th.Tensor) and each.device.type == NAME and each.numel():
                return each
    raise AssertionError("the function has nothing on the device")


def spoil(monkeypatch, owner, name, mutation):
    """Let a function do something more, with the first tensor that it has or returns."""
    function = getattr(owner, name)

    def spoilt(*args, **kwargs):
        out = function(*args, **kwargs)
        MUTATIONS[mutation](first_tensor(args, kwargs, out))
        return out

    monkeypatch.setattr(owner, name, spoilt)


def fails(run, mutation):
    """Check that a run is told from one without the mutation, by what it is told by."""
    with fake_device() as watch:
        if mutation == "wrong device":
            with pytest.raises(RuntimeError, match="device"):
                run()
        else:
            run()
            wrong = undue(watch, looking=True)
            assert {Place(each.file, "") for each in wrong} == {Place(HERE, "")}


@pytest.mark.parametrize(("algorithm", "alias", "mutation"), list(with_each(FAMILIES)))
def test_a_mutation_in_a_policy_of_each_family_is_found(algorithm, alias, mutation, monkeypatch):
    def run():
        model = on_device.make(algorithm, alias, placement="middle")
        layer = next(iter(model.policy.moe_layers().values()))
        spoil(monkeypatch, type(layer), "forward", mutation)
        on_device.learn(model)

    fails(run, mutation)


@pytest.mark.parametrize(("router", "mutation"), list(with_each([*ROUTERS])))
def test_a_mutation_in_each_router_is_found(router, mutation, monkeypatch):
    def run():
        tokens = "feature" if router == "expert_choice" else "sample"
        options = {"placement": "middle", "router": router, "tokens": tokens}
        model = on_device.make("PPO", "MoeMultiInputPolicy", **options)
        layer = next(iter(model.policy.moe_layers().values()))
        spoil(monkeypatch, type(layer), "forward", mutation)
        on_device.learn(model)

    fails(run, mutation)


def look(monkeypatch, path, mutation, what):
    module, name = path.split(":")

    def run():
        model = on_device.make("PPO", "MoeMlpPolicy", router="top_k", placement="middle")
        on_device.learn(model)
        spoil(monkeypatch, import_module(module), name, mutation)
        what(model.policy, arena.observe(model))

    fails(run, mutation)


@pytest.mark.parametrize(("path", "mutation"), list(with_each(MEASURES)))
def test_a_mutation_in_each_measure_is_found(path, mutation, monkeypatch):
    look(monkeypatch, path, mutation, on_device.measure)


@pytest.mark.parametrize(("path", "mutation"), list(with_each(REMEDIES)))
def test_a_mutation_in_each_remedy_is_found(path, mutation, monkeypatch):
    look(monkeypatch, path, mutation, on_device.treat)


def fill_and_draw(kind):
    """Use a buffer of a kind as training does."""
    obs, actions, ones = np.zeros((2, 5), np.float32), np.zeros((2, 1)), np.ones(2)
    if issubclass(kind, DeviceRolloutBuffer):
        buffer = kind(2, arena.FLAT, spaces.Discrete(4), NAME, n_envs=2)
        for _ in range(2):
            value = th.zeros(2, device=NAME)
            buffer.add(obs, actions, ones, ones, value, value)
        list(buffer.get(2))
        return
    buffer = kind(8, arena.FLAT, spaces.Discrete(4), NAME, 2)
    buffer.add(obs, obs, actions, ones, ones, [{"task_id": 0}, {"task_id": 1}])
    buffer.sample(4)


@pytest.mark.parametrize("kind", [DeviceRolloutBuffer, DeviceReplayBuffer, MultiTaskReplayBuffer])
def test_a_buffer_without_a_mutation_passes(kind):
    with fake_device() as watch:
        fill_and_draw(kind)
    assert undue(watch) == set()


@pytest.mark.parametrize(("kind", "name", "mutation"), list(with_each(BUFFERS)))
def test_a_mutation_in_each_buffer_is_found(kind, name, mutation, monkeypatch):
    spoil(monkeypatch, kind, name, mutation)
    fails(lambda: fill_and_draw(kind), mutation)
