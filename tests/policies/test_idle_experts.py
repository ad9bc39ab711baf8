"""An expert without rows stays as it is, bit for bit, and goes on as if there had been no gap."""

import copy
import math
import pickle

import arena
import numpy as np
import pytest
import reference
import torch as th
from own_parts import Skipping, mlp_experts
from torch import nn

from sb3_moe.layers import SeparateNetworks, StackedNetwork
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.optimizers import ExpertAdam, ExpertAdamW, ExpertLayer, OneByOne

VARIANTS = {
    "adam": (ExpertAdam, th.optim.Adam, {}),
    "adamw": (ExpertAdamW, th.optim.AdamW, {}),
    "amsgrad": (
        ExpertAdam,
        th.optim.Adam,
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True, "lr": th.tensor(1e-2)},
    ),
}
ADAMW = {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}


class OneTask(arena.Arena):
    """Random observations of one task at a time."""

    task = 0

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        return self.of_task(obs), info

    def step(self, action):
        obs, *rest = super().step(action)
        return self.of_task(obs), *rest

    def of_task(self, obs):
        return {**obs, "task_id": np.int64(self.task)}


def one_task(algorithm, model=None, **options):
    """Return a model with an expert per task, in an environment that begins with the first task."""
    space = arena.with_task(arena.FLAT)
    env = OneTask(space, arena.actions_of(algorithm))
    if algorithm == "A2C":
        model = {"use_rms_prop": False, **(model or {})}
    options = {"router": "task", "net_arch": [4], **options}
    return arena.make(algorithm, "MoeMultiInputPolicy", env, model=model, **options)


def set_task(model, task):
    """Let the environment be of one task, and forget what a replay buffer holds of others."""
    model.get_env().envs[0].unwrapped.task = task
    if getattr(model, "replay_buffer", None) is not None:
        model.replay_buffer.reset()


def expert_tensors(policy):
    """Yield the stacked tensors of all experts, and of the optimizer about them, by name."""
    optimizers = networks_of(policy).optimizers()
    for name, layer in policy.moe_layers().items():
        optimizer = optimizers[name.split(".")[0]]
        for key, parameter in layer.experts.named_parameters():
            yield f"{name}.{key}", parameter.detach()
            for kind, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, th.Tensor) and value.dim() > 0:
                    yield f"{name}.{key}/{kind}", value


def of_expert(policy, k):
    return {name: tensor[k].clone() for name, tensor in expert_tensors(policy)}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in found.items():
        assert th.equal(tensor, expected[name]), name


@pytest.mark.covering
@pytest.mark.parametrize("options", [{}, ADAMW], ids=["adam", "adamw"])
@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "SAC", "TD3"])
def test_an_expert_whose_task_is_gone_stays_as_it_is(algorithm, options):
    model = arena.train(one_task(algorithm, **options), 32)
    set_task(model, 1)
    still, moving = of_expert(model.policy, 0), of_expert(model.policy, 1)
    never = of_expert(model.policy, 2)
    arena.train(model, 32)
    assert_same(of_expert(model.policy, 0), still)
    assert_same(of_expert(model.policy, 2), never)
    changed = [not th.equal(t, moving[name]) for name, t in of_expert(model.policy, 1).items()]
    assert sum(changed) > len(changed) / 2


def test_without_the_option_momentum_carries_an_idle_expert():
    model = arena.train(one_task("PPO", freeze_idle=False), 32)
    set_task(model, 1)
    before = of_expert(model.policy, 0)
    after = of_expert(arena.train(model, 32).policy, 0)
    assert not all(th.equal(tensor, before[name]) for name, tensor in after.items())


# The optimizer alone, against one for each expert.


def stacked(width=16):
    return mlp_experts(3, 8, width, 8)


def apart():
    return SeparateNetworks([Skipping(4, 5, 2, nn.PReLU()) for _ in range(3)], 2)


def mixed():
    """Return stacked layers with norms as one, slopes, and modules of experts' own between."""
    return StackedNetwork(
        [
            nn.Sequential(
                nn.Linear(4, 5), nn.BatchNorm1d(5), nn.PReLU(), nn.LayerNorm(5), nn.Linear(5, 2)
            )
            for _ in range(3)
        ]
    )


def held(name, experts, frozen=(), *, freeze_idle=True):
    """Return an optimizer of ours and one for each expert, alike."""
    ours, torchs, kwargs = VARIANTS[name]
    kwargs = {"lr": 1e-2, **kwargs}
    optimizer = ours(experts.parameters(), **kwargs)
    optimizer.set_experts([ExpertLayer(experts.shares(), freeze_idle, frozen)])
    return optimizer, reference.OwnOptimizers(
        experts, lambda tensors: torchs(tensors, fused=True, **kwargs)
    )


def gradients(experts, active):
    """Give the experts random gradients, zero for those that aren't active."""
    for parameter, first, n in experts.shares():
        gradient = th.randn(parameter.shape).unflatten(0, (n, -1))
        for k in range(n):
            if first + k not in active:
                gradient[k] = 0.0
        parameter.grad = gradient.view(parameter.shape)


SOME = [{0}, {0, 1}, {0}, {1}, set(), {0, 1, 2}, {2}, {0, 1, 2}, {1, 2}, {0, 2}]


def pairs_after(steps, name, kind):
    """Let both step, each time with some experts active, and return tensors beside each other."""
    th.manual_seed(0)
    experts = kind()
    ours, theirs = held(name, experts)
    for active in steps:
        gradients(experts, active)
        theirs.step(active)
        ours.step()
    return theirs.pairs()


def test_parameters_averages_and_gradients_of_single_experts_have_one_shape_as_a_gpu_asks():
    views = OneByOne([th.ones(3), *(th.zeros(3, 4, 5) for _ in range(3))])
    for _, *row in zip(*views.rows(th.zeros(3, 5, 4).transpose(1, 2), [0, 2]), strict=True):
        assert {(each.shape, each.stride()) for each in row} == {(row[0].shape, row[0].stride())}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_expert_steps_to_the_bit_as_with_a_fused_adam_of_its_own(name):
    steps = [{0, 1, 2}] * 5 + SOME * 2 + [{0, 1, 2}] * 5
    assert all(th.equal(*pair) for pair in pairs_after(steps, name, stacked))


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("kind", [apart, mixed])
def test_so_do_experts_of_odd_sizes_and_kinds_but_for_rounding(name, kind):
    # The fused kernel rounds numbers at the end of a tensor another way.
    for found, expected in pairs_after(SOME, name, kind):
        th.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


def test_tensors_that_join_late_count_their_own_steps():
    th.manual_seed(0)
    experts = stacked()
    ours, theirs = held("adam", experts)
    for step in range(20):
        if step == 10:
            for parameter in experts.last.parameters():
                del ours.state[parameter]
            for own, copies in zip(theirs.optimizers, theirs.copies, strict=True):
                for late in copies[2:]:
                    del own.state[late]
        active = SOME[step % 10] if step > 15 else {0, 1, 2}
        gradients(experts, active)
        theirs.step(active)
        ours.step()
    for found, expected in theirs.pairs():
        assert th.equal(found, expected)


def test_experts_that_are_idle_are_not_held_because_another_is_frozen():
    experts = stacked()
    optimizer, _ = held("adam", experts, [2], freeze_idle=False)
    for active in ({0, 1, 2}, {0, 2}):
        before = experts.last.weight.detach().clone()
        gradients(experts, active)
        optimizer.step()
        moved = [not th.equal(a, b) for a, b in zip(experts.last.weight, before, strict=True)]
        assert moved == [True, True, False]


def test_a_gradient_that_is_no_number_is_no_reason_to_stay_still():
    experts = stacked()
    optimizer, _ = held("adam", experts)
    gradients(experts, {1})
    experts.last.bias_EO.grad[0] = math.nan
    optimizer.step()
    assert th.isnan(experts.last.bias_EO[0]).all()


def test_a_tensor_without_a_gradient_stays_while_the_rest_of_its_expert_steps():
    experts = stacked()
    optimizer, _ = held("adam", experts)
    gradients(experts, {1})
    experts.last.bias_EO.grad = None
    weight, bias = [each.detach().clone() for each in experts.last.parameters()]
    optimizer.step()
    assert th.equal(experts.last.bias_EO, bias)
    moved = [not th.equal(a, b) for a, b in zip(experts.last.weight, weight, strict=True)]
    assert moved == [False, True, False]


def test_an_optimizer_that_takes_anothers_place_holds_too():
    model = one_task("DQN")
    model.policy.optimizer = ExpertAdamW(model.q_net.parameters(), weight_decay=0.1)
    weight = next(iter(model.policy.moe_layers().values())).experts.last.weight
    before = weight.detach().clone()
    arena.train(model, 32)
    assert [th.equal(a, b) for a, b in zip(weight, before, strict=True)] == [False, True, True]


# What is held, and by default.


def is_held(model):
    optimizer = networks_of(model.policy).optimizers()["pi"]
    return isinstance(optimizer, ExpertAdam) and bool(optimizer.frozen_while_idle())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"freeze_idle": False}, False),
        ({"router": "top_k"}, False),
        ({"router": "top_k", "freeze_idle": True}, True),
        ({"router": "soft"}, False),
        ({"router": "soft", "head_router": "task"}, True),
        ({"placement": "none", "router": "soft", "head_router": "task"}, True),
        ({"optimizer_class": th.optim.Adamax}, False),
        ({"router": {"pi": "task", "vf": "soft"}}, True),
    ],
    ids=str,
)
def test_by_default_those_are_held_whose_task_picks_them(options, expected):
    assert is_held(one_task("PPO", **options)) == expected


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "CrossQ", "QRDQN"])
def test_adam_and_adamw_know_experts_and_have_the_dense_settings(algorithm):
    for ours, torchs in ((ExpertAdam, th.optim.Adam), (ExpertAdamW, th.optim.AdamW)):
        options = {"optimizer_class": torchs, "net_arch": [4]}
        moe, dense = (
            networks_of(arena.make(algorithm, alias, **options).policy).every_optimizer()
            for alias in ("MoeMlpPolicy", "MlpPolicy")
        )
        for mine, theirs in zip(moe, dense, strict=True):
            assert (type(mine), type(theirs)) == (ours, torchs)
            assert mine.defaults == theirs.defaults | {"fused": True}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "soft", "freeze_idle": True}, "`freeze_idle`=True needs a `router` .* 'soft'"),
        ({"freeze_idle": True, "optimizer_class": th.optim.Adamax}, "`freeze_idle` .* got Adamax"),
    ],
)
def test_what_cannot_hold_them_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        one_task("PPO", **options)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_of_a_policy_holds_too(again):
    model = arena.train(one_task("DQN"), 32)
    set_task(model, 1)
    model.policy = again(model.policy)
    model.q_net, model.q_net_target = model.policy.q_net, model.policy.q_net_target
    before = of_expert(model.policy, 0)
    assert_same(of_expert(arena.train(model, 32).policy, 0), before)
