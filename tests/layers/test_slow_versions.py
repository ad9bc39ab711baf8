"""Every router with every kind of expert against the slow version, values and gradients."""

import copy
import math
import pickle

import pytest
import reference
import torch as th
from own_parts import Skipping
from torch import nn

from sb3_moe.layers import (
    LinearExpert,
    MLPExpert,
    RouterInput,
    SeparateNetworks,
    SimbaExpert,
    SoftMoE,
    StackedNetwork,
    experts,
)
from sb3_moe.layers.orthonormal import check_orthogonal, gram_schmidt
from sb3_moe.layers.registry import ROUTERS

IN, OUT, TASKS = 5, 6, 3
# A router, its options, and tokens per sample.
CASES = [
    ("soft", {}, 1),
    ("soft", {"num_slots": 2, "hidden": [4, 3]}, 1),
    ("soft", {"normalize_router": True, "bias": True}, 4),
    ("soft", {"num_slots": 1}, 2),
    ("random", {"normalize_router": True}, 4),
    ("random", {"hidden": [4]}, 1),
    ("top_k", {"normalize_router": True}, 1),
    ("top_k", {"top_k": 2, "hidden": [4]}, 2),
    ("top_k", {"top_k": 2, "renormalize": True, "bias": True}, 1),
    ("top_k", {"bias_rate": 0.1}, 1),
    ("expert_choice", {}, 6),
    ("expert_choice", {"top_k": 2, "bias": True}, 4),
    ("task", {}, 1),
    ("task", {}, 2),
    ("embedding", {"bias": True}, 1),
    ("embedding", {"weights": "softmax"}, 2),
    ("uniform", {}, 2),
    ("belief", {}, 1),
    ("belief", {"top_k": 2, "temperature": 2.0}, 2),
]
KINDS = {"mlp": MLPExpert, "linear": LinearExpert, "simba": SimbaExpert, "own": Skipping}
every_case = pytest.mark.parametrize(
    ("router", "options", "num_tokens"), CASES, ids=[f"{r}-{o}-{n}" for r, o, n in CASES]
)


def experts_of(kind="mlp", num_experts=3):
    made = [KINDS[kind](IN, 7, OUT, nn.Tanh()) for _ in range(num_experts)]
    return SeparateNetworks(made, OUT) if kind == "own" else StackedNetwork(made)


def make(router, options, num_tokens, kind="mlp", num_experts=3):
    """Return a layer with random weights in double precision, and what it may be given."""
    th.manual_seed(0)
    cls = ROUTERS.find(router)
    features = {"task": TASKS, "belief": num_experts}.get(cls.sees, IN)
    sees = RouterInput(
        features=features, num_experts=num_experts, num_tokens=num_tokens, num_tasks=TASKS
    )
    layer = cls(experts_of(kind, num_experts), sees, **options).double()
    for tensor in [*layer.parameters(), *layer.buffers()]:
        nn.init.normal_(tensor, std=0.7)
    x = th.randn(4, num_tokens, IN, dtype=th.float64)
    onehot = th.eye(TASKS, dtype=th.float64)[th.tensor([0, 2, 2, 0])].unsqueeze(1)
    belief = th.randn(4, 1, num_experts, dtype=th.float64).softmax(-1)
    seen = {"task": onehot, "belief": belief}.get(cls.sees, x.clone()).expand(-1, num_tokens, -1)
    # Where a sample is one token there is no axis for tokens.
    return (layer, x, seen) if num_tokens > 1 else (layer, x.squeeze(1), seen.squeeze(1))


@pytest.mark.covering
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_a_layer_is_the_slow_version(router, options, num_tokens, kind):
    reference.assert_same(*make(router, options, num_tokens, kind))


@pytest.mark.covering
@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_so_it_is_on_sorted_rows(monkeypatch, router, options, num_tokens, kind):
    monkeypatch.setattr(experts, "WIDE_UP_TO", {"cpu": -math.inf})
    layer, *given = make(router, options, num_tokens, kind)
    sorted_rows, calls = layer.experts._on_sorted_rows, []
    layer.experts._on_sorted_rows = lambda *args: calls.append(1) or sorted_rows(*args)
    reference.assert_same(layer, *given)
    assert bool(calls) == (layer.leaves_out and getattr(layer, "top_k", 1) is not None)


@pytest.mark.parametrize("num_experts", [1, 4])
@pytest.mark.parametrize(
    ("router", "options", "num_tokens"), [CASES[i] for i in (0, 2, 5, 6, 9, 11, 14, 16, 17)]
)
def test_so_it_is_with_other_numbers_of_experts(router, options, num_tokens, num_experts):
    if num_experts == 1:
        options = {name: value for name, value in options.items() if name != "top_k"}
    reference.assert_same(*make(router, options, num_tokens, num_experts=num_experts))


@pytest.mark.parametrize(("router", "options"), [each[:2] for each in CASES if each[2] == 1])
def test_so_it_is_with_orthonormal_outputs(router, options):
    layer, x, seen = make(router, options, 1)
    layer.experts.combination = gram_schmidt
    reference.assert_same(layer, x, seen)


def test_the_router_may_see_other_features_than_the_experts():
    for router, options, tokens in (CASES[2], CASES[7], CASES[11]):
        layer, x, _ = make(router, options, tokens)
        sees = RouterInput(features=8, num_experts=3, num_tokens=tokens)
        layer = ROUTERS.find(router)(layer.experts, sees, **options).double()
        reference.assert_same(layer, x, th.randn(*x.shape[:-1], 8, dtype=th.float64))


@every_case
def test_copies_compute_the_same_and_a_pass_leaves_nothing_behind(router, options, num_tokens):
    layer, *given = make(router, options, num_tokens)
    before = set(vars(layer)), list(layer.state_dict())
    loaded = make(router, options, num_tokens)[0]
    loaded.load_state_dict(layer.state_dict())
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded
    y, routing = layer(*given)
    assert (set(vars(layer)), list(layer.state_dict())) == before
    for twin in twins:
        th.testing.assert_close(twin(*given)[0], y)
        assert not {p.data_ptr() for p in twin.parameters()} & {
            p.data_ptr() for p in layer.parameters()
        }
    assert y.shape == (*given[0].shape[:-1], OUT)
    assert routing.gates_BNE.shape == (4, num_tokens, 3)
    th.testing.assert_close(routing.load_E.sum().item(), 1.0)
    assert layer(*(each[:0] for each in given))[0].shape == (0, *y.shape[1:])
    assert layer(given[0] * float("nan"), given[1])[0].isnan().all()


def test_statistics_of_slots_are_those_of_the_whole_batch():
    """A normalization in an expert has to see all rows at once."""
    norm = nn.Sequential(nn.Linear(IN, 7), nn.BatchNorm1d(7), nn.Linear(7, OUT))
    network = StackedNetwork([copy.deepcopy(norm) for _ in range(2)])
    layer = SoftMoE(network, RouterInput(features=IN, num_experts=2, num_tokens=6))
    calls = []
    network.layers[0].register_forward_hook(lambda *args: calls.append(args[1][0].shape))
    layer(th.randn(8, 6, IN))
    assert calls == [(2, 8 * 3, IN)]


def test_simba_has_as_many_blocks_as_asked_for():
    inside = SimbaExpert(5, 4, 2, nn.ReLU(), num_blocks=2).modules()
    assert [m.out_features for m in inside if isinstance(m, nn.Linear)] == [4, 16, 4, 16, 4, 2]


# Orthonormal outputs.


def test_gram_schmidt_by_hand():
    # (3, 4) becomes (.6, .8); of (0, 5) that leaves (0, 5) - 4 (.6, .8) = (-2.4, 1.8).
    found = gram_schmidt(th.tensor([[[3.0, 4.0]], [[0.0, 5.0]]]))
    th.testing.assert_close(found, th.tensor([[[0.6, 0.8]], [[-0.8, 0.6]]]))


def test_outputs_of_halves_are_as_orthonormal_as_single_precision_can_say():
    y = gram_schmidt(th.randn(8, 50, 32).bfloat16())
    products = th.einsum("eto,fto->tef", y, y)
    th.testing.assert_close(products, th.eye(8).expand_as(products), atol=1e-5, rtol=0)


def test_what_is_nothing_but_others_stays_finite_and_so_does_its_gradient():
    for y in (th.ones(3, 4, 5), th.zeros(2, 1, 3)):
        y.requires_grad_()
        found = gram_schmidt(y)
        (gradient,) = th.autograd.grad(found.sum(), y)
        assert found.isfinite().all()
        assert gradient.isfinite().all()


def test_gram_schmidt_can_be_differentiated_twice():
    y = th.randn(3, 2, 5, dtype=th.float64, requires_grad=True)
    assert th.autograd.gradgradcheck(gram_schmidt, y)


def test_more_experts_than_directions_are_refused():
    check_orthogonal(8, 8)
    with pytest.raises(ValueError, match="at least as many outputs as there are experts, 9, got 8"):
        check_orthogonal(9, 8)


# Second derivatives, which TRPO needs.


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_on_sorted_rows_are_those_of_all_experts(monkeypatch, kind):
    layer, x, seen = make("top_k", {"top_k": 2}, 1, kind)
    layer, x, seen = layer.float(), x.float(), seen.float()

    def hessian_vector_product():
        parameters = list(layer.parameters())
        loss = layer(x, seen)[0].pow(3).sum()
        first = th.autograd.grad(loss, parameters, create_graph=True)
        along = sum((each * each.detach().cos()).sum() for each in first)
        return th.autograd.grad(along, parameters)

    wide = hessian_vector_product()
    monkeypatch.setattr(experts, "WIDE_UP_TO", {"cpu": -math.inf})
    th.testing.assert_close(hessian_vector_product(), wide, rtol=1e-3, atol=1e-3)
    # And one expert after the other, where torch has no `grouped_mm`.
    monkeypatch.setattr(type(layer.experts), "_groups", lambda *_: False)
    th.testing.assert_close(hessian_vector_product(), wide, rtol=1e-3, atol=1e-3)
