"""VecBelief: which model explains each environment's episode, for any algorithm and policy."""

import arena
import numpy as np
import pytest
import reference
from gymnasium import spaces
from hidden import Drift, drifts, hidden_tasks
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
from tiny import Sampled

from sb3_moe.callbacks import evaluate_tasks, make_pinned_env
from sb3_moe.vec_env import VecBelief, make_multitask_vec_env
from sb3_moe.vec_env.belief import belief_of
from sb3_moe_envs import Belief
from sb3_moe_envs.belief import Transitions

TASKS = ["CartPole-v1", "SB3MoE/ConflictingCartPole-v0"]
OFF = {"learning_starts": 20, "buffer_size": 500, "batch_size": 8}


def play(env, steps, seed=0):
    """Take random actions; return all that came of them, the reset first."""
    env.action_space.seed(seed)
    found = [(env.reset(), None, None, None, None)]
    for _ in range(steps):
        actions = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        found.append((*env.step(actions), actions))
    return found


def trained(**options):
    env = drifts(**options)
    play(env, 128)
    env.training = False
    return env


def weights(env):
    return [each.copy() for each in env.models._arrays().values()]


def assert_same(mine, theirs):
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# What it shows.


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("continuous", [False, True])
def test_each_episode_has_the_belief_of_a_slow_filter_and_so_has_its_last_observation(
    carry, continuous
):
    env = trained(carry=carry, continuous=continuous)
    prior = env.models.log_prior().tolist()
    env.log_belief[:] = prior
    start, played = [prior] * env.num_envs, play(env, 25)
    for first in (1, 11, 21):  # episodes have ten steps
        steps = range(first, min(first + 10, 26))
        for i in range(env.num_envs):
            assert np.allclose(played[first - 1][0]["belief"][i], np.exp(start[i]), atol=1e-6)
            seen = [played[first - 1][0], *(played[t][0] for t in steps)]
            shown = [each["belief"][i] for each in seen[1:]]
            obs = [each["obs"][i] for each in seen]
            if len(steps) == 10:
                last = played[first + 9][3][i]["terminal_observation"]
                obs[-1], shown[-1] = last["obs"], last["belief"]
            actions = env.numbers.of_actions(np.stack([played[t][4][i] for t in steps]))
            rewards = np.array([[played[t][1][i]] for t in steps])
            episode = Transitions(np.stack(obs[:-1]), actions, rewards, np.stack(obs[1:]))
            slow = reference.belief(env.models, episode, start[i])
            np.testing.assert_allclose(np.stack(shown), slow, rtol=0, atol=1e-6)
            start[i] = np.log(slow[-1]).tolist() if carry else prior


def test_models_learn_every_so_many_steps_and_not_without_training():
    env = drifts(train_freq=4, gradient_steps=3, batch_size=5, training=False)
    play(env, 9)
    env.training, updates = True, [env.models.num_updates]
    env.reset()
    for _ in range(9):
        env.step(np.zeros(env.num_envs, int))
        updates.append(env.models.num_updates)
    assert updates == [0] * 5 + [3] * 4 + [6]
    env.training, before = False, weights(env)
    play(env, 9)
    assert_same(weights(env), before)


def test_seeds_decide_the_models_and_what_they_learn():
    twice = [drifts(seed=None) for _ in range(2)]
    for env in twice:
        env.seed(3)
        play(env, 40)
    assert_same(*map(weights, twice))


# What it takes.

FLAT = spaces.Box(-1, 1, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 4, 3), np.uint8)


def of_space(space, **options):
    return VecBelief(DummyVecEnv([lambda: Sampled(space)] * 2), 3, train_freq=2, **options)


def test_a_dict_gets_the_belief_beside_its_other_parts():
    env = of_space(spaces.Dict(image=IMAGE, x=FLAT, n=spaces.Discrete(2)))
    assert set(env.observation_space) == {"image", "x", "n", "belief"}
    for obs, *_ in play(env, 5):
        assert env.observation_space.contains({key: each[0] for key, each in obs.items()})


def test_images_need_a_function_that_encodes_them():
    with pytest.raises(ValueError, match="for images and others give `encode=`, a function"):
        of_space(IMAGE)
    env = of_space(IMAGE, encode=lambda obs: obs.mean(axis=(1, 2)) / 255)
    assert env.models.settings["obs_dim"] == 3
    *_, (obs, _, _, _, _) = play(env, 5)
    assert obs["obs"].dtype == np.uint8
    np.testing.assert_allclose(obs["belief"].sum(axis=1), 1.0, rtol=1e-6)


# Algorithms and policies.


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN", "RecurrentPPO"])
def test_sb3s_own_policies_learn_with_it(algorithm):
    lstm = "Lstm" if algorithm == "RecurrentPPO" else ""
    env = drifts(continuous=algorithm in arena.BOX_ACTIONS)
    model = arena.make(algorithm, f"MultiInput{lstm}Policy", env, net_arch=[8])
    model.learn(64)
    assert env.models.num_updates
    buffer = getattr(model, "rollout_buffer", None) or model.replay_buffer
    np.testing.assert_allclose(buffer.observations["belief"][:8].sum(-1), 1.0, rtol=1e-5)


class Ratio(BaseCallback):
    """Compare the probabilities of a rollout's actions with those that an update begins with."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.locals["rollout_buffer"]
        for rows in buffer.get():
            actions = rows.actions.long().flatten()
            _, now, _ = self.model.policy.evaluate_actions(rows.observations, actions)
            np.testing.assert_allclose(now.detach(), rows.old_log_prob, rtol=1e-5)


@pytest.mark.parametrize("policy", ["MultiInputPolicy", "MoeMultiInputPolicy"])
def test_ppos_ratio_is_one_before_the_first_update(policy):
    options = {"placement": "big", "router": "belief"} if "Moe" in policy else {}
    model = arena.make("PPO", policy, drifts(), net_arch=[8], **options)
    model.learn(128, callback=Ratio())


def test_a_replay_buffer_keeps_the_belief_with_which_an_episode_ended():
    model = DQN("MultiInputPolicy", env := drifts(copies=1), **OFF).learn(40)
    buffer, prior = model.replay_buffer, np.exp(env.models.log_prior())
    assert buffer.dones[9].all()
    assert not np.allclose(buffer.next_observations["belief"][19], prior)
    assert np.isclose(buffer.observations["belief"][10], prior, atol=0.2).all()


# Evaluations.


def agent(env):
    return arena.make("PPO", "MultiInputPolicy", env, net_arch=[8])


def monitored():
    return VecBelief(VecMonitor(hidden_tasks()), 3, train_freq=8)


def test_two_evaluations_in_a_row_are_equal_and_leave_the_models_as_they_are():
    model = agent(env := drifts()).learn(64)
    evaluation = monitored()
    before = weights(env)
    found = []
    for _ in range(2):
        evaluation.seed(0)
        found.append(evaluate_policy(model, evaluation, 8, return_episode_rewards=True))
    assert found[0] == found[1]
    assert_same(weights(env), before)
    assert evaluation.models is env.models
    assert (env.training, evaluation.training) == (True, False)


def test_sb3s_eval_callback_uses_the_models_of_training_and_does_not_train_them():
    evaluation = monitored()
    callback = EvalCallback(evaluation, n_eval_episodes=8, eval_freq=16, verbose=0)
    alone = agent(other := drifts()).learn(64)
    model = agent(env := drifts()).learn(64, callback=callback)
    assert evaluation.models is env.models
    assert_same(weights(env), weights(other))
    arena.assert_same_weights(model.policy, alone.policy)


def test_evaluating_with_another_belief_is_an_error():
    model = agent(drifts()).learn(16)
    for other in (trained(), drifts(memory=0.5)):
        with pytest.raises(ValueError, match="must use the belief of the model's environment"):
            evaluate_policy(model, VecMonitor(other), 2)


def test_a_reset_beside_a_variable_that_holds_another_model_is_no_evaluation():
    model = agent(drifts()).learn(16)
    env = drifts()
    env.reset()
    assert env.training
    assert env.models is not model.get_env().models


def hidden(n_envs=4, **kwargs):
    return make_multitask_vec_env(TASKS, n_envs, seed=0, task_id="info", **kwargs)


def test_a_multi_task_environment_is_built_with_a_belief_and_built_again_for_evaluation():
    env = hidden(belief={"num_models": 3, "memory": 0.9})
    below = VecBelief(VecNormalize(hidden()), 3)
    above = VecNormalize(hidden(belief=3), norm_obs_keys=["obs"])
    for training in (env, below, above):
        model = PPO("MultiInputPolicy", training, n_steps=8, batch_size=8, n_epochs=1).learn(256)
        pinned = make_pinned_env(training, copies=1, seed=0)
        assert type(pinned) is type(training)
        assert belief_of(pinned).models is belief_of(training).models
        assert evaluate_tasks(model, pinned, n_eval_episodes=2).returns.shape == (2, 2)
    assert env.models.settings["memory"] == 0.9


def test_models_see_the_environments_own_rewards():
    env = VecBelief(VecNormalize(DummyVecEnv([lambda: Drift(1.0)])), 2, predicts="reward")
    play(env, 4)
    rewards = list(env._recent.rows())[2]
    np.testing.assert_allclose(rewards[-1], env.venv.get_original_reward())


# New tasks.


def test_a_spare_model_takes_the_task_of_surprised_environments_and_no_shape_changes():
    env = drifts(num_models=4, active=2, train_freq=32)
    play(env, 320)
    shapes = {name: each.shape for name, each in env.models._arrays().items()}
    *_, (obs, _, _, _, _) = play(env, 5)
    assert not obs["belief"][:, 2:].any()
    for task in env.venv.envs[:2]:
        task.slope = 5.0
    play(env, 31)
    assert env.activate(np.array([True, True, False, False]), 300) == 2
    *_, (obs, _, _, _, _) = play(env, 8, seed=1)
    assert obs["belief"].argmax(axis=1)[:2].tolist() == [2, 2]
    assert 2 not in obs["belief"].argmax(axis=1)[2:]
    assert {name: each.shape for name, each in env.models._arrays().items()} == shapes
    assert not obs["belief"][:, 3].any()


# Files.


def test_a_file_gives_other_environments_and_a_robot_the_models(tmp_path):
    env = trained(predicts="both")
    env.save(tmp_path / "belief")
    again = VecBelief.load(tmp_path / "belief", hidden_tasks(), training=False)
    robot = Belief.load(tmp_path / "belief")
    for each in (env, again):
        each.seed(5)
    for mine, theirs in zip(play(env, 12), play(again, 12), strict=True):
        np.testing.assert_array_equal(mine[0]["belief"], theirs[0]["belief"])
        if mine[4] is None or mine[2][0]:  # an episode starts
            shown = robot.start(mine[0]["obs"][0])
        else:
            shown = robot.step(mine[4][0], mine[0]["obs"][0], mine[1][0])
        np.testing.assert_allclose(shown["belief"], mine[0]["belief"][0], rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match=r"the models are for .* and the environment has"):
        VecBelief.load(tmp_path / "belief", hidden_tasks(continuous=True))


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`train_freq` must be at least 1, got 0"):
        drifts(train_freq=0)
    with pytest.raises(TypeError, match="`batch_size` must be"):
        drifts(batch_size=0.5)
