"""Switch experts off, or swap them, and see what becomes of the agent.

Each is a context manager that leaves the model as it was, whatever happens within; they nest, and
work for training mode and evaluation, on the model's own layers. Target networks stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel

from sb3_moe.layers import EmbeddingMoE, MoELayer, SoftMoE, SparseMoE, UniformMoE
from sb3_moe.policies.of_model import policy_of


@contextmanager
def without_expert(
    model: BaseAlgorithm | BaseModel, tower: str, expert: int, layer: int | None = None
) -> Iterator[None]:
    """Switch one expert off while the block runs.

    Where gates are a softmax, the others share its weight, and top-k chooses among them; for the
    task router, linear weights and expert choice, and routers of your own, its output is zero.

    >>> import sb3_moe
    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> obs = model.get_env().reset()
    >>> with without_expert(model, "pi", 0):
    ...     gates_BNE = sb3_moe.routing(model, obs)["pi.middle"].gates_BNE
    >>> gates_BNE[0, 0, 0].item()
    0.0

    :param model: an SB3 model, or the policy of one
    :param tower: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole name
    :param expert: which one
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such tower, layer or expert, or no other expert
    """
    with _edited_in(model, tower, layer, (expert,), lambda gates: _without(gates, [expert])):
        yield


@contextmanager
def only_expert(
    model: BaseAlgorithm | BaseModel, tower: str, expert: int, layer: int | None = None
) -> Iterator[None]:
    """Switch all experts off but one while the block runs; the rest as :func:`without_expert`.

    :param model: an SB3 model, or the policy of one
    :param tower: as of :func:`without_expert`
    :param expert: the one that stays
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such tower, layer or expert
    """

    def others(gates: th.Tensor) -> th.Tensor:
        return _without(gates, [k for k in range(gates.shape[-1]) if k != expert])

    with _edited_in(model, tower, layer, (expert,), others):
        yield


@contextmanager
def swap_experts(
    model: BaseAlgorithm | BaseModel, tower: str, first: int, second: int, layer: int | None = None
) -> Iterator[None]:
    """Let two experts change places: each gets the scores that the router gives the other.

    :param model: an SB3 model, or the policy of one
    :param tower: as of :func:`without_expert`
    :param first: one expert
    :param second: another
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such tower, layer or expert
    """
    with _edited_in(
        model, tower, layer, (first, second), lambda gates: _swapped(gates, first, second)
    ):
        yield


def mixtures_of(
    model: BaseAlgorithm | BaseModel, tower: str, layer: int | None = None
) -> dict[str, MoELayer]:
    """Return a tower's mixtures by name.

    :param model: an SB3 model, or the policy of one
    :param tower: as of :func:`without_expert`
    :param layer: which of them; None: each
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is none
    """
    return policy_of(model).mixtures(tower, layer)


def when_off(layer: MoELayer) -> str:
    """Say what becomes of an expert that is switched off, in half a sentence.

    :param layer: whose it is
    """
    if isinstance(layer, SparseMoE):
        return "others are chosen in its place"
    softmax = isinstance(layer, EmbeddingMoE) and layer.softmax
    if softmax or isinstance(layer, SoftMoE | UniformMoE):
        return "the others share its weight"
    return "its output is zero, and the others count as before"


@contextmanager
def _edited_in(
    model: BaseAlgorithm | BaseModel,
    tower: str,
    layer: int | None,
    experts: tuple[int, ...],
    change: Callable[[th.Tensor], th.Tensor],
) -> Iterator[None]:
    layers = mixtures_of(model, tower, layer)
    for name, each in layers.items():
        for k in experts:
            if isinstance(k, bool) or not isinstance(k, int | np.integer):
                raise TypeError(f"`expert` must be an int, the number of one, got {k!r}")
            if not 0 <= k < each.num_experts:
                raise ValueError(
                    f"`expert` must be in [0, num_experts={each.num_experts}) of {name}, got {k}"
                )
    with ExitStack() as stack:
        for each in layers.values():
            stack.enter_context(_edited(each, change))
        yield


@contextmanager
def _edited(layer: MoELayer, change: Callable[[th.Tensor], th.Tensor]) -> Iterator[None]:
    before = layer.edit_gates
    edit = change if before is None else lambda gates: change(before(gates))
    if not edit(th.ones(layer.num_experts)).any():
        raise ValueError(f"at least one of the {layer.num_experts} experts must stay on")
    layer.edit_gates = edit
    try:
        yield
    finally:
        layer.edit_gates = before


def _without(gates: th.Tensor, experts: list[int]) -> th.Tensor:
    return gates.index_fill(-1, th.tensor(experts, device=gates.device, dtype=th.long), 0.0)


def _swapped(gates: th.Tensor, first: int, second: int) -> th.Tensor:
    order = list(range(gates.shape[-1]))
    order[first], order[second] = order[second], order[first]
    return gates[..., order]
