"""placement="none" is SB3's own policy, weight for weight; and defaults where experts come in."""

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

SB3_SPACES = {
    "Mlp": arena.FLAT,
    "Cnn": arena.SB3_IMAGE,
    "MultiInput": spaces.Dict({"obs": arena.FLAT, "task_id": spaces.Discrete(3)}),
}


def pair_of_models(algorithm, alias, **policy_kwargs):
    """Return ours without experts and SB3's own, for the same seed."""
    env = arena.Arena(SB3_SPACES[arena.kind_of(alias)], arena.actions_of(algorithm))
    ours = arena.make(algorithm, alias, env, placement="none", **policy_kwargs)
    dense = arena.make(algorithm, alias.removeprefix("Moe"), env, **policy_kwargs)
    return ours, dense


def optimizers(policy):
    return [m.optimizer for m in (policy, *policy.children()) if hasattr(m, "optimizer")]


@pytest.mark.covering
@pytest.mark.parametrize(("algorithm", "alias"), arena.PAIRS)
def test_without_experts_weights_optimizers_and_training_are_those_of_sb3(algorithm, alias):
    ours, dense = pair_of_models(algorithm, alias, net_arch=[8, 8])
    arena.assert_same_weights(ours.policy, dense.policy)
    for mine, theirs in zip(optimizers(ours.policy), optimizers(dense.policy), strict=True):
        assert type(mine) is type(theirs)
        assert mine.defaults == theirs.defaults
    before = {name: tensor.clone() for name, tensor in ours.policy.state_dict().items()}
    for model in (ours, dense):
        # Building the second model moved the random numbers on.
        model.set_random_seed(1)
        arena.train(model, 20)
    arena.assert_same_weights(ours.policy, dense.policy)
    after = ours.policy.state_dict()
    assert any(not th.equal(before[name], after[name]) for name in after)


@pytest.mark.parametrize("algorithm", sorted({name for name, _ in arena.PAIRS} - {"RecurrentPPO"}))
def test_without_experts_the_default_net_arch_is_that_of_sb3(algorithm):
    ours, dense = pair_of_models(algorithm, "MoeMlpPolicy")
    arena.assert_same_weights(ours.policy, dense.policy)


def test_without_experts_a_policy_of_flat_observations_takes_a_dict():
    model = arena.make("PPO", env=arena.Arena(SB3_SPACES["MultiInput"]), placement="none")
    assert model.policy.features_extractor.features_dim == 5 + 3
    arena.train(model, 20)


def test_without_experts_there_is_nothing_to_look_into():
    policy = arena.make("PPO", placement="none").policy
    assert policy.moe_layers() == {}
    assert policy.routing(np.zeros((2, 5), np.float32)) == {}
