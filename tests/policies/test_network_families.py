"""Families of policies: how one is found, and how a user adds one."""

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_moe.callbacks import PlasticityCallback
from sb3_moe.measures import measure, measure_layers, measure_weights
from sb3_moe.policies.networks import (
    FAMILIES,
    Decision,
    Network,
    Networks,
    networks_of,
    register_networks,
)


class OneNetwork(ActorCriticPolicy):
    """A policy of a user's own, which has an ``action_net`` but no value network."""


@pytest.fixture
def registered():
    """Let a test register families that no other sees."""
    before = list(FAMILIES)
    yield
    FAMILIES[:] = before


@pytest.mark.usefixtures("registered")
def test_a_user_can_add_a_family_which_goes_before_those_there_are():
    @register_networks
    class OwnNetworks(Networks):
        """Where OneNetwork keeps things."""

        @classmethod
        def fits(cls, policy):
            return isinstance(policy, OneNetwork)

        def networks(self):
            policy = self.policy
            return [Network("both", policy.features_extractor, policy.mlp_extractor)]

        def decide(self, obs, **masks):
            _, values, _ = self.policy(obs)
            return Decision("value", (), {"both": values.flatten()})

    model = PPO(OneNetwork, "CartPole-v1", n_steps=64, n_epochs=1, device="cpu")
    networks = networks_of(model.policy)
    assert type(networks) is OwnNetworks
    assert networks.modules() == {"both": [model.policy.mlp_extractor]}
    # What its family does not name goes by the policy's own name for it.
    assert networks.owners()[model.policy.action_net] == "action_net"
    # Whoever asks the family is served without a line that knows it.
    model.learn(64, PlasticityCallback(64, probe_size=8, ntk_size=4))
    obs = model.get_env().reset()
    assert "dormant/both.0" in measure_layers(model.policy, [obs])
    assert "weight_norm/both" in measure_weights(model.policy)
    assert set(measure(model.policy).parts) >= {"both"}


def test_a_policy_of_no_known_family_is_refused_and_told_what_to_do():
    policy = PPO("MlpPolicy", "CartPole-v1", device="cpu").policy
    # SB3 asks a user's own hidden layers for two methods only, so they may be called anything.
    policy.mlp_extractor = nn.Linear(4, 4)
    with pytest.raises(TypeError, match=r"`policy` must be .* register_networks adds one"):
        networks_of(policy)
