"""Every algorithm, alias, placement, router and kind of token: train, save, load."""

import arena
import cases
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.policies.options import DEFAULTS

EVERY = cases.every_case()
COVER = cases.each_placement(EVERY)


def is_target(name):
    return "_target" in name


def optimizers_of(policy):
    modules = [policy, *policy.children()]
    return [m.optimizer for m in modules if hasattr(m, "optimizer") and m.optimizer is not None]


def assert_every_parameter_is_optimized(policy):
    named = {id(p): name for name, p in policy.named_parameters()}
    optimized = {
        id(p)
        for each in optimizers_of(policy)
        for group in each.param_groups
        for p in group["params"]
    }
    assert optimized == {i for i, name in named.items() if not is_target(name)}


class Watch:
    """Note which experts were given tokens that count, and what their weights were before."""

    def __init__(self, policy):
        self.layers = policy.moe_layers()
        self.before = {name: self.experts(layer) for name, layer in self.layers.items()}
        self.used = {name: th.zeros(layer.num_experts) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            layer.register_forward_hook(self.hook(name), with_kwargs=True)

    @staticmethod
    def experts(layer):
        return [layer.experts.expert(k).state_dict() for k in range(layer.num_experts)]

    def hook(self, name):
        def note(module, args, kwargs, output):
            # A critic that judges the actor's actions teaches the actor, not itself.
            if module.training and th.is_grad_enabled() and kwargs["aux"]:
                self.used[name] += output[1].load_E.detach()

        return note

    def assert_used_experts_changed(self):
        for name, layer in self.layers.items():
            assert self.used[name].sum() > 0, name
            for k, (old, new) in enumerate(
                zip(self.before[name], self.experts(layer), strict=True)
            ):
                changed = any(not th.equal(old[key], new[key]) for key in old)
                assert changed == bool(self.used[name][k] > 0), (name, k)


def assert_losses_are_finite(model):
    logged = {k: v for k, v in model.logger.name_to_value.items() if "loss" in k}
    assert logged
    assert all(np.isfinite(value) for value in logged.values()), logged


def assert_same_options(policy, other):
    ours, theirs = (each._get_constructor_parameters() for each in (policy, other))
    del ours["lr_schedule"], theirs["lr_schedule"]
    assert set(DEFAULTS) <= set(ours)
    assert ours == theirs


def check(case, tmp_path):
    model = cases.make(case)
    assert_every_parameter_is_optimized(model.policy)
    watch = Watch(model.policy)
    arena.train(model, 24)
    assert_losses_are_finite(model)
    # TRPO takes no step where its line search fails.
    if model.logger.name_to_value.get("train/is_line_search_success", 1):
        watch.assert_used_experts_changed()
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    obs = arena.observe(model)
    loaded: BaseAlgorithm = type(model).load(tmp_path / "model", device="cpu")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    expected = arena.predict(model, obs)
    for other in (loaded.policy, policy):
        np.testing.assert_array_equal(arena.predict(other, obs), expected)
        assert_same_options(model.policy, other)
    for name, value in cases.options_of(case).items():
        assert policy._get_constructor_parameters()[name] == value


@pytest.mark.parametrize("case", COVER, ids=str)
def test_a_policy_trains_saves_loads_and_gives_back_its_options(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_policy_trains_saves_loads_and_gives_back_its_options(case, tmp_path):
    check(case, tmp_path)
