"""Scale experts so that they start as strong as the dense layers they stand for.

A sum of E independent experts, weighed by equal gates that sum to 1, starts 1/sqrt(E) as strong as
one of them, and a single expert under such a gate 1/E. An expert also has one layer more than the
dense network. Routers and experts can be of any kind, so sizes are measured, not derived.

Shapes: B rows, F features, A action dimensions, N tokens, I features of a token, O outputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.policies.moe_network import Layout

# Number of random rows on which sizes are measured. Behind several sharp routers, few rows make up
# most of the size, so there must be many. There are fewer if rows are wide or many experts run on
# each, to save time and memory.
PROBE_ROWS = 2**14
FEWEST_ROWS = 64
PROBE_VALUES = 2**20
EXPERT_ROWS = 2**18
# Rows for dense layers, which have no routers.
DENSE_ROWS = 512
# Relative difference of sizes that is not mere rounding.
TOLERANCE = 0.01
TINY = 1e-12


@contextmanager
def own_generator() -> Iterator[None]:
    """Draw from a generator of our own in the block, so that draws outside stay the same."""
    with th.random.fork_rng(devices=[]):
        th.default_generator.manual_seed(0)
        yield


def match_sizes(
    parts: Sequence[nn.Module], dense: Mapping[MoELayer, Sequence[nn.Module]], layout: Layout
) -> None:
    """Scale experts so that each layer's output is as large as that of dense layers on its input.

    :param parts: modules in sequence; the first takes a network's input
    :param dense: for each layer of experts, random draws of the dense layers it stands for
    :param layout: what the first part's input holds
    :raises ValueError: if scaling the experts' last weights doesn't scale a layer's output alike
    """
    inside = {module for part in parts for module in part.modules()}
    own = {layer: drawn for layer, drawn in dense.items() if layer in inside}
    # On the meta device, where the sizes in a file are checked, tensors have no values.
    if not own or any(each.is_meta for each in parts[0].parameters()):
        return

    def scale(layer: MoELayer, args: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        y, routing = output
        x = _untokenized(args[0], y)[:DENSE_ROWS]
        wanted = _size(th.cat([run(x) for run in own[layer]]))
        factor = wanted / max(_size(y), TINY)
        layer.experts.scale(factor)
        _check_scaled(layer, args, y * factor)
        return y * factor, routing

    with own_generator(), ExitStack() as stack, th.no_grad():
        for part in parts:
            stack.enter_context(evaluating(part))
        for layer in own:
            stack.callback(layer.register_forward_hook(scale).remove)
        x, *actions = _probe(layout, max(layer.num_experts for layer in own))
        x = parts[0](x, *actions)
        for part in parts[1:]:
            x = part(x)


def _probe(layout: Layout, runs: int) -> list[Tensor]:
    """Return standard-normal rows, equally many per task, and actions if networks judge actions.

    :param layout: what a network's input holds
    :param runs: how many experts run on a row
    """
    most = min(PROBE_ROWS, PROBE_VALUES // max(layout.x_dim, 1), EXPERT_ROWS // runs)
    rows = max(FEWEST_ROWS, most)
    x_BF = th.randn(rows, layout.x_dim)
    if layout.num_tasks:
        tasks = nn.functional.one_hot(th.arange(rows) % layout.num_tasks, layout.num_tasks)
        x_BF = th.cat([x_BF, tasks.to(x_BF.dtype)], 1)
    return [x_BF, th.randn(rows, layout.action_dim)] if layout.action_dim else [x_BF]


def _untokenized(x: Tensor, y: Tensor) -> Tensor:
    """Return a dense layer's input: the tokens' own features, and once what is appended to each.

    :param x: (B, I), or (B, N, I)
    :param y: the experts' output; its tokens are as wide as the own features of those in x
    """
    if x.dim() == 2:
        return x
    width = y.shape[-1]
    own = x[..., :width].flatten(1)
    appended = x[:, 0, width:]
    return th.cat([own, appended], 1)


def _check_scaled(layer: MoELayer, args: tuple[Tensor, ...], y: Tensor) -> None:
    """Raise unless a layer's output now has the size that it should have, and more than 0."""
    # Not `layer(...)`, which would call its hooks again.
    again, _ = layer.forward(*(x[:FEWEST_ROWS] for x in args))
    got = _size(again)
    wanted = _size(y[:FEWEST_ROWS])
    if not abs(got - wanted) <= TOLERANCE * wanted or not wanted:
        raise ValueError(
            "`match_scale`=True needs experts whose output grows with the weights of their last "
            "nn.Linear, or that have a method `scale_outputs(factor)`, a router that keeps their "
            f"sizes, and `combine`='sum'; with `router`={layer.name!r} the scaled output has the "
            f"size {got:.3g} where it should have {wanted:.3g}"
        )


def _size(x: Tensor) -> float:
    """Return the root mean square."""
    return x.square().mean().sqrt().item()
