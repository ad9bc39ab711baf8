"""An expert without rows stays as it is, bit for bit, and goes on as if there had been no gap."""

import copy
import math
import pickle

import arena
import numpy as np
import pytest
import reference
import torch as th
from own_parts import Skipping
from torch import nn

import sb3_moe
from sb3_moe.layers import SeparateNetworks, StackedNetwork, mlp_experts
from sb3_moe.networks import networks_of
from sb3_moe.optimizers.idle_experts import MARK, IdleExperts
from sb3_moe.optimizers.own_steps import STEPS
from sb3_moe.plasticity.resets import moments, reset_optimizers

OPTIMIZERS = {
    "adam": (th.optim.Adam, {"fused": True}),
    "adamw": (th.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": (th.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "sgd": (th.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
}
VARIANTS = {
    **OPTIMIZERS,
    "plain adam": (th.optim.Adam, {}),
    "amsgrad": (th.optim.Adam, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    "adam by tensor": (th.optim.Adam, {"foreach": False, "lr": th.tensor(1e-2)}),
    "adam all at once": (th.optim.Adam, {"foreach": True}),
    "no beta": (th.optim.Adam, {"betas": (0.0, 0.99)}),
    "fused adamw": (th.optim.AdamW, {"fused": True, "weight_decay": 0.1}),
    "plain sgd": (th.optim.SGD, {"weight_decay": 0.1}),
    "fused sgd": (th.optim.SGD, {"momentum": 0.5, "fused": True}),
    "plain rmsprop": (th.optim.RMSprop, {}),
}
ALGORITHMS = ["PPO", "A2C", "DQN", "SAC", "TD3"]


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


def one_task(algorithm, optimizer=None, model=None, **options):
    """Return a model with an expert per task, in a world that begins with the first task."""
    space = arena.with_task(arena.FLAT)
    env = OneTask(space, arena.actions_of(algorithm))
    if optimizer is not None:
        options["optimizer_class"], options["optimizer_kwargs"] = OPTIMIZERS[optimizer]
    options = {"router": "task", "net_arch": [4], **options}
    return arena.make(algorithm, "MoeMultiInputPolicy", env, model=model, **options)


def set_task(model, task):
    """Let the world be of one task, and forget what a replay buffer holds of others."""
    model.get_env().envs[0].unwrapped.task = task
    if getattr(model, "replay_buffer", None) is not None:
        model.replay_buffer.reset()


def expert_tensors(policy):
    """Yield the stacked tensors of all experts, and of the optimiser about them, by name."""
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


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_an_optimiser_that_is_put_in_anothers_place_holds_too(algorithm):
    model = one_task(algorithm)
    # It stands where the algorithm looks for it.
    holder = model.policy
    holder.optimizer = th.optim.Adam(holder.optimizer.param_groups[0]["params"], lr=1e-3)
    arena.train(model, 32)
    set_task(model, 1)
    still, moving = of_expert(model.policy, 0), of_expert(model.policy, 1)
    arena.train(model, 32)
    assert_same(of_expert(model.policy, 0), still)
    assert any(
        not th.equal(of_expert(model.policy, 1)[name], each) for name, each in moving.items()
    )


@pytest.mark.covering
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_expert_whose_task_is_gone_stays_as_it_is(algorithm, optimizer):
    model = arena.train(one_task(algorithm, optimizer), 32)
    set_task(model, 1)
    still, moving = of_expert(model.policy, 0), of_expert(model.policy, 1)
    never = of_expert(model.policy, 2)
    arena.train(model, 32)
    assert_same(of_expert(model.policy, 0), still)
    assert_same(of_expert(model.policy, 2), never)
    changed = [not th.equal(t, moving[name]) for name, t in of_expert(model.policy, 1).items()]
    assert sum(changed) > len(changed) / 2


def test_without_the_option_momentum_carries_an_idle_expert():
    model = arena.train(one_task("PPO", "adam", freeze_idle=False), 32)
    set_task(model, 1)
    before = of_expert(model.policy, 0)
    after = of_expert(arena.train(model, 32).policy, 0)
    assert not all(th.equal(tensor, before[name]) for name, tensor in after.items())


# The hooks alone, against an optimiser for each expert.


def stacked():
    return mlp_experts(3, 4, 5, 2)


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


KINDS = {"stacked": stacked, "apart": apart, "mixed": mixed}


def settings(name):
    kind, kwargs = VARIANTS[name]
    return kind, {"lr": 1e-2, **copy.deepcopy(kwargs)}


def gradients(experts, active):
    """Give the experts random gradients, zero for those that aren't active."""
    for parameter, first, n in experts.shares():
        gradient = th.randn(parameter.shape).unflatten(0, (n, -1))
        for k in range(n):
            if first + k not in active:
                gradient[k] = 0.0
        parameter.grad = gradient.view(parameter.shape)


@pytest.mark.covering
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_expert_steps_as_with_an_optimiser_of_its_own(name, kind):
    th.manual_seed(0)
    experts = KINDS[kind]()
    optimizer, kwargs = settings(name)
    ours = optimizer(experts.parameters(), **kwargs)
    IdleExperts(ours, [experts], always=True)
    theirs = reference.OwnOptimizers(experts, lambda tensors: optimizer(tensors, **kwargs))
    for active in [{0}, {0, 1}, {0}, {1}, set(), {0, 1, 2}, {2}, {0, 1, 2}]:
        gradients(experts, active)
        theirs.step(active)
        ours.step()
        for found, expected in theirs.pairs():
            th.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad", "plain adam"])
@pytest.mark.parametrize("since", [0, 3])  # steps of all experts since the others joined
def test_tensors_that_join_late_count_their_own_steps(name, since):
    th.manual_seed(0)
    experts = stacked()
    optimizer, kwargs = settings(name)
    ours = optimizer(experts.parameters(), **kwargs)
    theirs = reference.OwnOptimizers(experts, lambda tensors: optimizer(tensors, **kwargs))
    gradients(experts, {0, 1, 2})
    for _ in range(20):  # before anyone keeps idle experts still
        theirs.step({0, 1, 2})
        ours.step()
    for parameter in experts.last.parameters():
        del ours.state[parameter]
    for own, copies in zip(theirs.optimizers, theirs.copies, strict=True):
        for late in copies[2:]:
            del own.state[late]
    for _ in range(since):
        theirs.step({0, 1, 2})
        ours.step()
    IdleExperts(ours, [experts], always=True)
    for active in [{0, 1}, {0}, {1, 2}, {0, 1, 2}, {2}]:
        gradients(experts, active)
        theirs.step(active)
        ours.step()
        for found, expected in theirs.pairs():
            th.testing.assert_close(found, expected, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_thousand_idle_updates_leave_no_trace(name):
    th.manual_seed(0)
    optimizer, kwargs = settings(name)
    with_gap, without = stacked(), None
    without = copy.deepcopy(with_gap)
    ours, plain = (optimizer(each.parameters(), **kwargs) for each in (with_gap, without))
    IdleExperts(ours, [with_gap], always=True)
    for _ in range(5):
        both_step(with_gap, ours, without, plain)
    kept = {p: (p[0].clone(), state_of(ours, p)) for p in with_gap.parameters()}
    for _ in range(1000):
        gradients(with_gap, {1})
        ours.step()
    for parameter, (weights, state) in kept.items():
        assert th.equal(parameter[0], weights)
        assert_same(state_of(ours, parameter), state)
        assert ours.state[parameter].get(STEPS, [5.0])[0] == 5.0
    for _ in range(5):
        both_step(with_gap, ours, without, plain)
        for found, expected in zip(with_gap.parameters(), without.parameters(), strict=True):
            th.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0.0)


def both_step(with_gap, ours, without, plain):
    gradients(with_gap, {0, 1, 2})
    for found, other in zip(with_gap.parameters(), without.parameters(), strict=True):
        other.grad = found.grad.clone()
    ours.step()
    plain.step()


def state_of(optimizer, parameter):
    """Return the first expert's part of the state, without counts."""
    state = {k: v for k, v in optimizer.state[parameter].items() if k not in ("step", STEPS)}
    return {name: value[0].clone() for name, value in state.items() if value is not None}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_where_no_expert_is_ever_idle_the_step_is_torchs_own_to_the_bit(name):
    th.manual_seed(0)
    optimizer, kwargs = settings(name)
    held = stacked()
    free = copy.deepcopy(held)
    ours, plain = (optimizer(each.parameters(), **kwargs) for each in (held, free))
    IdleExperts(ours, [held], always=True)
    for _ in range(4):
        both_step(held, ours, free, plain)
    for found, expected in zip(held.parameters(), free.parameters(), strict=True):
        assert th.equal(found, expected)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_until_an_expert_is_idle_an_optimiser_on_a_cpu_holds_what_torch_does(name):
    optimizer, kwargs = settings(name)
    held = stacked()
    free = copy.deepcopy(held)
    ours, plain = (optimizer(each.parameters(), **kwargs) for each in (held, free))
    hooks = IdleExperts(ours, [held], always=True)
    both_step(held, ours, free, plain)
    both_step(held, ours, free, plain)
    assert [*ours.state[held.last.weight]] == [*plain.state[free.last.weight]]
    assert hooks.memory == 0
    gradients(held, {1})
    ours.step()
    assert hooks.memory >= sum(each.nbytes for each in held.parameters())


def test_a_gradient_that_is_no_number_is_no_reason_to_stay_still():
    experts = stacked()
    optimizer = th.optim.Adam(experts.parameters())
    IdleExperts(optimizer, [experts], always=True)
    gradients(experts, {1})
    experts.last.bias_EO.grad[0] = math.nan
    optimizer.step()
    assert th.isnan(experts.last.bias_EO[0]).all()


def test_weights_that_several_experts_hold_together_are_nobodys():
    shared = nn.PReLU()
    networks = [nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2)) for _ in range(2)]
    shares = SeparateNetworks(networks, 2).shares()
    assert len(shares) == 8
    assert not any(share.parameter is shared.weight for share in shares)


# What is held, and by default.


def is_held(model, tower="pi"):
    optimizer = networks_of(model.policy).optimizers()[tower]
    return optimizer.param_groups[0].get(MARK, False)


@pytest.mark.parametrize(
    ("options", "held"),
    [
        ({}, True),
        ({"freeze_idle": False}, False),
        ({"router": "top_k"}, False),
        ({"router": "top_k", "freeze_idle": True}, True),
        ({"router": "soft"}, False),
        ({"router": "soft", "head_router": "task"}, True),
        ({"placement": "none", "router": "soft", "head_router": "task"}, True),
        ({"placement": "none", "router": "soft", "freeze_idle": True}, False),
        ({"optimizer_class": th.optim.Adamax}, False),
        ({"router": {"pi": "task", "vf": "soft"}}, True),
    ],
    ids=str,
)
def test_by_default_those_are_held_whose_task_picks_them(options, held):
    assert is_held(one_task("PPO", **options)) == held


def test_a_head_for_each_task_is_held_while_the_body_learns():
    model = arena.train(one_task("PPO", router="soft", head_router="task"), 32)
    set_task(model, 1)
    heads = {name: layer for name, layer in model.policy.moe_layers().items() if "head" in name}
    heads = heads or {
        name: layer for name, layer in model.policy.moe_layers().items() if layer.needs_tasks
    }
    before = {name: layer.experts.last.weight[0].clone() for name, layer in heads.items()}
    arena.train(model, 32)
    assert len(before) == 2
    for name, layer in heads.items():
        assert th.equal(layer.experts.last.weight[0], before[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"router": "soft", "freeze_idle": True},
            r"`freeze_idle`=True needs a `router` that leaves experts out, \['top_k', 'task'\], "
            "got 'soft'",
        ),
        (
            {"freeze_idle": True, "optimizer_class": th.optim.Adamax},
            "needs `optimizer_class` to be one of Adam, AdamW, RMSprop, SGD, got Adamax",
        ),
        (
            {
                "freeze_idle": True,
                "optimizer_class": th.optim.SGD,
                "optimizer_kwargs": {"momentum": 0.9, "dampening": 0.5},
            },
            "needs `optimizer_kwargs` without `dampening`, got SGD with dampening=0.5",
        ),
        (
            {"freeze_idle": True, "optimizer_kwargs": {"differentiable": True}},
            "needs `optimizer_kwargs` without `differentiable`, got Adam with differentiable=True",
        ),
    ],
)
def test_what_cannot_hold_them_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        one_task("PPO", **options)


def test_freeze_idle_is_yes_or_no():
    with pytest.raises(TypeError, match="`freeze_idle` must be a bool, got 1"):
        one_task("PPO", freeze_idle=1)


def test_of_trpo_the_critic_is_held_and_the_actor_stays_but_for_rounding():
    model = arena.train(one_task("TRPO"), 32)
    set_task(model, 1)
    before = of_expert(model.policy, 0)
    for name, tensor in of_expert(arena.train(model, 32).policy, 0).items():
        th.testing.assert_close(
            tensor, before[name], atol=1e-7 if name[0] == "p" else 0.0, rtol=0.0
        )


# Files and copies.


def counts(model):
    """Return every count of steps that the optimisers hold."""
    return [t.tolist() for name, t in expert_tensors(model.policy) if name.endswith(STEPS)]


def after_a_switch(algorithm="DQN", **options):
    model = arena.train(one_task(algorithm, **options), 32)
    set_task(model, 1)
    return arena.train(model, 32)


WAYS = {
    "zip": (lambda m, p: m.save(p), lambda c, p, env: c.load(p, env=env)),
    "moe": (
        lambda m, p: sb3_moe.save(m, p),
        lambda c, p, env: sb3_moe.load(p, env=env),
    ),
}


@pytest.mark.covering
@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
@pytest.mark.parametrize("way", list(WAYS))
def test_a_loaded_model_goes_on_holding_with_the_same_counts(way, algorithm, tmp_path):
    save, load = WAYS[way]
    model = after_a_switch(algorithm)
    save(model, tmp_path / f"model.{way}")
    loaded = load(type(model), tmp_path / f"model.{way}", model.get_env())
    assert len(set(map(tuple, counts(loaded)))) >= 1
    assert counts(loaded) == counts(model)
    assert any(len(set(each)) > 1 for each in counts(loaded))
    before = of_expert(loaded.policy, 0)
    set_task(loaded, 1)
    assert_same(of_expert(arena.train(loaded, 32).policy, 0), before)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_model_that_was_saved_without_the_option_goes_on_without(way, tmp_path):
    save, load = WAYS[way]
    model = one_task("PPO")
    for group in model.policy.optimizer.param_groups:
        del group[MARK]  # as in files of version 0.1
    old = model.policy.optimizer.state_dict()
    model.policy.optimizer.load_state_dict(old)
    for path in ("once", "twice"):
        save(model, tmp_path / path)
        model = load(type(model), next(tmp_path.glob(f"{path}*")), model.get_env())
        assert not is_held(model)
    set_task(model, 0)
    arena.train(model, 32)
    assert counts(model) == []


def test_who_asks_for_it_gets_it_for_an_old_model_too():
    model = one_task("PPO", freeze_idle=True)
    state = model.policy.optimizer.state_dict()
    del state["param_groups"][0][MARK]
    model.policy.optimizer.load_state_dict(state)
    assert is_held(model)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_of_a_policy_holds_too(again):
    model = after_a_switch()
    model.policy = again(model.policy)
    model.q_net, model.q_net_target = model.policy.q_net, model.policy.q_net_target
    before = of_expert(model.policy, 0)
    assert_same(of_expert(arena.train(model, 32).policy, 0), before)


def test_a_forged_count_is_refused():
    model = after_a_switch()
    state = model.policy.optimizer.state_dict()
    for entries in state["state"].values():
        if STEPS in entries:
            entries[STEPS] = th.zeros(2)
    with pytest.raises(
        ValueError, match=r"`expert_steps` must hold .* 3 experts, got shape \(2,\)"
    ):
        model.policy.optimizer.load_state_dict(state)


def test_an_optimiser_that_forgets_counts_from_the_start():
    model = after_a_switch("PPO")
    reset_optimizers(model.policy)
    arena.train(model, 16)
    assert {tuple(each) for each in counts(model)} == {(0.0, 2.0, 0.0)}


def test_a_count_is_no_moment():
    policy = after_a_switch("DQN", expert=Skipping, net_arch=[1]).policy
    found = moments(policy)
    kept = {id(state[STEPS]) for state in policy.optimizer.state.values() if STEPS in state}
    assert kept
    assert not kept & {id(each) for averages in found.values() for each in averages}


@pytest.mark.full
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_thousand_updates_by_an_algorithm_leave_an_idle_expert_as_it_is(algorithm, optimizer):
    many = {"n_epochs": 500} if algorithm == "PPO" else {"n_steps": 5} if algorithm == "A2C" else {}
    model = arena.train(one_task(algorithm, optimizer, many), 32)
    set_task(model, 1)
    before = of_expert(model.policy, 0)
    if many:
        arena.train(model, 32 if algorithm == "PPO" else 5000)
    else:
        arena.train(model, 16)
        model.train(gradient_steps=1000, batch_size=8)
    assert_same(of_expert(model.policy, 0), before)

