"""Penalties on weights against the loss of plasticity: the plain baselines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.callbacks.trpo import refuse_trpo
from sb3_moe.layers import Experts
from sb3_moe.layers.checks import not_negative
from sb3_moe.networks import networks_of
from sb3_moe.optimizers.idle_experts import MARK
from sb3_moe.optimizers.masks import masks_in


class WeightPenaltyCallback(BaseCallback):
    """Add ``coef / 2`` times the squared distance of all weights from where they are drawn to.

    It is added to the gradients by hooks, while the algorithm updates and before ``max_grad_norm``
    clips them, as if it stood in the algorithm's loss. It doesn't move what ``freeze_idle`` or the
    masks of a sparse network hold still. Logged as ``plasticity/penalty/<key>``.

    :cvar key: how the log calls it
    :param coef: of the penalty, at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str]

    def __init__(self, coef: float, *, verbose: int = 0) -> None:
        super().__init__(verbose)
        not_negative("coef", coef)
        self.coef = coef
        self._handles: list[RemovableHandle] = []
        self._distances: dict[nn.Parameter, Callable[[], th.Tensor]] = {}

    @abstractmethod
    def distance(self, name: str, parameter: nn.Parameter) -> Callable[[], th.Tensor]:
        """Return what says how far a parameter is from where it is drawn to.

        :param name: of the parameter in the policy
        :param parameter: it is asked of while the algorithm updates
        """

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that the algorithm has gradients to add to."""
        super().init_callback(model)
        refuse_trpo(model, type(self).__name__)
        self._policy: Any = getattr(model.policy, "_orig_mod", model.policy)
        networks_of(self._policy)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is learned, without target networks, by name."""
        owners, named = networks_of(self._policy).owners(), self._policy.named_parameters()
        return {name: each for name, each in named if each in owners and each.requires_grad}

    def _on_training_start(self) -> None:
        self._detach()
        self._distances = {
            each: self.distance(name, each) for name, each in self.parameters().items()
        }

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Reach the updates that follow, and nobody else who computes gradients."""
        self._detach()
        masks: dict[th.Tensor, th.Tensor] = {}
        still: dict[th.Tensor, int] = {}
        for optimizer in dict.fromkeys(networks_of(self._policy).optimizers().values()):
            masks |= masks_in(optimizer)
            if optimizer.param_groups[0].get(MARK):
                still |= _numbers_of_experts(self._policy)
        squares = []
        for parameter, distance in self._distances.items():
            add = self._hook(distance, masks.get(parameter), still.get(parameter))
            self._handles.append(parameter.register_post_accumulate_grad_hook(add))
            squares.append(_held(distance(), masks.get(parameter)).square().sum())
        penalty = self.coef / 2 * float(th.stack(squares).sum())
        self.logger.record(f"plasticity/penalty/{self.key}", penalty)

    def _hook(
        self, distance: Callable[[], th.Tensor], mask: th.Tensor | None, num_experts: int | None
    ) -> Callable[[th.Tensor], None]:
        def add(parameter: th.Tensor) -> None:
            gradient, off = parameter.grad, _held(distance(), mask)
            assert gradient is not None
            if num_experts is not None:
                by_expert = gradient.reshape(num_experts, -1)
                moves = (by_expert != 0).any(1, keepdim=True)
                off = (off.reshape(num_experts, -1) * moves).view_as(gradient)
            gradient.add_(off, alpha=self.coef)

        return add

    def _on_rollout_start(self) -> None:
        self._detach()

    def _on_training_end(self) -> None:
        self._detach()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


class L2InitCallback(WeightPenaltyCallback):
    """Draw weights towards those with which they started (Kumar et al. 2023, arXiv 2308.11958).

    Their coefficient is half of this one. Where weights started is where they are when the first
    training with this callback begins; what SB3 saves and snapshots keep it, in
    ``model.initial_weights``, and a run that starts at step 0 takes them anew.

    :param coef: of the penalty, at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str] = "l2_init"

    def _on_training_start(self) -> None:
        kept = vars(self.model).get("initial_weights")
        if kept is None or self.model.num_timesteps == 0:
            kept = {name: p.detach().cpu().numpy().copy() for name, p in self.parameters().items()}
            vars(self.model)["initial_weights"] = kept
        self._kept: Mapping[str, Any] = kept
        super()._on_training_start()

    def distance(self, name: str, parameter: nn.Parameter) -> Callable[[], th.Tensor]:
        """Return the distance from the start; none for what came later."""
        start = self._kept.get(name)
        if start is None or start.shape != tuple(parameter.shape):
            return lambda: th.zeros_like(parameter)
        anchor = th.as_tensor(start).to(parameter)
        return lambda: parameter.detach() - anchor


class WeightNormDecayCallback(WeightPenaltyCallback):
    """Draw weights towards zero: a penalty on their norm, in the loss.

    Unlike AdamW's ``weight_decay`` its gradient goes through the optimiser's running averages.

    :param coef: of the penalty, at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str] = "weight_norm"

    def distance(self, name: str, parameter: nn.Parameter) -> Callable[[], th.Tensor]:
        """Return the weights themselves."""
        return parameter.detach


def _held(distance: th.Tensor, mask: th.Tensor | None) -> th.Tensor:
    return distance if mask is None else distance * mask


def _numbers_of_experts(policy: nn.Module) -> dict[th.Tensor, int]:
    """Return how many experts each of their parameters holds."""
    experts = [module for module in policy.modules() if isinstance(module, Experts)]
    return {share.parameter: share.num_experts for each in experts for share in each.shares()}
