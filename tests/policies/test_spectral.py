"""The spectral penalty through algorithms that know nothing of it, against exact values."""

import math

import arena
import pytest
import reference
import torch as th

from sb3_moe.layers import MoELayer, experts
from sb3_moe.policies.networks import networks_of

COEF = 0.5
SPHERE = {"router": "top_k", "top_k": 2, "renormalize": True, "router_kwargs": {"hidden": [6]}}


def rolled_out(algorithm="PPO", alias="MoeMlpPolicy", model=None, **options):
    """Return a model with one rollout, which trains on all of it at once, without clipping."""
    whole = {"batch_size": 16, "n_epochs": 1} if algorithm != "A2C" else {}
    arguments = {**whole, "max_grad_norm": 1e9, **(model or {})}
    options = {"placement": {"pi": "big", "vf": "none"}, "net_arch": [4, 4], **SPHERE, **options}
    made = arena.make(algorithm, alias, model=arguments, **options)
    _, callback = made._setup_learn(16)
    made.collect_rollouts(made.env, callback, made.rollout_buffer, 16)
    return made


def network_parameters(policy, network="pi"):
    modules = networks_of(policy).modules()[network]
    return [p for each in modules for p in each.parameters()]


def gradients_of_training(model, module=None, network="pi", **arguments):
    """Return the gradients with which a network was stepped last, zeros where there were none."""
    found = arena.gradients_of_training(model, module or model.policy, **arguments)
    names = {id(p): name for name, p in (module or model.policy).named_parameters()}
    parameters = network_parameters(model.policy, network)
    return [found.get(names[id(p)], th.zeros_like(p)) for p in parameters]


def penalties_gradient(policy, network, forward):
    """Return the gradient of the slow penalty over a network."""
    inside = [m for each in networks_of(policy).modules()[network] for m in each.modules()]
    layer = [m for m in inside if isinstance(m, MoELayer) and m.experts.has_hidden][-1]
    seen = []
    handle = layer.register_forward_hook(lambda m, args, out: seen.append((args[0], out[1])))
    policy.set_training_mode(False)
    forward()
    handle.remove()
    x, routing = seen[-1]
    penalty = reference.spectral_penalty(reference.gated_features(layer, x, routing.gates_BNE))
    parameters = network_parameters(policy, network)
    return reference_gradients(penalty, parameters)


def reference_gradients(loss, parameters):
    found = th.autograd.grad(loss, parameters, allow_unused=True)
    return [th.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def norm(tensors):
    return th.cat([each.flatten() for each in tensors]).norm()


def of_rollout(model):
    buffer = model.rollout_buffer
    obs = th.as_tensor(buffer.observations).flatten(0, 1)
    actions = th.as_tensor(buffer.actions).flatten(0, 1)
    return lambda: model.policy.evaluate_actions(obs, actions.flatten())


def assert_added(with_it, base, own, weight):
    for ours, plain, extra in zip(with_it, base, own, strict=True):
        th.testing.assert_close(ours, plain + weight * extra, atol=1e-6, rtol=1e-4)
    assert norm(own) * weight > 1e-4


ON_POLICY = [
    *(("PPO", placement, 1e9) for placement in ("big", "middle", "all", "body")),
    ("A2C", "big", 1e9),
    ("PPO", "big", 0.01),
]


@pytest.mark.parametrize(("algorithm", "placement", "max_grad_norm"), ON_POLICY)
def test_it_adds_a_share_of_the_losss_norm_over_the_network(algorithm, placement, max_grad_norm):
    """The gradient that counts is the clipped one."""
    options = {"placement": {"pi": placement, "vf": "none"}}
    options["model"] = {"max_grad_norm": max_grad_norm}
    model = rolled_out(algorithm, **options)
    own = penalties_gradient(model.policy, "pi", of_rollout(model))
    base = gradients_of_training(model)
    found = gradients_of_training(rolled_out(algorithm, spectral_coef=COEF, **options))
    assert_added(found, base, own, COEF * norm(base) / norm(own))


def test_the_penalty_is_the_same_on_sorted_rows(monkeypatch):
    options = {"spectral_coef": COEF, "num_experts": 8}
    wanted = gradients_of_training(rolled_out(**options))
    model = rolled_out(**options)
    monkeypatch.setattr(experts, "WIDE_UP_TO", {"cpu": -math.inf})
    th.testing.assert_close(gradients_of_training(model), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("network", ["pi", "qf0"])
def test_sacs_actor_and_critics_get_their_own_penalty(network):
    part = {"pi": "actor", "qf0": "critic"}[network]
    coef = COEF if network == "pi" else {"qf": COEF}
    gradients = []
    for spectral in (0.0, coef):
        options = {"placement": "middle", "net_arch": [8], "spectral_coef": spectral, **SPHERE}
        model = arena.make("SAC", model={"learning_rate": 0.0, "learning_starts": 40}, **options)
        arena.train(model, 24)
        batch = model.replay_buffer.sample(8)
        model.replay_buffer.sample = lambda *args, batch=batch, **kwargs: batch
        module = getattr(model.policy, part)
        inputs = (batch.observations, batch.actions)[: 1 if part == "actor" else 2]
        own = penalties_gradient(model.policy, network, lambda m=module, i=inputs: m(*i))
        th.manual_seed(0)
        gradients.append(
            gradients_of_training(model, module, network, gradient_steps=1, batch_size=8)
        )
    base, found = gradients
    assert_added(found, base, own, COEF * norm(base) / norm(own))


def test_a_step_without_a_pass_before_it_has_no_penalty():
    policy = rolled_out(spectral_coef=COEF).policy
    for parameter in policy.parameters():
        parameter.grad = th.zeros_like(parameter)
    before = [each.detach().clone() for each in policy.parameters()]
    policy.optimizer.step()
    th.testing.assert_close([*policy.parameters()], before)


def test_a_number_is_the_actors_or_of_the_only_network():
    options = {"net_arch": [8], "spectral_coef": 0.1}
    for algorithm, name in (("PPO", "pi"), ("TD3", "pi"), ("DQN", "qf")):
        assert arena.penalized(arena.make(algorithm, **options)) == [f"{name}.middle"]
    options["spectral_coef"] = {"vf": 0.1}
    assert arena.penalized(arena.make("PPO", **options)) == ["vf.middle"]
    options = {"placement": "final", "expert": "simba", "spectral_coef": 0.1}
    assert arena.penalized(arena.make("SAC", **options)) == ["pi.mu"]


WRONG = [
    ("PPO", {"placement": "final"}, "`spectral_coef` needs experts of torch's own layers in seq"),
    ("PPO", {"placement": "body"}, "`spectral_coef` needs experts of torch's own layers in seq"),
    ("PPO", {"expert": "linear"}, "'pi' has none, got .'StackedNetwork'"),
    ("PPO", {"expert": "own_parts:Skipping"}, "'pi' has none, got .'SeparateNetworks'"),
    ("PPO", {"placement": {"pi": "none"}}, "`spectral_coef`=0.1 needs experts, .*`placement`='no"),
    ("PPO", {"spectral_coef": -0.1}, "`spectral_coef` must be at least 0 and finite, got -0.1"),
    ("PPO", {"alias": "MoeCnnPolicy", "tokens": "conv"}, "needs `tokens`='sample'.*got 'conv'"),
    ("CrossQ", {"placement": "big"}, "without statistics over the batch"),
]


@pytest.mark.parametrize(("algorithm", "options", "text"), WRONG)
def test_what_cannot_be_penalized_is_named(algorithm, options, text):
    with pytest.raises(ValueError, match=text):
        arena.make(algorithm, **{"net_arch": [8], "spectral_coef": 0.1, **options})


def test_it_counts_once_in_an_optimizer_that_is_taught_twice():
    model, same = rolled_out(spectral_coef=COEF), rolled_out(spectral_coef=COEF)
    model.policy.set_training_mode(True)
    of_rollout(model)()  # a pass that no step follows
    model.policy.teach_optimizers()
    model.policy.set_training_mode(True)  # the hook that looks comes last
    found, expected = gradients_of_training(model), gradients_of_training(same)
    for ours, theirs in zip(found, expected, strict=True):
        th.testing.assert_close(ours, theirs)
