"""A policy built again: with every argument, and with weights drawn as at the beginning."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO, SAC

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.measures.resets import fresh_copy

RECURRENT = RecurrentPPO.policy_aliases["MlpLstmPolicy"]


@pytest.mark.parametrize(
    ("policy_class", "kwargs"),
    [
        (PPO.policy_aliases["MlpPolicy"], {"ortho_init": False}),
        (PPO.policy_aliases["MoeMlpPolicy"], {"share_features_extractor": False}),
        (MaskablePPO.policy_aliases["CnnPolicy"], {"share_features_extractor": False}),
        (RECURRENT, {"lstm_hidden_size": 8, "n_lstm_layers": 2}),
        (RECURRENT, {"lstm_hidden_size": 8, "shared_lstm": True, "enable_critic_lstm": False}),
        (SAC.policy_aliases["MlpPolicy"], {"n_critics": 3}),
        (SAC.policy_aliases["CnnPolicy"], {"share_features_extractor": True}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_fresh_copy_starts_as_the_constructor_starts_a_policy(policy_class, kwargs):
    cnn = "Cnn" in policy_class.__name__
    space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8) if cnn else gym.spaces.Box(-1, 1, (4,))
    box = policy_class in SAC.policy_aliases.values()
    actions = gym.spaces.Box(-1, 1, (2,)) if box else gym.spaces.Discrete(2)
    th.manual_seed(3)
    policy = policy_class(space, actions, lambda _: 1e-3, **kwargs)
    before = copy.deepcopy(policy.state_dict())
    for parameter in policy.parameters():
        parameter.data.mul_(2.0)
    th.manual_seed(3)
    fresh = fresh_copy(policy).state_dict()
    assert list(fresh) == list(before)
    assert all(th.equal(fresh[name], before[name]) for name in before)


class Forgetful(PPO.policy_aliases["MlpPolicy"]):
    """A policy that does not give its own argument back."""

    def __init__(self, *args, width=8, **kwargs):
        super().__init__(*args, **(kwargs | {"net_arch": [width]}))


def test_a_policy_that_forgets_an_argument_of_its_networks_is_refused():
    spaces = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)
    policy = Forgetful(*spaces, lambda _: 1e-3, width=16)
    with pytest.raises(
        ValueError,
        match=r"`policy` must give all .* in `_get_constructor_parameters`, got a Forgetful whose "
        r"action_net.weight has shape \(2, 16\) and, built again, \(2, 8\)",
    ):
        fresh_copy(policy)
