"""Switch experts off (expert ablation), to see how the agent plays then."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from torch import Tensor

from sb3_moe.layers.checks import numbers_below
from sb3_moe.policies.of_model import policy_of

Edit = Callable[[Tensor], Tensor]


@contextmanager
def without_expert(model: BaseAlgorithm | BaseModel, network: str, expert: int) -> Iterator[None]:
    """Switch one expert off while the block runs.

    Where gates are a softmax, the other experts share its weight, and top-k chooses among them.
    With the task router, linear weights, expert choice and routers of your own, its output is zero.
    Blocks can be nested. They change the model's own layers, in training and evaluation mode, but
    not its target networks, and leave the model as it was, even after an error.

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
    with ExitStack() as undone:
        for name, mixture in policy_of(model).mixtures(network).items():
            numbers_below("expert", [expert], mixture.num_experts, name)
            before = mixture.edit_gates
            edit = partial(_without, before, expert)
            if not edit(th.ones(mixture.num_experts)).any():
                raise ValueError(f"one or more experts of {name} must stay on")
            undone.callback(setattr, mixture, "edit_gates", before)
            mixture.edit_gates = edit
        yield


def _without(before: Edit | None, expert: int, gates: Tensor) -> Tensor:
    gates = gates if before is None else before(gates)
    return gates.index_fill(-1, th.tensor([expert], device=gates.device), 0.0)
