"""What new experts, copies and merged ones are, and what stays as it was."""

import arena
import numpy as np
import pytest
import torch as th
from dense_models import gap
from experts_in_models import all_of, assert_same, assert_unchanged, loaded, moe, of_expert
from own_parts import Skipping, Tempered

import sb3_moe
from sb3_moe import add_experts, merge_experts, remove_experts
from sb3_moe.growing.models import raw_outputs, sampled
from sb3_moe.policies.networks import networks_of


def layer_of(model, name="pi.middle"):
    return model.policy.moe_layers()[name]


def observed(model, rows=32):
    return sampled(model.observation_space, rows)


def gates(model, name="pi.middle"):
    return model.policy.routing(observed(model))[name].gates_BNE.flatten(0, 1)


# New ones.


@pytest.mark.parametrize("options", [{}, {"router_kwargs": {"hidden": [5]}}], ids=str)
def test_a_new_expert_takes_at_most_its_share_and_the_others_lose_evenly(options):
    model = moe(**options)
    before = gates(model)
    add_experts(model, 2, share=0.1)
    after = gates(model)
    assert after[:, 4:].max() <= 0.1 + 1e-6
    assert after[:, 4:].min() > 0.01
    th.testing.assert_close(after[:, :4], before * (1 - after[:, 4:].sum(1, keepdim=True)))


def test_a_new_expert_takes_at_most_its_share_where_directions_alone_count():
    model = moe(normalize_router=True, router_kwargs={"hidden": [5]})
    with th.no_grad():
        layer_of(model).scores.scale.fill_(10.0)
    add_experts(model, share=0.1)
    assert gates(model)[:, 4].max() <= 0.1 + 1e-6


def test_the_old_experts_are_the_same_bit_for_bit_and_all_else_the_very_object_that_it_was():
    model = moe("SAC")
    names = [(name, k) for name in ("pi.middle", "qf1.middle") for k in range(4)]
    before = {name: of_expert(model, *name) for name in names}
    own = (model.actor, model.critic.qf0.blocks[0], model.replay_buffer, model.actor.optimizer)
    add_experts(model)
    for name, tensors in before.items():
        found = of_expert(model, *name)
        assert_same({key: found[key] for key in tensors}, tensors)
    now = (model.actor, model.critic.qf0.blocks[0], model.replay_buffer, model.actor.optimizer)
    assert all(one is other for one, other in zip(now, own, strict=True))
    assert model.policy.actor is model.actor


def test_a_new_expert_counts_its_own_steps():
    # By hand: the first step of Adam is the rate, whatever the gradient.
    model = moe("DQN", model={"learning_rate": 0.01}, optimizer_kwargs={"eps": 1e-12})
    add_experts(model)
    optimizer, weight = model.policy.optimizer, layer_of(model, "qf.middle").experts.last.weight
    before = weight.detach().clone()
    model.q_net.set_training_mode(True)
    optimizer.zero_grad()
    model.q_net(th.as_tensor(observed(model))).square().sum().backward()
    optimizer.step()
    moved = (weight.detach() - before)[4]
    th.testing.assert_close(moved, -0.01 * weight.grad[4].sign(), atol=1e-6, rtol=1e-3)
    first = layer_of(model, "qf.middle").experts.shares()[0].tensor
    steps = optimizer.state[first]["step"]
    assert steps.tolist() == [steps.max()] * 4 + [1.0]
    assert steps.max() > 1.0


def test_with_an_optimizer_of_another_class_squares_start_as_large_as_the_others():
    model = moe("A2C", model={"use_rms_prop": True})
    before = model.policy.optimizer.state[layer_of(model).experts.last.weight]["square_avg"]
    add_experts(model)
    state = model.policy.optimizer.state[layer_of(model).experts.last.weight]
    th.testing.assert_close(state["square_avg"][4], before.mean().expand_as(before[0]))
    model.learn(16, reset_num_timesteps=False)


# Copies.


@pytest.mark.parametrize("share", [None, 0.1])
def test_a_copy_takes_a_share_of_its_originals_gates_and_averages(share):
    model = moe()
    old, parts = gates(model), of_expert(model, "pi.middle", 1)
    add_experts(model, like=1, share=share, perturb=0)
    part, new = share or 0.5, gates(model)
    th.testing.assert_close(new[:, 4], part * old[:, 1])
    th.testing.assert_close(new[:, 1], (1 - part) * old[:, 1])
    th.testing.assert_close(new[:, [0, 2, 3]], old[:, [0, 2, 3]])
    for k, size in ((4, part), (1, 1 - part)):
        for key, value in of_expert(model, "pi.middle", k).items():
            power = {"exp_avg": 1, "exp_avg_sq": 2}.get(key.partition("/")[2], 0)
            th.testing.assert_close(value, parts[key] * size**power)


def test_where_one_more_would_be_left_out_a_copy_takes_little_so_that_little_changes():
    model = moe(router="top_k", top_k=4, renormalize=True)
    old = gates(model)
    add_experts(model, like=1, perturb=0)
    # The copy is the one that isn't chosen, nearly always.
    assert (gates(model)[:, :4] - old).abs().max() <= 0.05 + 1e-6


def test_copies_part_because_they_start_apart():
    def distance(perturb):
        model = moe()
        add_experts(model, like=1, perturb=perturb)
        model.learn(16, reset_num_timesteps=False)
        weight = layer_of(model).experts.last.weight
        return (weight[4] - weight[1]).abs().max().item()

    assert distance(0) < 1e-6 < 1e-2 < distance(0.1)


def test_a_frozen_original_stays_as_it_is_and_its_copy_learns():
    model = moe()
    sb3_moe.freeze_experts(model, [1])
    before, frozen = of_expert(model, "pi.middle", 1), loaded(model)
    add_experts(model, like=1)
    assert gap(model, frozen) < 1e-5
    assert model.policy.frozen_experts == {"pi.middle": [1], "vf.middle": [1]}
    model.learn(16, reset_num_timesteps=False)
    found = of_expert(model, "pi.middle", 1)
    assert all(th.equal(found[key], value) for key, value in before.items() if "/" not in key)
    weight = layer_of(model).experts.last.weight
    assert not th.equal(weight[4], weight[1])


def test_targets_go_on_doing_what_they_did():
    model = moe("DQN", placement="all")
    obs = th.as_tensor(observed(model))
    before, online = model.q_net_target(obs), model.q_net(obs)
    add_experts(model, 2, like=0)
    th.testing.assert_close(model.q_net_target(obs), before)
    assert not th.allclose(online, before)
    model.learn(16, reset_num_timesteps=False)


def test_slots_of_pictures_tokens_stay_as_many_and_must_be_alike_in_all_mixtures():
    env = arena.Arena(arena.IMAGE)
    options = {"tokens": "conv", "num_experts": 3, "net_arch": [8]}
    model = arena.make("PPO", "MoeCnnPolicy", env, **options)
    slots, old = layer_of(model).num_slots, loaded(model)
    add_experts(model, 3, like=2)
    assert layer_of(model).num_slots == layer_of(loaded(model)).num_slots == slots
    assert gap(model, old) < 1e-5
    with pytest.raises(ValueError, match="must have the same `num_slots`"):
        add_experts(arena.make("PPO", "MoeCnnPolicy", env, **options, placement="all"))


def test_buffers_that_sb3_copies_to_targets_are_those_of_the_new_experts():
    model = moe("DQN", model={"target_update_interval": 4}, router="top_k", bias_rate=0.1)
    add_experts(model)
    (bias,), own = model.batch_norm_stats, layer_of(model, "qf.middle")
    assert bias.data_ptr() == own.running_bias_E.data_ptr()
    own.running_bias_E[4] = 7.0
    model.learn(16, reset_num_timesteps=False)
    target = networks_of(model.policy).target_of(own)
    assert target.running_bias_E[4] > 6.0


def test_heads_by_task_stay_as_many_as_the_tasks():
    model = moe(placement="middle", head_router="task")
    add_experts(model)
    found = {name: layer.num_experts for name, layer in model.policy.moe_layers().items()}
    assert found == {"pi.middle": 5, "pi.head": 3, "vf.middle": 5, "vf.head": 3}


def test_experts_that_run_one_by_one_are_added_too():
    model = moe(expert=Skipping)
    old = loaded(model)
    add_experts(model, like=0, perturb=0)
    assert gap(model, old) < 1e-5
    add_experts(model)
    remove_experts(model, [0])
    again = loaded(model)
    assert gap(again, model) == 0
    again.learn(16, reset_num_timesteps=False)


# Fewer.


SOFTMAX = {"router": "embedding", "router_kwargs": {"weights": "softmax"}}


@pytest.mark.parametrize("options", [{"router": "top_k"}, {"router": "uniform"}, SOFTMAX], ids=str)
def test_removing_is_switching_off_for_good_and_leaves_the_others_bit_identical(options):
    model = moe(**options)
    obs = model.policy.obs_to_tensor(observed(model))[0]
    with sb3_moe.without_expert(model, "pi", 1), th.no_grad():
        wanted = raw_outputs(model.policy, obs)["pi.0"]
    before = [of_expert(model, "pi.middle", k) for k in (0, 2, 3)]
    remove_experts(model, [1], network="pi")
    with th.no_grad():
        th.testing.assert_close(raw_outputs(model.policy, obs)["pi.0"], wanted)
    for k, tensors in enumerate(before):
        assert_same(of_expert(model, "pi.middle", k), tensors)


@pytest.mark.parametrize("options", [{}, {"router": "random"}], ids=str)
def test_merging_a_copy_with_its_original_is_as_if_it_had_never_been(options):
    model = moe(**options)
    old, before = loaded(model), of_expert(model, "pi.middle", 1)
    add_experts(model, like=1, share=0.3, perturb=0)
    merge_experts(model, [4, 1])
    assert layer_of(model).num_experts == 4
    assert gap(model, old) < 1e-5
    for key, value in of_expert(model, "pi.middle", 1).items():
        th.testing.assert_close(value, before[key], atol=1e-6, rtol=1e-4)


def test_merged_experts_are_averaged_and_their_masses_summed():
    model = moe()
    with th.no_grad():
        layer_of(model).router.weight_RK.zero_()
    add_experts(model, share=0.2)  # gates: 0.2 each
    with th.no_grad():
        layer_of(model).router.bias_K.copy_(th.tensor([0.1, 0.3, 0.2, 0.2, 0.2]).log())
    weight = layer_of(model).experts.last.weight.detach().clone()
    merge_experts(model, [0, 1], network="pi")
    found = layer_of(model).experts.last.weight
    th.testing.assert_close(found[0], (weight[0] + weight[1]) / 2)
    th.testing.assert_close(gates(model)[0], th.tensor([0.4, 0.2, 0.2, 0.2]))


def test_frozen_experts_keep_their_places_when_others_go():
    model = moe()
    sb3_moe.freeze_experts(model, [1, 3], network="pi")
    remove_experts(model, [0])
    assert model.policy.frozen_experts == {"pi.middle": [0, 2]}
    merge_experts(model, [0, 2])
    assert model.policy.frozen_experts == {"pi.middle": [0]}
    merge_experts(model, [0, 1])
    assert model.policy.frozen_experts is None
    assert model.policy_kwargs["frozen_experts"] is None


# What is written down.


def test_changes_are_kept_on_the_model_in_its_files_and_logged(tmp_path):
    model = moe()
    assert not hasattr(model, "expert_log")
    add_experts(model, network="pi", like=np.int64(0))
    remove_experts(model, [2], network="pi")
    steps = model.num_timesteps
    sb3_moe.save(model, tmp_path / "x.moe")
    for each in (model, loaded(model), sb3_moe.load(tmp_path / "x.moe", device="cpu")):
        assert each.expert_log == [
            {"step": steps, "what": "add", "mixtures": ["pi.middle"], "n": 1, "like": 0},
            {"step": steps, "what": "remove", "mixtures": ["pi.middle"], "experts": [2]},
        ]
    assert model.logger.name_to_value["experts/number/pi.middle"] == 4


def test_options_say_how_many_experts_each_network_has():
    model = moe()
    add_experts(model, network="vf")
    assert model.policy_kwargs["num_experts"] == {"pi": None, "vf": 5}
    assert model.policy_kwargs["router_kwargs"] == {"pi": None, "vf": {"bias": True}}
    assert model.policy_kwargs["num_slots"] == {"pi": None, "vf": 1}
    add_experts(model, network="pi")
    assert model.policy_kwargs["num_experts"] == {"pi": 5, "vf": 5}


# What is refused.


REFUSED = {
    "n": ({}, lambda m: add_experts(m, 0), ValueError, "`n` must be at least 1, got 0"),
    "like": (
        {}, lambda m: add_experts(m, like=4), ValueError,
        r"`like` must be in \[0, num_experts=4\) of pi.middle, got 4",
    ),
    "a number": ({}, lambda m: remove_experts(m, 1), TypeError, "`experts` must be a list.*got 1"),
    "the last": (
        {"num_experts": 2}, lambda m: remove_experts(m, [0, 1]), ValueError,
        r"some of pi.middle, not all, got \[0, 1\]",
    ),
    "twice": ({}, lambda m: merge_experts(m, [1, 1]), ValueError, "must name each expert once"),
    "share": ({}, lambda m: add_experts(m, 2, share=0.5), ValueError, r"\(0, 1/n\), n=2, got 0.5"),
    "one": ({}, lambda m: merge_experts(m, [2]), ValueError, r"at least 2 to be merged, got \[2\]"),
    "top_k": (
        {"router": "top_k", "top_k": 3}, lambda m: remove_experts(m, [0, 1]), ValueError,
        r"`top_k` must be in \[1, num_experts=2\], got 3",
    ),
    "network": (
        {}, lambda m: add_experts(m, network="pi.middle"), ValueError,
        r"`network` must be one of \['pi', 'vf'\], got 'pi.middle'",
    ),
    "task": ({"router": "task"}, add_experts, ValueError, "exactly one expert for each task in"),
    "dense": ({"placement": "none"}, add_experts, ValueError, "the policy has no mixture"),
    "own": ({"router": Tempered}, add_experts, ValueError, "`axes` of `router`='tempered'"),
    "uniform": (
        {"router": "uniform"}, add_experts, ValueError, "`router`='uniform' can't share out its",
    ),
    "orthogonal": (
        {"router": "embedding", "combine": "orthogonal"}, lambda m: add_experts(m, like=0),
        ValueError, "`like` needs `combine`='sum', got gram_schmidt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_use_says_what_and_leaves_the_model_as_it_was(name):
    options, act, error, text = REFUSED[name]
    model = moe(**options)
    before = all_of(model)
    with pytest.raises(error, match=text):
        act(model)
    assert_unchanged(model, before)


def test_copies_of_ones_own_experts_start_apart_too():
    model = moe(expert=Skipping)
    add_experts(model, like=0)
    (layer, *_) = model.policy.moe_layers().values()
    first, copied = (layer.experts.expert(k).state_dict() for k in (0, layer.num_experts - 1))
    assert any((first[name] != copied[name]).any() for name in first)


# Beside other parts.


@pytest.mark.parametrize("kwargs", [{}, {"weights": "softmax", "bias": True}], ids=str)
def test_rows_by_task_are_shared_out_too(kwargs):
    model = moe(router="embedding", router_kwargs={"shared": True, **kwargs}, placement="all")
    old, before = loaded(model), gates(model, "pi.all.0")
    add_experts(model, like=1, share=0.25)
    assert gap(model, old) < 1e-5
    th.testing.assert_close(gates(model, "pi.all.0")[:, 4], 0.25 * before[:, 1])
    add_experts(model, share=0.1)
    total = before.sum(1)
    th.testing.assert_close(gates(model, "pi.head")[:, 5], 0.1 * total)
    th.testing.assert_close(gates(model, "pi.head").sum(1), total)
    assert gap(loaded(model), model) == 0
    model.learn(16, reset_num_timesteps=False)


def test_a_router_that_is_held_stays_held_and_a_penalty_goes_on():
    model = moe(spectral_coef=0.1)
    layer_of(model).router.requires_grad_(False)
    add_experts(model, like=0)
    before = {name: p.detach().clone() for name, p in layer_of(model).router.named_parameters()}
    model.learn(16, reset_num_timesteps=False)
    for name, parameter in layer_of(model).router.named_parameters():
        assert th.equal(parameter, before[name])
    assert arena.penalized(model) == ["pi.middle"]
    assert len(layer_of(model)._forward_hooks) == 1  # none of those it was built with
