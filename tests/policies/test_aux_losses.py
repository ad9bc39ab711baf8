"""Auxiliary losses and balancing, through algorithms that know nothing of them."""

import arena
import pytest
import torch as th

from sb3_moe.layers import AuxCoefs
from sb3_moe.layers.aux_loss import total_loss

COEFS = {"balance_coef": 0.3, "importance_coef": 0.2, "z_coef": 0.1}
AUX = AuxCoefs(0.3, 0.2, 0.1)
ROUTERS = ("soft", "top_k")


def gradients_of_the_loss(policy, module, forward):
    """Return the gradients of the losses of all layers of a module, added up by hand."""
    inside = {id(m) for m in module.modules()}
    layers = [layer for layer in policy.moe_layers().values() if id(layer) in inside]
    losses = []
    handles = [
        layer.register_forward_hook(lambda m, args, out: losses.append(total_loss(out[1], AUX)))
        for layer in layers
    ]
    policy.set_training_mode(False)
    forward()
    for handle in handles:
        handle.remove()
    assert len(losses) == len(layers) > 0
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = th.autograd.grad(sum(losses), parameters, allow_unused=True)
    return {n: g for n, g in zip(names, gradients, strict=True) if g is not None}


def assert_difference(with_loss, without, by_hand):
    for name, gradient in without.items():
        expected = gradient + by_hand.get(name, th.zeros_like(gradient))
        th.testing.assert_close(with_loss[name], expected, atol=1e-6, rtol=1e-4)
    assert any(g.abs().max() > 1e-4 for g in by_hand.values())


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("placement", ["middle", "all", "big"])
def test_ppos_gradient_is_that_of_adding_the_losses_to_its_own(placement, router):
    gradients = []
    for coefs in (COEFS, {}):
        # One minibatch, and no clipping of the gradient.
        whole = {"batch_size": 16, "n_epochs": 1, "max_grad_norm": 1e9}
        options = {"placement": placement, "router": router, "net_arch": [8], **coefs}
        model = arena.make("PPO", model=whole, **options)
        _, callback = model._setup_learn(16)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 16)
        policy = model.policy
        obs = th.as_tensor(model.rollout_buffer.observations).flatten(0, 1)
        actions = th.as_tensor(model.rollout_buffer.actions).flatten()
        by_hand = gradients_of_the_loss(
            policy, policy, lambda p=policy, o=obs, a=actions: p.evaluate_actions(o, a)
        )
        gradients.append(arena.gradients_of_training(model, policy))
    assert_difference(*gradients, by_hand)


def trained_off_policy(algorithm, learning_rate=0.0, **options):
    """Return a model with data, which trains on one fixed batch and (at rate 0) stays the same."""
    arguments = {"learning_rate": learning_rate, "learning_starts": 40}
    model = arena.make(algorithm, model=arguments, net_arch=[8], **options)
    arena.train(model, 24)
    batch = model.replay_buffer.sample(8)
    model.replay_buffer.sample = lambda *args, **kwargs: batch
    th.manual_seed(0)
    return model, batch


@pytest.mark.covering
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("placement", ["middle", "all", "big"])
@pytest.mark.parametrize("part", ["actor", "critic"])
def test_sacs_gradient_is_that_of_adding_the_losses_to_its_own(part, placement, router):
    gradients = []
    for coefs in (COEFS, {}):
        options = {"placement": placement, "router": router, **coefs}
        model, batch = trained_off_policy("SAC", **options)
        module = getattr(model.policy, part)
        inputs = (batch.observations, batch.actions)[: 1 if part == "actor" else 2]
        by_hand = gradients_of_the_loss(model.policy, module, lambda m=module, i=inputs: m(*i))
        th.manual_seed(0)
        once = {"gradient_steps": 1, "batch_size": 8}
        gradients.append(arena.gradients_of_training(model, module, **once))
    assert_difference(*gradients, by_hand)


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "CrossQ"])
@pytest.mark.parametrize("placement", ["middle", "big"])
def test_a_loss_in_the_critic_leaves_the_actors_gradient_as_it_is(algorithm, placement):
    actors, critics = [], []
    for coef in (0.0, 1.0):
        options = {"placement": placement, "router": "top_k", "balance_coef": {"qf": coef}}
        for part, found in (("actor", actors), ("critic", critics)):
            model, _ = trained_off_policy(algorithm, **options)
            module = getattr(model.policy, part)
            six = {"gradient_steps": 6, "batch_size": 8}
            found.append(arena.gradients_of_training(model, module, **six))
    assert all(th.equal(actors[0][name], actors[1][name]) for name in actors[0])
    assert not all(th.equal(critics[0][name], critics[1][name]) for name in critics[0])


@pytest.mark.covering
@pytest.mark.parametrize("placement", ["middle", "final", "all", "big"])
@pytest.mark.parametrize("router", ["soft", "top_k", "task", "uniform", "random"])
@pytest.mark.parametrize("algorithm", ["PPO", "RecurrentPPO"])
def test_at_learning_rate_0_ppos_policy_stays_the_same(algorithm, router, placement):
    alias = "MoeMultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMultiInputPolicy"
    options = {"soft": {**COEFS, "normalize_router": True}, "random": {"normalize_router": True}}
    options["top_k"] = {**COEFS, "top_k": 2, "normalize_router": True}
    env = arena.Arena(arena.with_task(arena.FLAT))
    model = arena.make(
        algorithm,
        alias,
        env,
        model={"learning_rate": 0.0, "n_epochs": 3, "batch_size": 8},
        placement=placement,
        router=router,
        net_arch=[8],
        **options.get(router, {}),
    )
    arena.train(model, 16)
    assert abs(model.logger.name_to_value["train/approx_kl"]) < 1e-6
    assert model.logger.name_to_value["train/clip_fraction"] == 0
