"""The table of algorithms and policy names."""

from importlib import import_module

import pytest
from arena import algorithm_class as algorithm
from stable_baselines3 import PPO

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.registration import TABLE, register

ROWS = [(name, alias) for name, entry in TABLE.items() for alias in entry.aliases]


@pytest.mark.parametrize(("name", "alias"), ROWS)
def test_a_name_stands_for_the_class_of_that_name(name, alias):
    policy = algorithm(name).policy_aliases[alias]
    assert policy is getattr(import_module(TABLE[name].policies), alias)
    assert issubclass(policy, MoEPolicy)
    # Behind the mixin stands the dense policy of the same name.
    dense = algorithm(name).policy_aliases[alias.removeprefix("Moe")]
    assert issubclass(policy, dense)


@pytest.mark.parametrize("name", TABLE)
def test_every_dense_name_has_a_counterpart(name):
    aliases = algorithm(name).policy_aliases
    dense = {alias for alias in aliases if not alias.startswith("Moe")}
    if name == "RecurrentPPO":
        # It inherits PPO's names without recurrence, which it can't use.
        dense = {alias for alias in dense if alias.endswith("LstmPolicy")}
    assert {f"Moe{alias}" for alias in dense} <= set(aliases)


def test_sb3s_own_names_are_left_alone_and_registering_twice_changes_nothing():
    before = {name: dict(algorithm(name).policy_aliases) for name in TABLE}
    register()
    assert {name: algorithm(name).policy_aliases for name in TABLE} == before
    assert PPO.policy_aliases["MlpPolicy"].__module__ == "stable_baselines3.common.policies"
