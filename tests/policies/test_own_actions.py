"""Padded actions: what a task lacks has no part in probabilities, critics, gradients or actions."""

import arena
import pytest
import torch as th
from gymnasium import spaces
from torch.distributions import Normal

import sb3_moe

DIMS = [1, 3, 2]
BOX = spaces.Box(-1, 1, (3,))
DICT = arena.with_task(spaces.Box(-1, 1, (4,)))
ONEHOT = spaces.Box(-1, 1, (7,))


def world(onehot=False, actions=BOX):
    """Return three tasks, whose id is in a Dict or a one-hot."""
    return arena.Arena(ONEHOT, actions, 3) if onehot else arena.Arena(DICT, actions)


def make(algorithm, placement="middle", onehot=False, **options):
    options = {"net_arch": [8], "placement": placement, "action_dims": DIMS} | options
    if onehot:
        options["features_extractor_kwargs"] = {"num_tasks": 3}
    name = "MoeMlpPolicy" if onehot else "MoeMultiInputPolicy"
    return arena.make(algorithm, name, world(onehot), **options)


def batch(onehot=False, size=12):
    generator = th.Generator().manual_seed(0)
    obs, tasks = th.rand(size, 4, generator=generator), th.arange(size) % 3
    own = th.arange(3) < th.tensor(DIMS)[tasks].unsqueeze(1)
    if onehot:
        return th.cat([obs, th.eye(3)[tasks]], dim=1), own
    return {"obs": obs, "task_id": tasks.unsqueeze(1)}, own


@pytest.mark.parametrize("onehot", [False, True])
@pytest.mark.parametrize("placement", ["none", "middle", "final", "big"])
def test_ppo_judges_each_tasks_own_dimensions_as_if_there_were_no_others(placement, onehot):
    policy = make("PPO", placement, onehot).policy
    obs, own = batch(onehot)
    actions = th.rand(12, 3)
    _, log_prob, entropy = policy.evaluate_actions(obs, actions)
    inner = policy.get_distribution(obs).distribution
    for i in range(12):
        row = own[i]
        normal = Normal(inner.loc[i][row], policy.log_std.exp()[row])
        th.testing.assert_close(log_prob[i], normal.log_prob(actions[i][row]).sum())
        th.testing.assert_close(entropy[i], normal.entropy().sum())
    other = th.where(own, actions, 5.0)
    th.testing.assert_close(policy.evaluate_actions(obs, other)[1], log_prob, rtol=0, atol=0)


def test_with_all_dimensions_nothing_changes():
    # One after the other: they draw from the same generators.
    first, second = (arena.train(make("PPO", action_dims=dims), 32) for dims in ([3, 3, 3], None))
    for mine, theirs in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        th.testing.assert_close(mine, theirs)


GAUSSIAN = ["SAC", "TQC", "CrossQ"]


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("placement", ["none", "middle", "big"])
def test_sac_and_its_kin_sample_and_judge_own_dimensions_only(name, placement):
    onehot = name == "CrossQ"
    actor = make(name, placement, onehot).actor
    obs, own = batch(onehot)
    mean, log_std, _ = actor.get_action_dist_params(obs)
    th.manual_seed(3)
    actions, log_prob = actor.action_log_prob(obs)
    th.manual_seed(3)
    noise = th.randn(12, 3)
    for i in range(12):
        row = own[i]
        before = mean[i][row] + log_std.exp()[i][row] * noise[i][row]
        expected = Normal(mean[i][row], log_std.exp()[i][row]).log_prob(before).sum()
        expected = expected - th.log(1 - th.tanh(before) ** 2 + 1e-6).sum()
        th.testing.assert_close(log_prob[i], expected, rtol=1e-4, atol=1e-5)
        th.testing.assert_close(actions[i][row], th.tanh(before))
        assert (actions[i][~row] == 0).all()
    again = actor.get_action_dist_params(obs)[:2]
    distribution = actor.own_distribution(obs)
    actions, log_prob = distribution.log_prob_from_params(*again)
    th.testing.assert_close(distribution.log_prob(actions), log_prob, rtol=1e-3, atol=1e-3)
    gradient = th.autograd.grad(log_prob.sum() + actions.sum(), again)
    assert all((each[~own] == 0).all() for each in gradient)
    assert all((each[own] != 0).any() for each in gradient)


@pytest.mark.parametrize("name", [*GAUSSIAN, "TD3", "DDPG"])
@pytest.mark.parametrize("placement", ["none", "middle", "big"])
def test_critics_see_own_dimensions_only(name, placement):
    onehot = name == "CrossQ"
    critic = make(name, placement, onehot).critic.eval()
    obs, own = batch(onehot)
    actions = th.rand(12, 3, requires_grad=True)
    values = critic(obs, actions)
    values = th.stack(values) if isinstance(values, tuple) else values
    (gradient,) = th.autograd.grad(values.sum(), actions)
    assert (gradient[~own] == 0).all()
    assert (gradient[own] != 0).any()
    other = critic(obs, th.where(own, actions, -0.5))
    other = th.stack(other) if isinstance(other, tuple) else other
    assert th.equal(other, values)


@pytest.mark.parametrize("name", ["PPO", "SAC", "TD3", "CrossQ"])
def test_what_is_lacking_is_zero_in_actions(name):
    onehot = name == "CrossQ"
    model = arena.train(make(name, onehot=onehot), 24)
    obs, own = batch(onehot)
    obs = {k: v.numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs.numpy()
    for deterministic in (True, False):
        actions, _ = model.predict(obs, deterministic=deterministic)
        assert (actions[~own.numpy()] == 0).all()
        assert (actions[own.numpy()] != 0).any()
    assert not [key for key in model.policy.state_dict() if "own_KA" in key]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"action_dims": [1, 3]}, ValueError, r"must hold one number for each of 3 tasks, got \["),
        ({"action_dims": [1, 4, 2]}, ValueError, "must be at most the 3 dimensions of Box"),
        ({"action_dims": [1, 0, 2]}, ValueError, "`action_dims` must be at least 1"),
        ({"action_dims": [1, 2.0, 2]}, TypeError, "`action_dims` must be an int, got 2.0"),
        ({"model": {"use_sde": True}}, ValueError, "`use_sde` must be False with `action_dims`"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        make("PPO", **kwargs)


def test_dimensions_need_a_box_and_a_task_id():
    env = world(actions=spaces.Discrete(3))
    with pytest.raises(ValueError, match="`action_dims` needs a Box action of one axis, got Disc"):
        arena.make("PPO", "MoeMultiInputPolicy", env, action_dims=[1, 2, 3])
    with pytest.raises(ValueError, match="`action_dims` needs a task id in the observation"):
        arena.make("PPO", "MoeMlpPolicy", world(onehot=True), action_dims=[1, 2, 3])


def test_what_sb3s_own_policies_do_not_have_is_said_where_models_grow_or_turn_dense():
    with pytest.raises(ValueError, match="`action_dims` must be None"):
        sb3_moe.to_dense(make("PPO", num_experts=1))
    dense = arena.make("PPO", "MultiInputPolicy", world())
    with pytest.raises(ValueError, match=r"`action_dims` must be None: .*got \[1, 3, 2\]"):
        sb3_moe.upcycle(dense, placement="middle", action_dims=DIMS)
