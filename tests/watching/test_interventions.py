"""An expert that is off is an expert that isn't there."""

import copy
import pickle
from contextlib import suppress

import arena
import pytest
import torch as th
from stable_baselines3 import PPO
from torch import nn

import sb3_moe
from sb3_moe.layers import (
    ExpertChoiceMoE,
    RouterInput,
    SoftMoE,
    SparseMoE,
    TaskMoE,
    UniformMoE,
    mlp_experts,
)

E = 4


def sees(num_experts):
    return RouterInput(features=5, num_experts=num_experts, num_tokens=6, num_tasks=num_experts)


def soft(num_experts, slots=1):
    return SoftMoE(mlp_experts(num_experts, 5, 7, 3), sees(num_experts), num_slots=slots)


def top_k(num_experts, **options):
    return SparseMoE(mlp_experts(num_experts, 5, 7, 3), sees(num_experts), **options)


def uniform(num_experts):
    return UniformMoE(mlp_experts(num_experts, 5, 7, 3), sees(num_experts))


def without(layer, k):
    layer.edit_gates = lambda gates: gates.index_fill(-1, th.tensor([k]), 0.0)


WITH_SCORES = {
    "soft": (soft, {}),
    "soft-slots": (soft, {"slots": 3}),
    "top1": (top_k, {"top_k": 1}),
    "top2-renormalized": (top_k, {"top_k": 2, "renormalize": True}),
    "top2-bias": (top_k, {"top_k": 2, "bias_rate": 0.1}),
    "uniform": (uniform, {}),
}


def built(kind):
    th.manual_seed(0)
    make, options = WITH_SCORES[kind]
    layer = make(E, **options).double().eval()
    if "running_bias_E" in layer.state_dict():
        layer.running_bias_E.copy_(th.tensor([0.3, -0.2, 0.5, 0.0]))
    return layer


def lacking(kind, layer, k):
    """Build the layer anew without expert k, with the other experts' weights."""
    make, options = WITH_SCORES[kind]
    smaller = make(E - 1, **options).double().eval()
    keep = [i for i in range(E) if i != k]
    state = {}
    for name, tensor in layer.state_dict().items():
        if name == "router.weight_RK":
            state[name] = tensor.unflatten(1, (E, -1))[:, keep].flatten(1)
        else:
            state[name] = tensor[keep]
    smaller.load_state_dict(state)
    return smaller


@pytest.mark.parametrize("kind", WITH_SCORES)
def test_a_layer_without_an_expert_equals_one_that_never_had_it(kind):
    k, layer, x = 2, built(kind), th.randn(9, 6, 5, dtype=th.float64)
    expected, others = lacking(kind, layer, k)(x)
    without(layer, k)
    got, routing = layer(x)
    th.testing.assert_close(got, expected)
    gates_BNE = routing.gates_BNE
    assert (gates_BNE[..., k] == 0).all()
    keep = [i for i in range(E) if i != k]
    th.testing.assert_close(gates_BNE[..., keep], others.gates_BNE)


def tasks_of(x):
    return nn.functional.one_hot(th.arange(len(x)) % E, E).double().unsqueeze(1)


def test_the_task_routers_expert_that_is_off_gives_zero_and_the_others_what_they_gave():
    layer = TaskMoE(mlp_experts(E, 5, 7, 3), sees(E)).double()
    x = th.randn(8, 1, 5, dtype=th.float64)
    before, _ = layer(x, tasks_of(x))
    without(layer, 1)
    after, routing = layer(x, tasks_of(x))
    off = th.arange(8) % E == 1
    assert (after[off] == 0).all()
    th.testing.assert_close(after[~off], before[~off])
    assert routing.gates_BNE[off].sum() == 0


def test_expert_choice_without_an_expert_lacks_its_output_alone():
    th.manual_seed(0)
    layer = ExpertChoiceMoE(mlp_experts(E, 5, 7, 3), sees(E), top_k=2).double()
    x = th.randn(3, 6, 5, dtype=th.float64)
    whole, routing = layer(x)
    alone = layer.experts.expert(2)(x) * routing.gates_BNE[..., 2:3]
    without(layer, 2)
    got, _ = layer(x)
    th.testing.assert_close(got, whole - alone)


@pytest.mark.parametrize("kind", ["soft-slots", "top2-bias", "uniform"])
def test_experts_that_change_places_are_those_of_a_layer_with_their_weights_changed_over(kind):
    layer, x = built(kind), th.randn(9, 3, 5, dtype=th.float64)
    order = [2, 1, 0, 3]
    other = copy.deepcopy(layer)
    other.experts.load_state_dict(
        {name: tensor[order] for name, tensor in layer.experts.state_dict().items()}
    )
    layer.edit_gates = lambda gates: gates[..., order]
    got, _ = layer(x)
    th.testing.assert_close(got, other(x)[0])


@pytest.fixture(scope="module")
def model():
    """A model that learns nothing; tests leave it as it is."""
    return model_of()


def model_of(**kwargs):
    options = {"net_arch": [6], "num_experts": E, **kwargs}
    return PPO("MoeMlpPolicy", arena.Arena(arena.FLAT), seed=0, policy_kwargs=options, n_steps=64)


OBS = arena.FLAT.sample()


def gates(model, name):
    return model.policy.routing(OBS)[name].gates_BNE.flatten()


def test_an_expert_is_off_within_the_block_and_back_after_it(model):
    before, state = gates(model, "pi.middle"), pickle.dumps(model.policy.state_dict())
    with suppress(KeyError), sb3_moe.without_expert(model, "pi", 2):
        assert gates(model, "pi.middle")[2] == 0
        assert gates(model, "vf.middle")[2] > 0
        with sb3_moe.without_expert(model.policy, "pi", 0):
            assert (gates(model, "pi.middle") == 0).tolist() == [True, False, True, False]
        assert (gates(model, "pi.middle") == 0).tolist() == [False, False, True, False]
        raise KeyError("whatever happens within")
    th.testing.assert_close(gates(model, "pi.middle"), before, rtol=0, atol=0)
    assert pickle.dumps(model.policy.state_dict()) == state


def test_one_expert_alone_and_swapped_experts_have_their_gates(model):
    with sb3_moe.only_expert(model, "pi.middle", 3):
        assert gates(model, "pi.middle").tolist() == [0, 0, 0, 1]
    before = gates(model, "vf.middle")
    with sb3_moe.swap_experts(model, "vf", 0, 3):
        th.testing.assert_close(gates(model, "vf.middle"), before[[3, 1, 2, 0]])


def test_a_network_of_several_mixtures_is_changed_in_each_or_in_one():
    model = model_of(placement="all", net_arch=[6, 6])
    with sb3_moe.without_expert(model, "pi", 1):
        assert [gates(model, f"pi.{name}")[1].item() for name in ("all.0", "all.1", "head")] == [
            0,
            0,
            0,
        ]
    with sb3_moe.without_expert(model, "pi", 1, layer=-1):
        assert gates(model, "pi.all.0")[1] > 0
        assert gates(model, "pi.head")[1] == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("q", 0), ValueError, r"must be one of \['pi', 'vf'\], which have experts, got 'q'"),
        (("pi", 4), ValueError, r"`expert` must be in \[0, num_experts=4\) of pi.middle, got 4"),
        (("pi", -1), ValueError, r"`expert` must be in \[0, num_experts=4\) of pi.middle, got -1"),
        (("pi", 0, 1), ValueError, r"`layer` must be in \[-1, 1\), got 1"),
        (("pi", "1"), ValueError, r"`expert` must be in \[0, num_experts=4\) of pi.middle, got 1"),
    ],
)
def test_a_wrong_network_expert_or_layer_is_named(model, arguments, error, message):
    with pytest.raises(error, match=message), sb3_moe.without_expert(model, *arguments):
        pass


def test_the_last_expert_stays(model):
    with (
        pytest.raises(ValueError, match=r"one of the 4 experts of pi\.middle must stay on"),
        sb3_moe.only_expert(model, "pi", 0),
        sb3_moe.without_expert(model, "pi", 0),
    ):
        pass
