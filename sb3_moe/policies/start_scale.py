"""Experts that start as strong as the dense layers they stand for.

A sum of E independent experts, weighed by gates that sum to 1, starts 1/sqrt(E) as strong as one of
them, a single one under its gate 1/E, and an expert has a layer that the dense network hasn't. What
a router and an expert make of their input is their own: so sizes are measured, not derived.

Shapes: B rows, F features, A action dimensions, N tokens, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch as th
from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.policies.moe_network import Layout, MoENetwork

# Behind several sharp routers few rows make up most of the size, so there must be many; fewer where
# they are wide, or many experts run on each, for time and memory.
PROBE_ROWS = 2**14
FEWEST_ROWS = 64
PROBE_VALUES = 2**20
EXPERT_ROWS = 2**18
# The dense network is drawn until so many units of its narrowest layer have been seen, within
# limits; its head is given more outputs, since one says little about the size of others. It has no
# sharp routers.
DENSE_ROWS = 512
UNITS = 4096
DRAWS = (4, 64)
HEAD_WIDTH = 128
# Sizes that differ by more than rounding.
TOLERANCE = 0.01
TINY = 1e-12
# Steps towards the factor behind an activation, and how far it may lie from the one without it.
ROUNDS = 20
WIDEST = 64.0


class Probe(NamedTuple):
    """Standard-normal rows, with a task id and an action where networks see these.

    :param features_BF: ``[x | one-hot]``
    :param actions_BA: None where nothing judges actions
    """

    features_BF: th.Tensor
    actions_BA: th.Tensor | None


class Size(NamedTuple):
    """Root mean squares of one layer's input and output."""

    before: float
    after: float


class Goal(NamedTuple):
    """What the output of a layer of experts should be.

    :param size: its root mean square
    :param measured: what it goes through before it is measured
    """

    size: float
    measured: Sequence[nn.Module] = ()


class ReplacedLayer(NamedTuple):
    """What a layer of experts takes the place of in the dense network.

    :param number: of the linear layer, from 0
    :param inside: the experts hold its activation too
    :param then: what follows the sum over experts, up to the next layer
    """

    number: int
    inside: bool = False
    then: Sequence[nn.Module] = ()

    def goal(self, dense: Sequence[Size]) -> Goal:
        """Return what the next layer would get from the dense network.

        Behind a sum the activation counts: a few rows with sharp gates may make up most of the
        size, and tanh keeps less of them. A norm, and what follows heads, makes sizes of its own.

        :param dense: sizes of its linear layers
        """
        if self.inside:
            return Goal(dense[self.number + 1].before)
        if self.then and not any(map(is_norm, self.then)):
            return Goal(dense[self.number + 1].before, self.then)
        return Goal(dense[self.number].after)


_unscaled = ContextVar("unscaled", default=False)


@contextmanager
def unscaled() -> Iterator[None]:
    """Leave experts as they are drawn: their weights are about to be overwritten."""
    token = _unscaled.set(True)
    try:
        yield
    finally:
        _unscaled.reset(token)


def is_scaled() -> bool:
    """Say whether experts that are built here start as strong as dense layers, where asked to."""
    return not _unscaled.get()


@contextmanager
def own_generator() -> Iterator[None]:
    """Draw from a generator of our own: what is drawn outside stays what it is."""
    with th.random.fork_rng(devices=[]):
        th.default_generator.manual_seed(0)
        yield


def make_probe(layout: Layout, runs: int) -> Probe:
    """Return rows of every task alike.

    :param layout: what a network's input holds
    :param runs: how many experts run on a row
    """
    most = min(PROBE_ROWS, PROBE_VALUES // max(layout.x_dim, 1), EXPERT_ROWS // runs)
    rows = max(FEWEST_ROWS, most)
    x = th.randn(rows, layout.x_dim)
    actions = th.randn(rows, layout.action_dim) if layout.action_dim else None
    if layout.num_tasks:
        tasks = th.arange(rows) % layout.num_tasks
        x = th.cat([x, nn.functional.one_hot(tasks, layout.num_tasks).to(x.dtype)], dim=1)
    return Probe(x, actions)


def dense_sizes(network: MoENetwork, restart: Callable[[], None], probe: Probe) -> list[Size]:
    """Return the size of every linear layer's input and output in a dense network.

    :param network: the dense one
    :param restart: draws its weights anew
    :param probe: its input
    """
    features, actions = probe
    probe = Probe(features[:DENSE_ROWS], None if actions is None else actions[:DENSE_ROWS])
    fewest, most = DRAWS
    narrowest = min(linear.out_features for linear in _linears(network))
    squares = []
    for _ in range(min(most, max(fewest, UNITS // narrowest))):
        restart()
        squares.append(_linear_squares(network, probe))
    return [Size(*pair) for pair in th.tensor(squares).mean(0).sqrt().tolist()]


def _linears(network: MoENetwork) -> list[nn.Linear]:
    return [block for block in network.blocks if isinstance(block, nn.Linear)]


def _linear_squares(network: MoENetwork, probe: Probe) -> list[tuple[float, float]]:
    squares: list[tuple[float, float]] = []

    def keep(module: nn.Module, args: tuple[th.Tensor, ...], output: th.Tensor) -> None:
        squares.append((_mean_square(args[0]), _mean_square(output)))

    _run([network], probe, keep, _linears(network))
    return squares


def match_sizes(parts: Sequence[nn.Module], goals: Mapping[MoELayer, Goal], probe: Probe) -> None:
    """Scale experts so that each layer's output has the size that is wanted.

    :param parts: modules that stand one behind the other, the first being a network's
    :param goals: what the output of each layer in them should be
    :param probe: input of the first
    :raises ValueError: if a layer's output doesn't follow its experts' last weights
    """

    def scale(layer: MoELayer, args: Any, output: tuple[th.Tensor, Any]) -> tuple[th.Tensor, Any]:
        y_BNO, routing = output
        factor = output_factor(y_BNO, goals[layer])
        layer.experts.scale_each([factor] * layer.num_experts)
        y_BNO = y_BNO * factor
        _check_scaled(layer, args, y_BNO)
        return y_BNO, routing

    _run(parts, probe, scale, list(goals))


def output_factor(y_BNO: th.Tensor, goal: Goal) -> float:
    """Return by what an output is to be multiplied, so that it has the size that is wanted."""
    factor = first = goal.size / max(_size(y_BNO), TINY)
    # Behind an activation, which keeps less of what is large, it takes more rounds.
    for _ in range(ROUNDS if goal.measured else 0):
        y = y_BNO * factor
        for module in goal.measured:
            y = module(y)
        factor *= goal.size / max(_size(y), TINY)
    # An activation of another kind may never reach the size.
    return factor if first / WIDEST < factor < first * WIDEST else first


def _check_scaled(layer: MoELayer, args: tuple[th.Tensor, th.Tensor], y_BNO: th.Tensor) -> None:
    """Raise unless a layer now returns what it should, or if that is nothing."""
    # Not the module itself, which would call its hooks again.
    again_BNO, _ = layer.forward(*(x[:FEWEST_ROWS] for x in args))
    got, wanted = _size(again_BNO), _size(y_BNO[:FEWEST_ROWS])
    if not abs(got - wanted) <= TOLERANCE * wanted or not wanted:
        raise ValueError(
            "`match_scale`=True needs experts whose output grows with the weights of their last "
            "nn.Linear, or that have a method `scale_outputs(factor)`, a router that keeps their "
            f"sizes, and `combine`='sum'; with `router`={layer.name!r} the scaled output has the "
            f"size {got:.3g} "
            f"where it should have {wanted:.3g}"
        )


@th.no_grad()
def _run(parts: Sequence[nn.Module], probe: Probe, hook: Any, hooked: Sequence[nn.Module]) -> None:
    """Run modules one behind the other, with a hook on some modules' forward."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(evaluating(part))
        for module in hooked:
            stack.callback(module.register_forward_hook(hook).remove)
        first, *rest = parts
        y = first(probe.features_BF, *([] if probe.actions_BA is None else [probe.actions_BA]))
        for part in rest:
            y = part(y)


def _mean_square(x: th.Tensor) -> float:
    return x.square().mean().item()


def _size(x: th.Tensor) -> float:
    return _mean_square(x) ** 0.5
