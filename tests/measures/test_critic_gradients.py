"""The gradient of a critic is that of its own loss, whatever the actor's leaves behind."""

import pytest
import torch as th
from sb3_contrib import CrossQ
from stable_baselines3 import SAC, TD3

import sb3_moe
from sb3_moe.callbacks import PlasticityCallback, collect_probe
from sb3_moe.measures.plasticity import CriticGradients
from sb3_moe.vec_env import make_multitask_vec_env

CRITICS = ("qf0", "qf1")


def make_env():
    return make_multitask_vec_env("Classic/Pendulum4", 4, seed=0, task_id="onehot")


def make_model(algo, policy="MlpPolicy"):
    options = {"learning_starts": 8, "batch_size": 16, "policy_kwargs": {"net_arch": [16, 16]}}
    return algo(policy, make_env(), seed=1, device="cpu", **options)


def watch(optimizer):
    """Note the norm, and the zeros, of each gradient as the optimizer sees it."""
    seen = []

    def note(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        flat = th.cat([each.flatten() for each in gradients])
        seen.append((float(flat.norm()), float((flat == 0).double().sum())))

    optimizer.register_step_pre_hook(note)
    return seen


@pytest.mark.covering
@pytest.mark.parametrize("policy", ["MlpPolicy", "MoeMlpPolicy"])
@pytest.mark.parametrize("algo", [SAC, TD3, CrossQ])
def test_gradients_of_critics_and_actors_are_those_of_their_own_last_step(algo, policy):
    model = make_model(algo, policy)
    critic, actor = watch(model.critic.optimizer), watch(model.actor.optimizer)
    callback = PlasticityCallback(10_000, probe=collect_probe(make_env(), 8), ntk_size=0)
    # Twelve updates: the last one is of the actor too, whatever its delay.
    model.learn(56, callback=callback)
    assert model._n_updates == 12
    found = {name: rows[-1] for name, rows in callback.diagnostics.items()}
    norms = [found[f"gradient_norm/{name}"] for name in CRITICS]
    assert th.tensor(norms).norm() == pytest.approx(critic[-1][0], rel=1e-5)
    assert found["gradient_norm/pi"] == pytest.approx(actor[-1][0], rel=1e-5)
    sizes = [sum(p.numel() for p in getattr(model.critic, name).parameters()) for name in CRITICS]
    zeros = sum(found[f"zero_gradients/{n}"] * size for n, size in zip(CRITICS, sizes, strict=True))
    assert zeros == pytest.approx(critic[-1][1])


def test_gradients_are_those_of_experts_that_joined_too():
    model, gradients = make_model(SAC, "MoeMlpPolicy"), CriticGradients()
    gradients.attach(model.policy)
    sb3_moe.add_experts(model)
    model.learn(16)
    assert gradients.of_last_step.keys() == {*model.critic.parameters()}


def test_watching_a_critic_leaves_training_the_same_and_no_hook_behind():
    probe = collect_probe(make_env(), 8)
    alone = make_model(TD3).learn(40)
    watched = make_model(TD3)
    watched.learn(40, callback=PlasticityCallback(8, probe=probe))
    assert not watched.critic.optimizer._optimizer_step_post_hooks
    for one, other in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert th.equal(one, other)
