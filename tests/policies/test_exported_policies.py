"""Policies recorded for deployment at one batch size, and run at others."""

import arena
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

PLANES = spaces.Box(0, 1, (10, 10, 7), "uint8")


class Deployed(nn.Module):
    """From an observation to what SB3 takes the action from."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, obs):
        policy = self.policy
        if hasattr(policy, "q_net"):
            return policy.q_net(obs)
        latent = policy.mlp_extractor.forward_actor(policy.extract_features(obs))
        return policy.action_net(latent)


def deployed(algorithm, **options):
    env = arena.Arena(PLANES, num_tasks=3)
    kwargs = {"features_extractor_kwargs": {"num_tasks": 3}, "net_arch": [8]}
    policy = arena.make(algorithm, "MoeCnnPolicy", env, **kwargs, **options).policy
    policy.set_training_mode(False)
    return Deployed(policy)


def pictures(n):
    planes = th.eye(3, dtype=th.uint8)[th.arange(n) % 3].view(n, 1, 1, 3).expand(n, 10, 10, 3)
    return th.cat([th.randint(2, (n, 10, 10, 4), dtype=th.uint8), planes], 3)


OPTIONS = [
    {"tokens": "conv"},
    {"placement": "big", "router": "task"},
    {"placement": "all", "router": "top_k", "tokens": "feature"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_an_export_of_a_policy_runs_at_any_batch_size(algorithm, options):
    network = deployed(algorithm, **options)
    batch = {0: th.export.Dim("batch", min=1, max=10**6)}
    recorded = th.export.export(network, (pictures(4),), dynamic_shapes=(batch,)).module()
    with th.no_grad():
        for n in (1, 3, 9):
            obs = pictures(n)
            th.testing.assert_close(recorded(obs), network(obs), rtol=1e-4, atol=1e-4)
