"""Switch experts off (expert ablation), or swap them, to see how the agent plays then.

Each function is a context manager that leaves the model as it was, even after an error. Blocks can
be nested. They change the model's own layers, in training and evaluation mode, but not its target
networks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel

from sb3_moe.layers import EmbeddingMoE, MoELayer, PredictMoE, SoftMoE, SparseMoE, UniformMoE
from sb3_moe.layers.checks import numbers_below
from sb3_moe.policies.of_model import policy_of

Edit = Callable[[th.Tensor], th.Tensor]


@contextmanager
def without_expert(model: BaseAlgorithm | BaseModel, network: str, expert: int) -> Iterator[None]:
    """Switch one expert off while the block runs.

    Where gates are a softmax, the other experts share its weight, and top-k chooses among them.
    With the task router, linear weights, expert choice and routers of your own, its output is zero.

    >>> import sb3_moe
    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> obs = model.get_env().reset()
    >>> with without_expert(model, "pi", 0):
    ...     gates_BNE = sb3_moe.routing(model, obs)["pi.middle"].gates_BNE
    >>> gates_BNE[0, 0, 0].item()
    0.0

    :param model: an SB3 model, or the policy of one
    :param network: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole
        name, such as ``"pi.middle"``; of a network, a mixture with an expert for each task is meant
        only if there is no other
    :param expert: its number
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such network or expert, or no other expert
    """
    with _edited(model, network, [expert], lambda gates: _without(gates, [expert])):
        yield


@contextmanager
def only_expert(model: BaseAlgorithm | BaseModel, network: str, expert: int) -> Iterator[None]:
    """Switch all experts off but one while the block runs, otherwise as :func:`without_expert`.

    :param model: an SB3 model, or the policy of one
    :param network: as in :func:`without_expert`
    :param expert: the one that stays
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such network or expert
    """

    def others(gates: th.Tensor) -> th.Tensor:
        return _without(gates, [k for k in range(gates.shape[-1]) if k != expert])

    with _edited(model, network, [expert], others):
        yield


@contextmanager
def swap_experts(
    model: BaseAlgorithm | BaseModel, network: str, first: int, second: int
) -> Iterator[None]:
    """Let two experts change places: each gets the scores that the router gives the other.

    :param model: an SB3 model, or the policy of one
    :param network: as in :func:`without_expert`
    :param first: one expert
    :param second: another
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if there is no such network or expert
    """

    def swapped(gates: th.Tensor) -> th.Tensor:
        order = list(range(gates.shape[-1]))
        order[first], order[second] = second, first
        return gates[..., order]

    with _edited(model, network, [first, second], swapped):
        yield


def when_off(layer: MoELayer) -> str:
    """Say in half a sentence what happens when one of a layer's experts is switched off.

    :param layer: the mixture
    """
    if isinstance(layer, SparseMoE):
        return "other experts are chosen in its place"
    softmax = isinstance(layer, EmbeddingMoE) and layer.softmax
    if softmax or isinstance(layer, SoftMoE | UniformMoE | PredictMoE):
        return "the others share its weight"
    return "its output is zero, and the others count as before"


@contextmanager
def _edited(
    model: BaseAlgorithm | BaseModel, network: str, experts: list[Any], change: Edit
) -> Iterator[None]:
    """Change the gates of a network's mixtures while the block runs."""
    with ExitStack() as undone:
        for name, mixture in policy_of(model).mixtures(network).items():
            numbers_below("expert", experts, mixture.num_experts, name)
            before = mixture.edit_gates
            edit = partial(_both, before, change)
            if not edit(th.ones(mixture.num_experts)).any():
                raise ValueError(f"one or more experts of {name} must stay on")
            undone.callback(setattr, mixture, "edit_gates", before)
            mixture.edit_gates = edit
        yield


def _both(first: Edit | None, second: Edit, gates: th.Tensor) -> th.Tensor:
    return second(gates if first is None else first(gates))


def _without(gates: th.Tensor, experts: list[int]) -> th.Tensor:
    return gates.index_fill(-1, th.tensor(experts, device=gates.device, dtype=th.long), 0.0)
