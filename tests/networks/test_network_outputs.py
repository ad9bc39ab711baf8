"""How all towers of a policy run, and what they say about a batch."""

import arena
import torch as th
from every_network import every_policy, make, parameters_of
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of


@every_policy
def test_towers_run_from_features_to_what_the_policy_says(algorithm, alias):
    model = make(algorithm, alias)
    networks = networks_of(model.policy)
    obs, _ = model.policy.obs_to_tensor(arena.observe(model, 5))
    inputs, order = {}, []
    watched = [(t, m) for t, modules in networks.towers().items() for m in modules]
    for tower, module in watched:

        def hook(module, args, output, tower=tower):
            order.append((tower, module))
            inputs.setdefault(tower, args[0])

        module.register_forward_hook(hook)
    with evaluating(model.policy), th.no_grad():
        networks.run(obs)
    # An actor runs its own modules in order, and each critic after it.
    assert order == watched
    assert all(len(seen) == 5 for seen in inputs.values())


@every_policy
def test_outputs_have_a_number_for_each_sample_and_a_graph_to_every_tower(algorithm, alias):
    model = make(algorithm, alias)
    networks = networks_of(model.policy)
    obs, _ = model.policy.obs_to_tensor(arena.observe(model, 5))
    with evaluating(model.policy):
        outputs = networks.outputs(obs)
    assert list(outputs) == list(networks.towers())
    for tower, output_B in outputs.items():
        assert output_B.shape == (5,)
        mine = list(parameters_of(networks.towers()[tower]))
        found = th.autograd.grad(output_B.sum(), mine, retain_graph=True, allow_unused=True)
        assert any(each is not None for each in found)


def test_outputs_are_the_best_actions_and_their_values():
    ppo, dqn, td3 = (make(name, "MlpPolicy") for name in ("PPO", "DQN", "TD3"))
    obs = th.as_tensor(arena.observe(ppo, 5))
    with th.no_grad():
        outputs = networks_of(ppo.policy).outputs(obs)
        probs_BA = ppo.policy.get_distribution(obs).distribution.probs
        th.testing.assert_close(outputs["pi"], probs_BA.max(1).values.log())
        th.testing.assert_close(outputs["vf"], ppo.policy.predict_values(obs)[:, 0])
        values_BA = dqn.policy.q_net(obs)
        th.testing.assert_close(networks_of(dqn.policy).outputs(obs)["qf"], values_BA.max(1).values)
        outputs, actions_BA = networks_of(td3.policy).outputs(obs), td3.policy.actor(obs)
        th.testing.assert_close(outputs["pi"], actions_BA.sum(1))
        for i, values in enumerate(td3.policy.critic(obs, actions_BA)):
            th.testing.assert_close(outputs[f"qf{i}"], values[:, 0])


def test_an_lstm_without_dropout_is_left_in_training_mode_for_cudnn():
    plain, dropping = nn.LSTM(2, 3), nn.LSTM(2, 3, num_layers=2, dropout=0.5)
    network = nn.ModuleList([plain, dropping, nn.Dropout()])
    for training in (True, False):
        network.train(training)
        with evaluating(network):
            assert [module.training for module in network] == [True, False, False]
        assert all(module.training == training for module in network)
