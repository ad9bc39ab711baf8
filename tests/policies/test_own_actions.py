"""Padded actions: what a task lacks has no part in probabilities, critics, gradients or actions."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG, PPO, SAC, TD3
from torch.distributions import Normal

import sb3_moe
from sb3_moe.measures.gradients import fisher_information

DIMS = [1, 3, 2]
BOX = spaces.Box(-1, 1, (3,))
DICT = spaces.Dict({"obs": spaces.Box(-1, 1, (4,)), "task_id": spaces.Discrete(3)})


class World(gym.Env):
    """Three tasks, whose id is in a Dict or a one-hot; the actions are kept."""

    def __init__(self, onehot=False, action_space=BOX):
        self.onehot, self.action_space, self.task, self.acted = onehot, action_space, 0, []
        self.observation_space = spaces.Box(-1, 1, (7,)) if onehot else DICT

    def see(self):
        obs = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        if self.onehot:
            return np.concatenate([obs, np.eye(3, dtype=np.float32)[self.task]])
        return {"obs": obs, "task_id": self.task}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.task, self.steps = (self.task + 1) % 3, 0
        return self.see(), {}

    def step(self, action):
        self.acted.append((self.task, action))
        self.steps += 1
        return self.see(), float(action.sum()), False, self.steps == 3, {}


def make(algorithm, placement="middle", onehot=False, **kwargs):
    options = {"net_arch": [8], "placement": placement, "action_dims": DIMS} | kwargs
    recurrent = algorithm.__name__ == "RecurrentPPO"
    name = ("MoeMlp" if onehot else "MoeMultiInput") + ("LstmPolicy" if recurrent else "Policy")
    if onehot:
        options["features_extractor_kwargs"] = {"num_tasks": 3}
    settings = {"PPO": {"n_steps": 16, "batch_size": 8}, "TRPO": {"n_steps": 16, "batch_size": 8},
                "RecurrentPPO": {"n_steps": 16, "batch_size": 8}}  # fmt: skip
    off = {"learning_starts": 8, "batch_size": 8, "buffer_size": 64}
    return algorithm(name, World(onehot), policy_kwargs=options, seed=0, device="cpu",
                     **settings.get(algorithm.__name__, off))  # fmt: skip


def contrib(name):
    return getattr(pytest.importorskip("sb3_contrib", reason="needs the contrib extra"), name)


def find(name):
    known = {each.__name__: each for each in (PPO, SAC, TD3, DDPG)}
    return known.get(name) or contrib(name)


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
    policy = make(PPO, placement, onehot).policy
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


@pytest.mark.parametrize("placement", ["none", "final"])
def test_lacking_dimensions_get_a_gradient_of_exactly_zero(placement):
    policy = make(PPO, placement).policy
    obs, own = batch()
    rows = ~own[:, 2]  # the third dimension is the second task's alone
    few = {key: value[rows] for key, value in obs.items()}
    _, log_prob, entropy = policy.evaluate_actions(few, th.rand(int(rows.sum()), 3))
    (log_prob.sum() + entropy.sum()).backward()
    assert policy.log_std.grad[2] == 0
    assert policy.log_std.grad[0] != 0
    for name, parameter in policy.action_net.named_parameters():
        if name.endswith("bias") and parameter.grad is not None and parameter.shape[-1] == 3:
            assert (parameter.grad[..., 2] == 0).all()
            assert (parameter.grad[..., 0] != 0).any()


def test_with_all_dimensions_nothing_changes():
    # One after the other: they draw from the same generators.
    first, second = (make(PPO, action_dims=dims).learn(32) for dims in ([3, 3, 3], None))
    for mine, theirs in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        th.testing.assert_close(mine, theirs)


GAUSSIAN = ["SAC", "TQC", "CrossQ"]


@pytest.mark.parametrize("name", GAUSSIAN)
@pytest.mark.parametrize("placement", ["none", "middle", "big"])
def test_sac_and_its_kin_sample_and_judge_own_dimensions_only(name, placement):
    onehot = name == "CrossQ"
    actor = make(find(name), placement, onehot).actor
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
    gradient = th.autograd.grad(log_prob.sum() + actions.sum(), again)
    assert all((each[~own] == 0).all() for each in gradient)
    assert all((each[own] != 0).any() for each in gradient)


@pytest.mark.parametrize("name", ["PPO", *GAUSSIAN, "TD3"])
def test_lacking_dimensions_count_for_nothing_in_what_ewc_keeps(name):
    onehot = name == "CrossQ"
    policy = make(find(name), "none", onehot).policy
    obs, own = batch(onehot)
    rows = ~own[:, 2]  # the third dimension is the second task's alone
    few = obs[rows].numpy() if onehot else {key: each[rows].numpy() for key, each in obs.items()}
    head = policy.action_net if name == "PPO" else policy.actor.mu
    last = [module for module in head.modules() if isinstance(module, th.nn.Linear)][-1]
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (int(rows.sum()), 3)).astype(np.float32)
    found = fisher_information(policy, few, actions, {"weight": last.weight})["weight"]
    assert not found[2].any()
    assert found[0].any()


@pytest.mark.parametrize("name", [*GAUSSIAN, "TD3", "DDPG"])
@pytest.mark.parametrize("placement", ["none", "middle", "big"])
def test_critics_see_own_dimensions_only(name, placement):
    onehot = name == "CrossQ"
    critic = make(find(name), placement, onehot).critic.eval()
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


@pytest.mark.parametrize(
    "name",
    [
        *("PPO", "SAC", "TD3", "CrossQ"),
        *(pytest.param(each, marks=pytest.mark.full) for each in ("TRPO", "RecurrentPPO", "TQC")),
    ],
)
def test_every_algorithm_learns_acts_and_loads_with_own_dimensions(name, tmp_path):
    onehot = name == "CrossQ"
    model = make(find(name), onehot=onehot)
    model.learn(24)
    obs, own = batch(onehot)
    obs = {k: v.numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs.numpy()
    for deterministic in (True, False):
        actions, _ = model.predict(obs, deterministic=deterministic)
        assert (actions[~own.numpy()] == 0).all()
        assert (actions[own.numpy()] != 0).any()
    expected, _ = model.predict(obs, deterministic=True)
    model.save(tmp_path / "model")
    sb3_moe.save(model, tmp_path / "model.moe")
    for loaded in (type(model).load(tmp_path / "model"), sb3_moe.load(tmp_path / "model.moe")):
        assert loaded.policy.moe["pi"].action_dims == DIMS
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
    assert not [key for key in model.policy.state_dict() if "own_KA" in key]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"action_dims": [1, 3]}, ValueError, r"must hold one number for each of 3 tasks, got \["),
        ({"action_dims": [1, 4, 2]}, ValueError, "must be at most the 3 dimensions of Box"),
        ({"action_dims": [1, 0, 2]}, ValueError, "`action_dims` must be at least 1"),
        ({"action_dims": [1, 2.0, 2]}, TypeError, "`action_dims` must be an int, got 2.0"),
        ({"action_dims": 3}, TypeError, "`action_dims` must be a list with a number for each task"),
        ({"action_dims": "all"}, TypeError, "`action_dims` must be a list"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        make(PPO, **kwargs)


def test_gsde_is_refused():
    kwargs = {"action_dims": DIMS}
    with pytest.raises(ValueError, match="`use_sde` must be False with `action_dims`, got True"):
        PPO("MoeMultiInputPolicy", World(), use_sde=True, policy_kwargs=kwargs, device="cpu")


def test_dimensions_need_a_box_and_a_task_id():
    kwargs = {"policy_kwargs": {"action_dims": [1, 2, 3]}, "device": "cpu"}
    with pytest.raises(ValueError, match="`action_dims` needs a Box action of one axis, got Disc"):
        PPO("MoeMultiInputPolicy", World(action_space=spaces.Discrete(3)), **kwargs)
    with pytest.raises(ValueError, match="`action_dims` needs a task id in the observation"):
        PPO("MoeMlpPolicy", World(onehot=True), **kwargs)


def test_what_sb3s_own_policies_do_not_have_is_said_where_models_grow_or_turn_dense():
    with pytest.raises(ValueError, match="`action_dims` must be None"):
        sb3_moe.to_dense(make(PPO, num_experts=1))
    dense = PPO("MultiInputPolicy", World(), device="cpu")
    with pytest.raises(ValueError, match=r"`action_dims` must be None: .*got \[1, 3, 2\]"):
        sb3_moe.upcycle(dense, placement="middle", action_dims=DIMS)
