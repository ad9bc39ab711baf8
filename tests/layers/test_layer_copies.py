"""Layers copy, pickle, load, and keep nothing between passes."""

import copy
import pickle

import pytest
import torch as th

from sb3_moe.layers import (
    ExpertChoiceMoE,
    LinearRouter,
    SoftMoE,
    SparseMoE,
    TaskMoE,
    UniformMoE,
    mlp_experts,
)


def experts():
    return mlp_experts(3, 5, 7, 2)


LAYERS = {
    "soft": lambda: SoftMoE(experts(), LinearRouter(5, 6, normalize=True), num_slots=2),
    "top_k": lambda: SparseMoE(experts(), LinearRouter(5, 3), top_k=2, bias_rate=0.1),
    "expert_choice": lambda: ExpertChoiceMoE(experts(), LinearRouter(5, 3)),
    "random": lambda: SoftMoE(experts(), LinearRouter(5, 3, frozen=True)),
    "task": lambda: TaskMoE(experts()),
    "uniform": lambda: UniformMoE(experts()),
}


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


def run(layer):
    x = th.linspace(-2, 2, 40).view(2, 4, 5)
    seen = th.eye(3)[[0, 1, 2, 0]].expand(2, 4, 3) if isinstance(layer, TaskMoE) else None
    return layer(x, seen)


def test_a_deep_copy_computes_the_same_and_shares_nothing(make):
    layer = make()
    twin = copy.deepcopy(layer)
    th.testing.assert_close(run(twin)[0], run(layer)[0], rtol=0, atol=0)
    with th.no_grad():
        twin.experts.last.weight.zero_()
    assert layer.experts.last.weight.abs().sum() > 0


def test_a_pickled_layer_computes_the_same(make):
    layer = make()
    twin = pickle.loads(pickle.dumps(layer))
    th.testing.assert_close(run(twin)[0], run(layer)[0], rtol=0, atol=0)


def test_a_state_dict_carries_everything_that_is_learned_or_counted(make):
    layer, twin = make(), make()
    run(layer)
    layer.eval()
    twin.load_state_dict(layer.state_dict())
    twin.eval()
    th.testing.assert_close(run(twin)[0], run(layer)[0], rtol=0, atol=0)
    assert set(layer.state_dict()) == {
        name for name, _ in [*layer.named_parameters(), *layer.named_buffers()]
    }


def test_gates_and_load_have_the_promised_shapes(make):
    layer = make()
    y, routing = run(layer)
    assert y.shape == (2, 4, 2)
    assert routing.gates_BNE.shape == (2, 4, 3)
    assert routing.load_E.shape == (3,)
    assert routing.load_E.sum().item() == pytest.approx(1.0)
    assert layer.num_experts == 3


def test_a_pass_leaves_nothing_on_the_layer(make):
    layer = make()
    before = set(vars(layer)), {name for name, _ in layer.named_buffers()}
    run(layer)
    assert (set(vars(layer)), {name for name, _ in layer.named_buffers()}) == before


def test_nan_inputs_come_out_as_nan(make):
    layer = make().eval()
    seen = th.eye(3)[:1].unsqueeze(0) if isinstance(layer, TaskMoE) else None
    assert layer(th.full((1, 1, 5), float("nan")), seen)[0].isnan().all()
