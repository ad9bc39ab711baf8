"""What a policy's networks are, which optimizer learns them, how they run, and what they say."""

from functools import cache

import arena
import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.plasticity import fisher_information
from sb3_moe.policies.masks import moments_in, moments_of
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.registration import TABLE

CASES = [
    (algorithm, prefix + ("MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"))
    for algorithm in TABLE
    for prefix in ("", "Moe")
]
every_policy = pytest.mark.parametrize(("algorithm", "alias"), CASES)
CRITICS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")


def make(algorithm, alias, *, model=None, **policy_kwargs):
    """Return a small model; where it has experts, it sees a task id."""
    num_tasks = arena.NUM_TASKS if "Moe" in alias else 0
    if num_tasks:
        policy_kwargs["features_extractor_kwargs"] = {"num_tasks": num_tasks}
    if "Lstm" in alias:
        policy_kwargs["lstm_hidden_size"] = 8
    env = arena.default_env(algorithm, "MoeMlpPolicy", num_tasks)
    return arena.make(algorithm, alias, env, model=model, net_arch=[8, 6], **policy_kwargs)


@cache
def made(algorithm, alias):
    """Return the model that the tests of this file look at; none of them changes it."""
    return make(algorithm, alias)


def parameters_of(held):
    """Return the parameters among and in modules."""
    return [p for e in held for p in ([e] if isinstance(e, nn.Parameter) else e.parameters())]


@every_policy
def test_optimizers_hold_exactly_their_networks_parameters(algorithm, alias):
    policy = made(algorithm, alias).policy
    networks = networks_of(policy)
    by_name, optimizers = networks.modules(), networks.optimizers()
    assert list(optimizers) == list(by_name)
    beside = {id(p) for p in parameters_of(networks.extractors().values())}
    beside |= {id(p) for p in parameters_of(networks.memories().values())}
    for optimizer in set(optimizers.values()):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        learned = [modules for name, modules in by_name.items() if optimizers[name] is optimizer]
        assert held - beside == {id(p) for modules in learned for p in parameters_of(modules)}
    own = networks.critic_optimizer()
    assert own is (policy.critic.optimizer if algorithm in CRITICS else None)


@every_policy
def test_constructor_arguments_build_the_same_policy_again(algorithm, alias):
    policy = made(algorithm, alias).policy
    again = type(policy)(**networks_of(policy).constructor_arguments())
    ours, theirs = policy.state_dict(), again.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@every_policy
def test_networks_run_in_order_and_say_a_number_for_each_sample(algorithm, alias):
    model = made(algorithm, alias)
    networks = networks_of(model.policy)
    obs, _ = model.policy.obs_to_tensor(arena.observe(model, 5))
    order, handles = [], []
    watched = [(t, m) for t, modules in networks.modules().items() for m in modules]
    for network, module in watched:

        def hook(module, args, output, network=network):
            assert len(args[0]) == 5
            order.append((network, module))

        handles.append(module.register_forward_hook(hook))
    with evaluating(model.policy), th.no_grad():
        networks.run(obs)
    for handle in handles:
        handle.remove()
    # An actor runs its own modules in order, and each critic after it.
    assert order == watched
    with evaluating(model.policy):
        outputs = networks.outputs(obs)
    assert list(outputs) == list(networks.modules())
    for network, output_B in outputs.items():
        assert output_B.shape == (5,)
        mine = parameters_of(networks.modules()[network])
        found = th.autograd.grad(output_B.sum(), mine, retain_graph=True, allow_unused=True)
        assert any(each is not None for each in found)


def test_outputs_are_the_best_actions_and_their_values():
    ppo, dqn, td3 = (made(name, "MlpPolicy") for name in ("PPO", "DQN", "TD3"))
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


def test_running_averages_are_shaped_like_their_parameter_and_counts_are_none():
    for shape in ((3,), ()):
        weight, other = nn.Parameter(th.zeros(shape)), nn.Parameter(th.zeros(shape))
        optimizer = th.optim.NAdam([weight, other])
        weight.grad = th.ones(shape)
        optimizer.step()
        assert list(moments_of(optimizer, weight)) == ["exp_avg", "exp_avg_sq"]
        assert moments_of(optimizer, other) == {}
        assert list(moments_in(optimizer)) == [weight]


# Parts and targets.


def assert_every_parameter_is_in_one_part(policy):
    parts = networks_of(policy).parts()
    homes = [(id(p), name) for name, held in parts.items() for p in {*parameters_of(held)}]
    assert len(homes) == len(dict(homes)), "in two parts"
    named = policy.named_parameters()
    assert set(dict(homes)) == {id(p) for n, p in named if "_target" not in n.split(".")[0]}


@every_policy
def test_every_online_parameter_is_in_exactly_one_part(algorithm, alias):
    assert_every_parameter_is_in_one_part(made(algorithm, alias).policy)


@pytest.mark.parametrize(
    ("algorithm", "alias", "kwargs"),
    [
        ("PPO", "MlpPolicy", {"share_features_extractor": False}),
        ("TD3", "MoeMlpPolicy", {"share_features_extractor": True}),
        ("RecurrentPPO", "MlpLstmPolicy", {"enable_critic_lstm": False}),
        ("RecurrentPPO", "MoeMlpLstmPolicy", {"enable_critic_lstm": False, "shared_lstm": True}),
        ("SAC", "MoeMlpPolicy", {"placement": "big"}),
    ],
)
def test_so_it_is_with_shared_extractors_and_memories(algorithm, alias, kwargs):
    assert_every_parameter_is_in_one_part(make(algorithm, alias, **kwargs).policy)


def test_the_tensors_of_noise_are_the_actors_or_a_part_of_their_own():
    policy = make("SAC", "MlpPolicy", model={"use_sde": True}).policy
    assert_every_parameter_is_in_one_part(policy)
    assert any(each is policy.actor.log_std for each in networks_of(policy).parts()["pi"])
    model = arena.make("PPO", "MlpPolicy", arena.Arena(arena.FLAT, arena.BOX))
    assert networks_of(model.policy).parts()["log_std"] == [model.policy.log_std]


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_a_shared_encoder_is_one_part_and_separate_ones_are_two(algorithm):
    env = arena.Arena(arena.SB3_IMAGE, arena.actions_of(algorithm))
    for shared, names in ((True, ["features"]), (False, ["features", "vf_features"])):
        options = {"net_arch": [8], "share_features_extractor": shared}
        policy = arena.make(algorithm, "MoeCnnPolicy", env, **options).policy
        assert_every_parameter_is_in_one_part(policy)
        assert list(networks_of(policy).extractors()) == names


@every_policy
def test_each_online_module_is_followed_by_the_one_at_its_targets_place(algorithm, alias):
    policy = made(algorithm, alias).policy
    networks, modules = networks_of(policy), dict(policy.named_modules())
    names = {name.split(".")[0] for name, _ in policy.named_parameters()}
    assert len(networks.targets()) == sum(name.endswith("_target") for name in names)
    for online, target in networks.targets().items():
        ours, theirs = online.state_dict(), target.state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    for path, module in policy.named_modules():
        first, dot, rest = path.partition(".")
        if not first.endswith("_target"):
            assert networks.target_of(module) is modules.get(f"{first}_target{dot}{rest}"), path


# Actions that were taken, and tasks.


def taken(model, rows):
    """Sample actions as the algorithm would keep them: an actor's in [-1, 1]."""
    model.action_space.seed(0)
    actions = np.array([model.action_space.sample() for _ in range(rows)])
    return np.clip(actions, -0.9, 0.9) if actions.dtype.kind == "f" else actions


@every_policy
def test_every_policy_knows_how_much_its_weights_count_for_actions_that_were_taken(
    algorithm, alias
):
    model = made(algorithm, alias)
    networks, was_training = networks_of(model.policy), model.policy.training
    obs, actions = arena.observe(model, 3), taken(model, 3)
    named = dict(model.policy.named_parameters())
    found = fisher_information(model.policy, obs, actions, named)
    assert model.policy.training == was_training
    names = {each: name for name, each in named.items()}
    for network, modules in networks.modules().items():
        counts = any(found[names[each]].any() for each in parameters_of(modules))
        # Value networks of policies that have probabilities say nothing of actions.
        assert counts == (network != "vf")
    for target in networks.targets().values():
        assert not any(found[names[each]].any() for each in target.parameters())
    rows = [(obs[i : i + 1], actions[i : i + 1]) for i in range(3)]
    single = [fisher_information(model.policy, *row, named) for row in rows]
    for name, each in found.items():
        mean = np.mean([one[name] for one in single], axis=0)
        np.testing.assert_allclose(each, mean, rtol=1e-4, atol=1e-6)
