"""Penalties that draw weights back to where they were when a task ended."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from learners import learner
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3

from sb3_moe.callbacks import EWCCallback, L2AnchorCallback
from sb3_moe.measures.plasticity import fisher_information
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe_envs import Cycle

TASKS = ["CartPole-v1", "Acrobot-v1"]
PENDULUMS = [("Pendulum-v1", {"g": g}) for g in (10.0, 3.0)]
BLOCK = 128


class Two(gym.Env):
    """Two numbers to see and two actions: small enough to work with by hand."""

    observation_space = gym.spaces.Box(-5, 5, (2,))
    action_space = gym.spaces.Discrete(2)


class Free(Two):
    action_space = gym.spaces.Box(-5, 5, (1,))


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
    model.policy.action_net.requires_grad_(False)  # as of a router that is held still
    again = fisher_information(model.policy, OBS, np.array([0, 1]), of(model.policy.action_net))
    np.testing.assert_allclose(again["weight"], found["weight"])
    assert not model.policy.action_net.weight.requires_grad
    # Under a Gaussian of mean 0 and deviation 1 it is the action a times s.
    policy = linear(PPO, Free).policy
    found = fisher_information(policy, OBS, np.array([[1.0], [2.0]]), of(policy.action_net))
    np.testing.assert_allclose(found["weight"], [[18.5, 2.0]])
    np.testing.assert_allclose(found["bias"], [2.5])


def test_the_probability_of_the_only_action_allowed_depends_on_no_weight():
    policy, obs = MaskablePPO("MlpPolicy", "CartPole-v1").policy, np.ones((1, 4), np.float32)
    for masks, any_left in ((None, True), (np.array([[False, True]]), False)):
        found = fisher_information(policy, obs, np.array([1]), of(policy.action_net), masks)
        assert found["weight"].any() == any_left


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
    model = learner(DQN, policy="MultiInputPolicy")
    callback = start(model, EWCCallback(4.0))
    model.policy.q_net.q_net[0].weight.data.zero_()
    fisher = {name: np.full(p.shape, 3.0, "f4") for name, p in callback.parameters().items()}
    callback.strengths = lambda task, before: fisher
    moved_since(model, callback)
    weight = model.policy.q_net.q_net[0].weight
    weight.sum().backward()
    # 1 from the loss, and 4 * 3 * 0.5 from the penalty.
    th.testing.assert_close(weight.grad, th.full_like(weight, 7.0))
    count = sum(p.numel() for p in callback.parameters().values())
    # Off-policy it is logged where an episode has ended.
    callback.locals["dones"] = [True]
    callback.on_rollout_end()
    logged = model.logger.name_to_value["continual/penalty/ewc"]
    assert logged == pytest.approx(4.0 / 2 * 3.0 * 0.25 * count)


def weights(model):
    return th.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def in_blocks(tasks=TASKS, n_envs=2):
    return make_multitask_vec_env(tasks, n_envs, seed=0, schedule=Cycle(BLOCK, num_cycles=2))


def small(algo, tasks=TASKS, policy="MultiInputPolicy", n_envs=2):
    options = {"policy_kwargs": {"net_arch": [8]}, "learning_rate": 1e-3}
    if algo not in (PPO, A2C):
        options |= {"batch_size": 16, "train_freq": 4}
    return learner(algo, in_blocks(tasks, n_envs), policy, **options)


def drift(model, key):
    """Return how far weights are off, each squared distance times its strength."""
    kept, now = model.anchors[key], dict(model.policy.named_parameters())
    offs = (now[name].detach().numpy() - w for name, w in kept["weights"].items())
    strengths = (kept["strengths"][name] for name in kept["weights"])
    return sum(float((f * off**2).sum()) for f, off in zip(strengths, offs, strict=True))


CASES = [(PPO, TASKS), (DQN, TASKS), (SAC, PENDULUMS), (TD3, PENDULUMS)]


@pytest.mark.covering
@pytest.mark.parametrize(("algo", "tasks"), CASES, ids=[algo.__name__ for algo, _ in CASES])
@pytest.mark.parametrize("kind", [L2AnchorCallback, EWCCallback])
def test_the_larger_the_coefficient_the_less_weights_move_in_the_second_task(algo, tasks, kind):
    moved = []
    for coef in (0.0, 1e4):
        model = small(algo, tasks).learn(2 * BLOCK - 32, kind(coef))
        moved.append(drift(model, kind.key))
    assert 0 < moved[1] < moved[0]


def test_a_task_is_judged_by_its_own_rows_wherever_in_a_rollout_it_ends():
    taken, left = [], []

    class Watched(EWCCallback):
        def strengths(self, task, before):
            taken.append((task, len(self.kept["rows"][task]["actions"])))
            return super().strengths(task, before)

        def _end(self, task):
            super()._end(task)
            left.append(list(self.kept["rows"]))

    # Rollouts begin at 0 and at 160, after the first task's end at 128 and 16 rows of the next.
    model = small(PPO)
    model.n_steps = model.rollout_buffer.buffer_size = BLOCK // 2 + 16
    model.rollout_buffer.reset()
    model.learn(2 * BLOCK, Watched(1.0, rows=16))
    kept = model.anchors["ewc"]
    assert (taken, left) == ([("CartPole", 16)], [["Acrobot"]])
    assert sum(each.sum() for each in kept["strengths"].values()) > 0


def test_a_task_that_comes_back_counts_again_and_decay_forgets():
    sums = []
    for decay in (1.0, 0.0):
        model = small(PPO).learn(2 * BLOCK + 32, EWCCallback(0.0, decay=decay))
        sums.append(sum(each.sum() for each in model.anchors["ewc"]["strengths"].values()))
    assert 0 < sums[1] < sums[0]


def test_trpo_is_refused_since_it_steps_without_backward():
    contrib = pytest.importorskip("sb3_contrib")
    model = contrib.TRPO("MultiInputPolicy", in_blocks(), n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="EWCCallback can't be used with TRPO"):
        model.learn(16, EWCCallback(1.0))
