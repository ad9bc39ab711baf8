"""Target networks follow the online ones, buffers too; CrossQ keeps its BatchRenorm."""

import arena
import pytest
import torch as th
from sb3_contrib.common.torch_layers import BatchRenorm

PLACEMENTS = ("middle", "final", "all", "big")
# (online, target) by algorithm.
NETWORKS = {
    "DQN": [("q_net", "q_net_target")],
    "QRDQN": [("quantile_net", "quantile_net_target")],
    "SAC": [("critic", "critic_target")],
    "TQC": [("critic", "critic_target")],
    "TD3": [("critic", "critic_target"), ("actor", "actor_target")],
    "DDPG": [("critic", "critic_target"), ("actor", "actor_target")],
}


def networks(model):
    names = NETWORKS[type(model).__name__]
    return [tuple(getattr(model.policy, name) for name in pair) for pair in names]


def make(algorithm, tau, **options):
    arguments = {"tau": tau}
    if algorithm in ("DQN", "QRDQN"):
        arguments["target_update_interval"] = 1
    return arena.make(algorithm, model=arguments, net_arch=[8], **options)


def update_targets(model):
    """Let DQN update its target, which it does at a step of the environment, not of training."""
    if hasattr(model, "target_update_interval"):
        model._on_step()


@pytest.mark.covering
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("algorithm", NETWORKS)
def test_at_tau_1_targets_are_copies_with_the_bias_too(algorithm, placement):
    model = make(algorithm, 1.0, placement=placement, router="top_k", bias_rate=0.1)
    arena.train(model, 24)
    update_targets(model)
    for online, target in networks(model):
        biases = [b for name, b in target.named_buffers() if "running_bias" in name]
        assert biases
        assert any(b.any() for b in biases)
        arena.assert_same_weights(online, target)


def norms_of(module):
    return [m for m in module.modules() if isinstance(m, BatchRenorm)]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_crossq_switches_every_batch_renorm_and_they_learn(placement):
    model = arena.make("CrossQ", placement=placement, net_arch=[8])
    norms = norms_of(model.policy.critic)
    for mode in (True, False):
        model.policy.critic.set_bn_training_mode(mode)
        assert all(norm.training == mode for norm in norms)
    before = [norm.ra_mean.clone() for norm in norms]
    arena.train(model, 24)
    assert all(not th.equal(norm.ra_mean, old) for norm, old in zip(norms, before, strict=True))


def test_a_big_critic_of_crossq_equals_plain_networks_with_batch_renorm():
    policy = arena.train(arena.make("CrossQ", placement="big", net_arch=[8])).policy
    policy.set_training_mode(False)
    obs, actions = th.rand(6, 5), th.rand(6, 2)
    network = policy.critic.q_networks[0]
    x = network.norms(th.cat([obs, actions], 1))
    with th.no_grad():
        gates = (x @ policy.moe_layers()["qf0.big"].router.weight_RK).softmax(-1)
        experts = [policy.get_expert("qf0", k).eval() for k in range(4)]
        assert len(norms_of(experts[0])) == 1
        outs = th.stack([expert(x) for expert in experts], 1)
        expected = (outs * gates.unsqueeze(-1)).sum(1)
        th.testing.assert_close(policy.critic(obs, actions)[0], expected)
