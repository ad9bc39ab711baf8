"""Penalties that draw weights back to where they were when a task ended."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from toy import toy_vec_env

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import EWCCallback, L2AnchorCallback
from sb3_moe.plasticity.fisher import fisher_information
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Cycle

TASKS = ["CartPole-v1", "Acrobot-v1"]
PENDULUMS = [("Pendulum-v1", {"g": g}) for g in (10.0, 3.0)]
BLOCK, TOTAL = 128, 512
PARTS = ("weight", "bias")


class Two(gym.Env):
    """Two numbers to see and two actions: small enough to work with by hand."""

    observation_space = gym.spaces.Box(-5, 5, (2,))
    action_space = gym.spaces.Discrete(2)


class TwoContinuous(Two):
    action_space = gym.spaces.Box(-1, 1, (1,))


OBS = np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32)


def linear(algo, env=Two, **kwargs):
    """Build a model whose networks are linear, with weights 0."""
    options = {"buffer_size": 10} if algo is not PPO else {"n_steps": 4, "batch_size": 4}
    model = algo("MlpPolicy", env(), policy_kwargs={"net_arch": []} | kwargs, **options)
    for parameter in model.policy.parameters():
        parameter.data.zero_()
    return model


def of(network):
    return {"weight": network.weight, "bias": network.bias}


def test_the_fisher_information_of_a_taken_value_is_the_mean_square_of_what_it_was_weighed_with():
    model = linear(DQN)
    (last,) = (m for m in model.policy.q_net.q_net if isinstance(m, th.nn.Linear))
    found = fisher_information(model.policy, OBS, np.array([0, 1]), of(last))
    # Row 0 took action 0 and row 1 action 1: each action's weights see one row of two.
    np.testing.assert_allclose(found["weight"], [[0.5, 2.0], [4.5, 0.0]])
    np.testing.assert_allclose(found["bias"], [0.5, 0.5])


def test_the_fisher_information_of_a_policy_is_of_the_log_probability_of_the_action_taken():
    model = linear(PPO)
    found = fisher_information(model.policy, OBS, np.array([0, 1]), of(model.policy.action_net))
    # With both actions alike the gradient is (1 - 1/2) s for the one taken, and -1/2 s else.
    np.testing.assert_allclose(found["weight"], np.full((2, 1), 0.25) * [[5.0, 2.0]])
    np.testing.assert_allclose(found["bias"], [0.25, 0.25])
    critic = fisher_information(model.policy, OBS, np.array([0, 1]), of(model.policy.value_net))
    assert not critic["weight"].any()


def test_an_actor_without_probabilities_is_taken_for_a_gaussian_of_width_one():
    model = linear(TD3, TwoContinuous)
    (last,) = (m for m in model.policy.actor.mu if isinstance(m, th.nn.Linear))
    found = fisher_information(model.policy, OBS, np.array([[0.5], [0.0]]), of(last))
    # The slope of tanh at 0 is 1.
    np.testing.assert_allclose(found["weight"], [[5.0, 2.0]])
    critic = next(m for m in model.policy.critic.qf0 if isinstance(m, th.nn.Linear))
    found = fisher_information(model.policy, OBS, np.array([[0.5], [0.0]], "f4"), of(critic))
    np.testing.assert_allclose(found["weight"], [[5.0, 2.0, 0.125]])


def start(model, callback, task=1):
    """Begin an update after the end of a task, with weights that have moved by 0.5 since."""
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.on_rollout_start()
    callback.kept["task"] = task
    return callback


def moved_since(model, callback):
    callback.on_rollout_start()
    for parameter in model.policy.parameters():
        parameter.data += 0.5
    callback.on_rollout_end()
    model.policy.optimizer.zero_grad()


def test_ewc_adds_coef_times_fisher_times_distance_to_the_gradient_of_the_loss():
    model = make(DQN, policy="MultiInputPolicy")
    callback = start(model, EWCCallback(4.0))
    model.policy.q_net.q_net[0].weight.data.zero_()
    fisher = {name: np.full(p.shape, 3.0, "f4") for name, p in callback.parameters().items()}
    callback.strengths = lambda task, before: fisher
    moved_since(model, callback)
    weight = model.policy.q_net.q_net[0].weight
    weight.sum().backward()
    # 1 from the loss, and 4 * 3 * 0.5 from the penalty.
    th.testing.assert_close(weight.grad, th.full_like(weight, 7.0))
    (0 * weight).sum().backward()
    count = sum(p.numel() for p in callback.parameters().values())
    logged = model.logger.name_to_value["continual/penalty/ewc"]
    assert logged == pytest.approx(4.0 / 2 * 3.0 * 0.25 * count)


def make(algo=PPO, env=None, policy="MoeMultiInputPolicy", **kwargs):
    env = pinned_sequence() if env is None else env
    options = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    if algo is A2C:
        options = {"n_steps": 16}
    elif algo is not PPO:
        options = {"learning_starts": 20, "buffer_size": 300}
    model = algo(policy, env, **(options | {"device": "cpu", "seed": 3} | kwargs))
    model.set_logger(sb3_logger())
    return model


def sb3_logger():
    from stable_baselines3.common.logger import Logger

    return Logger(None, [])


def pinned_sequence():
    return toy_vec_env((0,) * 10 + (1,) * 200, (0,) * 10 + (1,) * 200)


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


@pytest.mark.parametrize("kind", [L2AnchorCallback, EWCCallback])
@pytest.mark.parametrize("policy", ["MultiInputPolicy", "MoeMultiInputPolicy"])
@pytest.mark.parametrize("algo", [PPO, DQN])
def test_nothing_happens_in_the_first_task_nor_without_a_coefficient(algo, policy, kind):
    plain = make(algo, toy_vec_env((0,)), policy).learn(96)
    treated = make(algo, toy_vec_env((0,)), policy).learn(96, kind(1e6))
    assert th.equal(weights(plain), weights(treated))
    plain = make(algo, policy=policy).learn(256)
    treated = make(algo, policy=policy).learn(256, kind(0.0))
    assert th.equal(weights(plain), weights(treated))


def in_blocks(tasks=TASKS, n_envs=2):
    return make_multitask_vec_env(tasks, n_envs, seed=0, schedule=Cycle(BLOCK, num_cycles=2))


@pytest.mark.parametrize("algo", [PPO, A2C, DQN, SAC, TD3, DDPG])
@pytest.mark.parametrize("kind", [L2AnchorCallback, EWCCallback])
def test_the_larger_the_coefficient_the_less_weights_move_in_the_second_task(algo, kind):
    tasks = PENDULUMS if algo in (SAC, TD3, DDPG) else TASKS
    moved = []
    for coef in (0.0, 1e4):
        callback = kind(coef)
        model = make(algo, in_blocks(tasks), "MultiInputPolicy", learning_rate=1e-3)
        model.learn(2 * BLOCK - 32, callback)
        kept = model.anchors[callback.key]
        now = dict(model.policy.named_parameters())
        fisher = (kept["strengths"][name] for name in kept["weights"])
        moved.append(
            sum(
                float((f * (now[name].detach().numpy() - w) ** 2).sum())
                for f, (name, w) in zip(fisher, kept["weights"].items(), strict=True)
            )
        )
    assert 0 < moved[1] < moved[0]
