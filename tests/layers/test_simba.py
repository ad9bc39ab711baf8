"""SimBa's blocks as an expert, against the slow version."""

import pytest
import reference
import torch as th
from torch import nn

from sb3_moe.layers import SimbaExpert, StackedNetwork, UniformMoE
from sb3_moe.layers.stacked import StackedEach, StackedLinear


def experts_of(num_blocks, num_experts=3):
    th.manual_seed(0)
    made = [
        SimbaExpert(5, 4, 2, nn.ReLU(), num_blocks=num_blocks).double() for _ in range(num_experts)
    ]
    for expert in made:
        for norm in expert.modules():
            if isinstance(norm, nn.LayerNorm):
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
    return made


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_an_expert_is_the_slow_version(num_blocks):
    expert = experts_of(num_blocks)[0]
    x = th.randn(6, 5, dtype=th.float64)
    slow = th.stack([reference.simba(list(expert), row) for row in x])
    th.testing.assert_close(expert(x), slow)
    inside = [m for m in expert.modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in inside] == [4, *[16, 4] * num_blocks, 2]


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_stacked_experts_are_the_slow_version_values_and_gradients(num_blocks):
    made = experts_of(num_blocks)
    layer = UniformMoE(StackedNetwork(made))
    x = th.randn(6, 1, 5, dtype=th.float64)
    fast = layer(x)[0]
    slow = th.stack(
        [sum(reference.simba(list(expert), row) for expert in made) / 3 for row in x.squeeze(1)]
    )
    th.testing.assert_close(fast.squeeze(1), slow)
    theirs = reference.gradients(slow, [p for expert in made for p in expert.parameters()])
    names = [name for name, _ in made[0].named_parameters()]
    fast.backward(reference_direction(fast))
    by_name = dict(zip(((k, n) for k in range(3) for n in names), theirs, strict=True))
    linears = [name for name, m in made[0].named_modules() if isinstance(m, nn.Linear)]
    norms = [name for name, m in made[0].named_modules() if isinstance(m, nn.LayerNorm)]
    ours = [m for m in layer.modules() if isinstance(m, StackedLinear)]
    each = [m for m in layer.modules() if isinstance(m, StackedEach)]
    for k in range(3):
        for name, stacked in zip(linears, ours, strict=True):
            weight = stacked.weight.grad[k]
            wanted = by_name[k, f"{name}.weight"]
            th.testing.assert_close(weight.T if stacked.last else weight, wanted)
        for name, stacked in zip(norms, each, strict=True):
            th.testing.assert_close(stacked.each[k].weight.grad, by_name[k, f"{name}.weight"])


def reference_direction(y):
    """The direction of `reference.gradients`, for rows of one token."""
    generator = th.Generator().manual_seed(0)
    return th.randn(y.squeeze(1).shape, generator=generator, dtype=y.dtype).unsqueeze(1)


def test_an_expert_comes_out_of_the_stack_as_it_went_in():
    made = experts_of(1)
    x = th.randn(4, 5, dtype=th.float64)
    network = StackedNetwork(made)
    for k, expert in enumerate(made):
        th.testing.assert_close(network.expert(k)(x), expert(x))
    th.testing.assert_close(network.every(x), th.stack([expert(x) for expert in made]))


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_blocks_that_is_none_is_named(value, error):
    with pytest.raises(error, match="`num_blocks` must be"):
        SimbaExpert(5, 4, 2, nn.ReLU(), num_blocks=value)
