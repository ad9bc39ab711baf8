"""What goes along, how experts part, what joins, and what is refused."""

import arena
import numpy as np
import pytest
import torch as th
from dense_models import NUM_TASKS, assert_targets_alike, dense, flat_env, gap, make
from experts_in_models import all_of, assert_unchanged
from gymnasium import spaces
from reach import Reach
from stable_baselines3 import TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.her import HerReplayBuffer
from torch import nn

import sb3_moe
from sb3_moe.growing import upcycle
from sb3_moe.layers import Routing, SoftMoE


def layers_of(model, name):
    return model.policy.moe_layers()[name].experts


# What an expert is.


def test_an_expert_of_middle_is_the_dense_layer_and_an_identity():
    old = dense("PPO")
    new = upcycle(old, placement="middle", num_experts=3)
    linear = old.policy.mlp_extractor.policy_net[2]
    expert = [m for m in new.policy.get_expert("pi", 2).modules() if isinstance(m, nn.Linear)]
    assert th.equal(expert[0].weight, linear.weight)
    assert th.equal(expert[1].weight, th.eye(6))
    assert th.equal(expert[1].bias, th.zeros(6))


@pytest.mark.parametrize("router", ["soft", "uniform"])
@pytest.mark.parametrize("place", ["middle", "body", "big"])
def test_experts_may_be_wider_with_units_that_count_nothing(place, router):
    new = upcycle(dense("SAC"), placement=place, router=router, expert_width=9)
    assert gap(new, dense("SAC")) < 1e-5


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_experts_of_two_layers_may_stand_before_a_head_for_each_task(algorithm):
    env = arena.Arena(arena.with_task(arena.FLAT), arena.actions_of(algorithm))
    old = make(algorithm, "MultiInputPolicy", env)
    new = upcycle(old, placement="body", head_router="task")
    assert gap(new, old) < 1e-5


def test_only_the_networks_that_are_named_get_experts():
    new = upcycle(dense("SAC"), placement={"pi": "none", "qf": "all"}, router={"qf": "soft"})
    assert {name.split(".")[0] for name in new.policy.moe_layers()} == {"qf0", "qf1"}
    assert gap(new, dense("SAC")) < 1e-5


# How experts part.


@pytest.mark.parametrize("router", ["soft", "random", "task"])
def test_copies_part_where_gates_differ_by_sample(router):
    tasks = {"num_tasks": NUM_TASKS} if router == "task" else {}
    new = upcycle(dense("PPO"), placement="middle", router=router, **tasks)
    first, second = (new.policy.get_expert("pi", k).state_dict() for k in (0, 1))
    assert all(th.equal(first[name], second[name]) for name in first)
    new.learn(64, reset_num_timesteps=False)
    first, second = (new.policy.get_expert("pi", k).state_dict() for k in (0, 1))
    assert any(not th.equal(first[name], second[name]) for name in first)


def test_copies_under_uniform_gates_start_apart_so_that_it_cancels():
    new = upcycle(dense("PPO"), placement="middle", router="uniform", perturb=0.5)
    weight = layers_of(new, "pi.middle").last.weight_EOI
    assert (weight - th.eye(6)).abs().amax((1, 2)).min() > 0.01
    th.testing.assert_close(weight.mean(0), th.eye(6))
    first_E = layers_of(new, "pi.middle").layers[0].weight
    assert th.equal(first_E[0], first_E[1])
    new.learn(64, reset_num_timesteps=False)
    assert not th.allclose(first_E[0], first_E[1], atol=1e-5)


def test_the_gates_of_top_1_start_alike_and_still_choose_by_the_sample():
    new = upcycle(dense("PPO"), placement="final", router="top_k", top_k=1)
    obs = np.random.default_rng(0).uniform(-1, 1, (256, 8)).astype(np.float32)
    routing = new.policy.routing(obs)["pi.final"]
    assert len(routing.experts_BNk.unique()) == 4
    chosen = routing.gates_BNE.max(-1).values
    th.testing.assert_close(chosen, th.full_like(chosen, 0.25))
    head = layers_of(new, "pi.final").last.weight_EOI
    th.testing.assert_close(head[0], 4 * dense("PPO").policy.action_net.weight)


# What goes along.


def test_the_averages_follow_the_gates_so_that_a_step_of_adam_is_the_dense_models():
    # By hand: with gates 1/2 and gradients g/2, m/2 over the root of v/4 is m over the root of v.
    old = make("DQN", model={"learning_rate": 0.01})
    new = upcycle(old, placement="final", router="uniform", num_experts=2)
    obs = th.linspace(-1, 1, 5 * 8).view(5, 8)
    for model in (old, new):
        model.policy.set_training_mode(True)
        model.policy.optimizer.zero_grad()
        model.policy.q_net(obs).square().mean().backward()
        model.policy.optimizer.step()
    assert gap(new, old) < 1e-5


def test_what_has_no_dense_counterpart_starts_without_averages():
    layer = (new := upcycle(dense("PPO"), placement="middle")).policy.moe_layers()["pi.middle"]
    assert layer.router.weight_RK not in new.policy.optimizer.state
    assert layer.experts.last.weight not in new.policy.optimizer.state


@pytest.mark.parametrize("algorithm", ["DQN", "TD3"])
def test_target_networks_lag_behind_as_they_did_and_the_replay_buffer_is_a_copy(algorithm):
    old = dense(algorithm)
    new = upcycle(old, placement="all", router="uniform")
    assert_targets_alike(new, old)
    assert new.replay_buffer is not old.replay_buffer
    assert new.replay_buffer.pos == old.replay_buffer.pos > 0
    assert np.array_equal(new.replay_buffer.observations, old.replay_buffer.observations)


def test_action_noise_is_made_for_as_many_environments_as_the_new_model_has():
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    envs = [DummyVecEnv([lambda: arena.Arena(arena.FLAT, arena.BOX)] * n) for n in (2, 1)]
    old = TD3("MlpPolicy", envs[0], action_noise=noise, learning_starts=2).learn(4)
    upcycle(old, env=envs[1]).learn(4)


def test_rewards_of_n_steps_end_where_the_new_models_episodes_begin():
    # Episodes have six steps, so the last of 26 is in the middle of one.
    options = {"n_steps": 3, "train_freq": 2}
    old = arena.train(arena.make("DQN", model=options, placement="none", net_arch=[4]), 26)
    new = upcycle(old, env=old.get_env())
    last = old.replay_buffer.pos - 1
    assert not old.replay_buffer.dones[last].any()
    new.learn(2, reset_num_timesteps=False)
    assert new.replay_buffer.pos == last + 3
    rows = new.replay_buffer._get_samples(np.array([last - 1, last]))
    # Two rewards, or one: none of the episode that began behind them.
    before, end = old.replay_buffer.rewards[last - 1 : last + 1, 0]
    np.testing.assert_allclose(rows.rewards[:, 0], [before + old.gamma * end, end], rtol=1e-5)


def test_what_sac_learns_of_its_entropy_goes_along_and_the_dense_model_stays_as_it_is():
    old = make("SAC")
    before = all_of(old)
    new = upcycle(old, placement="big")
    assert th.equal(new.log_ent_coef, old.log_ent_coef)
    ours, theirs = (m.ent_coef_optimizer.state_dict()["state"][0] for m in (new, old))
    assert th.equal(ours["exp_avg"], theirs["exp_avg"])
    new.learn(32, reset_num_timesteps=False)
    assert_unchanged(old, before)
    assert not th.equal(new.log_ent_coef, old.log_ent_coef)


# A task id that joins.


def dict_env(space=None):
    space = arena.with_task(arena.FLAT) if space is None else space
    return arena.Arena(space)


def test_a_task_id_joins_with_weights_that_start_at_zero():
    old = make("PPO", env=arena.Arena(arena.FLAT))
    new = upcycle(old, placement="final", router="task", env=dict_env())
    assert gap(new, old) < 1e-5
    first = new.policy.mlp_extractor.policy_net.blocks[0]
    assert th.equal(first.weight[:, :5], old.policy.mlp_extractor.policy_net[0].weight)
    assert th.equal(first.weight[:, 5:], th.zeros(8, 3))
    new.learn(32, reset_num_timesteps=False)
    assert first.weight[:, 5:].abs().min() > 0


@pytest.mark.parametrize("place", ["all", "big"])
def test_a_task_id_joins_before_the_actions_that_critics_see(place):
    old = make("SAC", env=arena.Arena(arena.FLAT, arena.BOX))
    env = arena.Arena(arena.with_task(arena.FLAT), arena.BOX)
    new = upcycle(old, placement=place, env=env)
    assert gap(new, old) < 1e-5
    assert new.replay_buffer.pos == 0
    new.learn(32, reset_num_timesteps=False)


def test_a_task_id_among_the_keys_of_sb3s_dict_policy_goes_to_the_router():
    space = spaces.Dict(
        {"obs": arena.FLAT, "task_id": spaces.Discrete(3), "wind": spaces.Box(-1, 1, (2,))}
    )
    old = make("PPO", "MultiInputPolicy", arena.Arena(space))
    new = upcycle(old, placement="all", router="task")
    assert gap(new, old) < 1e-5


@pytest.mark.parametrize(
    ("algorithm", "place"), [("PPO", "big"), ("DQN", "middle"), ("TD3", "big")]
)
def test_our_dense_policies_for_pictures_grow_too(algorithm, place):
    env = arena.Arena(arena.IMAGE, arena.actions_of(algorithm))
    old = make(algorithm, "MoeCnnPolicy", env, placement="none", net_arch=[8])
    assert gap(upcycle(old, placement=place), old) < 1e-5


def test_experts_that_hold_the_encoder_need_ours():
    old = make("DQN", "CnnPolicy", arena.Arena(arena.SB3_IMAGE), net_arch=[8])
    with pytest.raises(ValueError, match=r"`placement`='big' holds the encoder.*got NatureCNN"):
        upcycle(old, placement="big")


# What is refused.


class Halving(SoftMoE):
    """Gates that sum to a half."""

    def route(self, x, router_x):
        y_BNO, routing = super().route(x, router_x)
        return y_BNO / 2, Routing(routing.gates_BNE / 2)


OTHER = arena.Arena(spaces.Box(-1, 1, (4,)))
REFUSED = {
    "unknown": ({"net_arch": [3]}, TypeError, "unknown option 'net_arch'; the options are"),
    "router": ({"router": Halving}, ValueError, "`router` and `expert` must be of kinds that can"),
    "width": ({"expert_width": 2}, ValueError, r"or wider \(`expert_width`\)"),
    "env": ({"env": OTHER}, ValueError, "`env` must have the model's spaces, Box.*got Box"),
    "actions": ({"env": flat_env("SAC")}, ValueError, "and Discrete.*got Box.* and Box"),
    "no task": ({"router": "task"}, ValueError, "`router`='task' needs a task id"),
    "input": ({"num_tasks": 3, "task_input": "router"}, ValueError, "must let new layers see all"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_use_says_what_and_leaves_the_model_as_it_was(name):
    kwargs, error, text = REFUSED[name]
    model = make("PPO")
    before = all_of(model)
    with pytest.raises(error, match=text):
        upcycle(model, **{"placement": "middle", **kwargs})
    assert_unchanged(model, before)


def test_a_model_with_experts_is_not_upcycled():
    with pytest.raises(ValueError, match=r"`model` must be dense, got one .*\['pi.final'"):
        upcycle(upcycle(dense("PPO"), placement="final"), placement="middle")


def test_an_algorithm_without_a_policy_for_dicts_says_what_to_build():
    crossq = pytest.importorskip("sb3_contrib").CrossQ
    env = sb3_moe.make_multitask_vec_env(["Pendulum-v1"], 1)
    with pytest.raises(ValueError, match="`env` must be built with `task_id`='onehot' for CrossQ"):
        upcycle(crossq("MlpPolicy", "Pendulum-v1"), env=env)


class Mine(ActorCriticPolicy):
    """A class of the user's own."""


def test_a_policy_class_of_the_users_own_is_refused():
    with pytest.raises(TypeError, match=r"`model` must have one of the policies that PPO .*Mine"):
        upcycle(make("PPO", Mine))


def test_episodes_of_hindsight_go_along_and_a_running_one_ends():
    settings = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 16}
    model = arena.make("SAC", "MultiInputPolicy", Reach(), model=settings, net_arch=[4])
    model.learn(43)
    new = upcycle(model, placement="final")
    assert new.replay_buffer.env is new.get_env()
    running = model.replay_buffer.pos - model.replay_buffer._current_ep_start[0]
    assert running > 0
    kept, known = (each.replay_buffer.ep_length for each in (new, model))
    assert np.array_equal(kept[known > 0], known[known > 0])
    assert new.replay_buffer._current_ep_start[0] == new.replay_buffer.pos
    assert gap(new, model) < 1e-5
    new.learn(16, reset_num_timesteps=False)


def test_gsdes_noise_for_a_latent_of_another_width_is_refused():
    world = arena.Arena(arena.with_task(arena.FLAT), arena.BOX)
    old = arena.make("PPO", "MultiInputPolicy", world, net_arch=[8], model={"use_sde": True})
    with pytest.raises(ValueError, match=r"gSDE's log_std has the width of the old hidden layer"):
        upcycle(old, placement="final", num_experts=2)
    assert gap(upcycle(old, placement="middle", num_experts=2), old) < 1e-5
