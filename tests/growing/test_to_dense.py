"""What to_dense carries, what is fitted where there is no equal, and what is refused."""

import arena
import numpy as np
import pytest
import torch as th
from dense_models import assert_targets_alike, dense, gap, make
from experts_in_models import all_of, assert_unchanged, moe
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import nn

from sb3_moe.growing import distill, to_dense, upcycle
from sb3_moe.growing.converting import in_one
from sb3_moe.growing.models import sampled
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.networks import networks_of


def test_two_linear_layers_in_one_by_hand():
    first, second = nn.Linear(1, 2), nn.Linear(2, 1)
    with th.no_grad():
        first.weight.copy_(th.tensor([[1.0], [2.0]]))
        first.bias.copy_(th.tensor([3.0, 4.0]))
        second.weight.copy_(th.tensor([[5.0, 6.0]]))
        second.bias.copy_(th.tensor([7.0]))
        one = in_one(first, second)
    assert one.weight.item() == 17.0
    assert one.bias.item() == 46.0


def test_there_and_back_is_the_dense_model():
    old = dense("SAC")
    grown = upcycle(old, placement="all", router="uniform", expert="linear")
    assert gap(to_dense(grown), old) < 1e-5


def test_a_head_for_each_task_becomes_that_tasks_head():
    model = moe(placement="none", head_router="task")
    obs = sampled(model.observation_space, 32)
    obs[:, -3:] = [0, 0, 1]
    new = to_dense(model, 2)
    assert gap(new, model, obs) < 1e-5
    wanted = model.policy.moe_layers()["pi.head"].experts.expert(2)[-1]
    th.testing.assert_close(new.policy.action_net.weight, wanted.weight)


def test_the_keys_of_a_dict_go_where_sb3_has_them():
    space = spaces.Dict(
        {"obs": arena.FLAT, "task_id": spaces.Discrete(3), "wind": spaces.Box(-1, 1, (2,))}
    )
    model = make("PPO", "MoeMultiInputPolicy", arena.Arena(space), router="soft", num_experts=1)
    assert gap(to_dense(model), model) < 1e-5


def test_pictures_that_sb3_does_not_encode_are_flattened_as_ours_are():
    env = arena.Arena(arena.with_task(arena.IMAGE))
    kwargs = {"features_extractor_kwargs": {"encoder": "flat"}, "num_experts": 1}
    model = make("PPO", "MoeMultiInputPolicy", env, **kwargs)
    assert gap(to_dense(model), model) < 1e-5


LONE = [("DQN", "middle"), ("TD3", "all"), ("SAC", "big")]


@pytest.mark.parametrize(("algorithm", "place"), LONE)
def test_a_lone_expert_becomes_dense_and_target_networks_lag_behind_as_they_did(algorithm, place):
    model = make(algorithm, "MoeMlpPolicy", placement=place, num_experts=1)
    assert gap(to_dense(model), model) < 1e-5
    assert_targets_alike(to_dense(model), model)


# Where there is no equal.


def test_a_dense_model_is_fitted_to_a_mixture_and_says_what_remains():
    model = make("SAC", "MoeMlpPolicy", router="soft")
    obs = sampled(model.observation_space, 64)
    short, long = (distill(model, obs, steps=steps) for steps in (1, 200))
    assert long.remains.keys() == short.remains.keys() >= {"pi.0"}
    assert sum(long.remains.values()) < 0.7 * sum(short.remains.values())
    long.model.learn(32, reset_num_timesteps=False)


def test_the_model_that_is_fitted_keeps_its_running_statistics():
    model = make("CrossQ", "MoeMlpPolicy")
    before = {name: each.clone() for name, each in model.policy.state_dict().items()}
    model.policy.set_training_mode(True)  # as `learn` leaves it
    distill(model, sampled(model.observation_space, 64), steps=1)
    assert all(th.equal(each, before[name]) for name, each in model.policy.state_dict().items())


@pytest.mark.parametrize("enable_critic_lstm", [True, False])
def test_a_fitted_models_lstm_and_spread_of_actions_are_the_mixtures(enable_critic_lstm):
    env = arena.Arena(arena.with_task(arena.FLAT), arena.BOX)
    options = {"enable_critic_lstm": enable_critic_lstm, "router": "soft"}
    model = make("RecurrentPPO", "MoeMultiInputLstmPolicy", env, **options)
    model.policy.log_std.data.fill_(-3.0)
    fitted, remains = distill(model, sampled(model.observation_space, 8), steps=2)
    assert remains.keys() == {"pi.0", "vf.0"}
    assert fitted.policy.log_std.tolist() == model.policy.log_std.tolist()
    assert fitted.policy.log_std.grad is None
    ours, theirs = (networks_of(each.policy).memories() for each in (fitted, model))
    assert ours.keys() == theirs.keys() != set()
    for name, memory in ours.items():
        of_ours, of_theirs = memory.parameters(), theirs[name].parameters()
        assert all(th.equal(*pair) for pair in zip(of_ours, of_theirs, strict=True))


def test_what_remains_is_the_distance_as_a_share_of_the_spread():
    model = make("DQN", "MoeMlpPolicy", router="soft")
    obs = sampled(model.observation_space, 64)
    found = distill(model, obs, steps=3)
    tensors = th.as_tensor(obs)
    with th.no_grad():
        got, wanted = (each.policy.q_net(tensors) for each in (found.model, model))
    share = ((got - wanted) ** 2).mean() / ((wanted - wanted.mean(0)) ** 2).mean()
    assert found.remains["qf.0"] == pytest.approx(share.sqrt().item(), rel=1e-4)


# What is refused.


REFUSED = {
    "task": ({"router": "task"}, {"task": 3}, r"`task` must be None, or in \[0, 3\), got 3"),
    "which task": ({"router": "task"}, {}, r"`task` must be in \[0, 3\) with `router`='task'"),
    "no task": ({"num_experts": 1}, {"task": 1}, r"`task` must be None, or in \[0, 0\), got 1"),
    "mixture": ({"router": "soft"}, {}, "`model` can only become dense if each"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_use_says_what_and_leaves_the_model_as_it_was(name):
    options, kwargs, text = REFUSED[name]
    model = moe(**options)
    before = all_of(model)
    with pytest.raises(ValueError, match=text):
        to_dense(model, **kwargs)
    assert_unchanged(model, before)


def test_a_task_in_planes_of_an_image_is_refused():
    env = arena.Arena(spaces.Box(0, 1, (6, 6, 3), np.float32))
    kwargs = {"num_experts": 1, "features_extractor_kwargs": {"num_tasks": 2}}
    with pytest.raises(ValueError, match="the task must not be shown in planes of the image"):
        to_dense(PPO("MoeCnnPolicy", env, policy_kwargs=kwargs))


def test_a_dense_model_of_sb3s_is_refused():
    with pytest.raises(TypeError, match="`model` must have one of this package's policies"):
        to_dense(dense("PPO"))


def test_an_encoder_that_sb3_has_not_is_refused():
    model = make("PPO", "MoeCnnPolicy", arena.Arena(arena.IMAGE), num_experts=1, net_arch=[8])
    with pytest.raises(ValueError, match=r"`encoder` must be 'flat' in .*'minatar'"):
        to_dense(model)
    assert model.policy.features_extractor_class is TaskExtractor


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("SAC", {"placement": "final", "num_experts": 1}),
        ("SAC", {"placement": "none", "use_sde": True}),  # whose head clips behind it
        ("TQC", {"placement": "none"}),
        ("PPO", {"placement": "none"}),
    ],
)
def test_heads_with_no_hidden_layer_before_them_stay_as_many_as_they_are(algorithm, options):
    model = make(algorithm, "MoeMlpPolicy", net_arch=[], **options)
    assert gap(to_dense(model), model) < 1e-5
