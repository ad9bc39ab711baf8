"""Penalties on where weights are, and the plain ones against the loss of plasticity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.callbacks.same_training import same_training
from sb3_moe.callbacks.trpo import refuse_trpo
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.networks import networks_of, uncompiled
from sb3_moe.networks.masks import keeps_masks, masks_in
from sb3_moe.optimizers import ExpertAdam
from sb3_moe.plasticity.resets import held_routers


class Pull(NamedTuple):
    """A parameter, where it is drawn to, and how strongly each weight is.

    :param parameter: that is learned
    :param anchor: like it; None: zero
    :param strength: like it; None: 1 for every weight
    """

    parameter: nn.Parameter
    anchor: th.Tensor | None = None
    strength: th.Tensor | None = None

    def distance(self) -> th.Tensor:
        """Return how far it is off."""
        weight = self.parameter.detach()
        return weight if self.anchor is None else weight - self.anchor

    def offset(self) -> th.Tensor:
        """Return how far it is off, times the strength."""
        distance = self.distance()
        return distance if self.strength is None else self.strength * distance

    def penalty(self) -> th.Tensor:
        """Return half the sum of the squared distances, each times its strength."""
        return 0.5 * (self.offset() * self.distance()).sum()


class WeightPenaltyCallback(BaseCallback):
    """Add a penalty on how far weights are from where they are drawn to.

    It is ``coef / 2`` times the squared distance, and is added to the gradients by hooks, while the
    algorithm updates and before ``max_grad_norm`` clips them, as if it stood in the algorithm's
    loss. It doesn't move frozen experts, nor what ``freeze_idle`` or the masks of a sparse network
    hold still, and doesn't count there where gradients are clipped. Logged as
    ``<room>/penalty/<key>``.

    :cvar room: where it is logged
    :cvar key: how the log calls it
    :param coef: of the penalty, at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    room: ClassVar[str] = "plasticity"
    key: ClassVar[str]

    def __init__(self, coef: float, *, verbose: int = 0) -> None:
        super().__init__(verbose)
        not_negative("coef", coef)
        self.coef = coef
        self._handles: list[RemovableHandle] = []
        self._pulls: list[Pull] | None = None
        self._weights: list[nn.Parameter] = []

    @abstractmethod
    def pulls(self) -> Iterator[Pull]:
        """Yield what is drawn where, from now on."""

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that the algorithm has a loss whose gradients can be added to."""
        super().init_callback(model)
        self.check_model(model)
        for handle in self._left():  # by a training that broke off
            handle.remove()
        self._left().clear()

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm steps by gradients, on networks that are known."""
        refuse_trpo(model, type(self).__name__)
        networks_of(uncompiled(model.policy))

    def _left(self) -> set[RemovableHandle]:
        """Hooks of all penalties: they outlive a training that is interrupted."""
        first, *_ = networks_of(self.policy).every_optimizer()
        hooks: set[RemovableHandle] = vars(first).setdefault("penalty_hooks", set())
        return hooks

    @property
    def policy(self) -> Any:
        """The policy, without what ``torch.compile`` wraps around it."""
        return uncompiled(self.model.policy)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is learned, now or once routers thaw, without target networks, by name."""
        weights = networks_of(self.policy).owners().keys() - temperatures_in(self.policy)
        held = held_routers(self.policy)
        return {
            name: each
            for name, each in self.policy.named_parameters()
            if each in weights and (each.requires_grad or each in held)
        }

    def _on_training_start(self) -> None:
        self._pulls = None

    def _on_rollout_start(self) -> None:
        self._detach()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        """Reach the updates that follow, and nobody else who computes gradients."""
        self._detach()
        weights = list(self.policy.parameters())
        # Where experts joined or left, tensors are others.
        if self._pulls is None or [*map(id, weights)] != [*map(id, self._weights)]:
            self._weights, self._pulls = weights, list(self.pulls())
        # What someone else keeps as it is takes no hook.
        pulls = [each for each in self._pulls if each.parameter.requires_grad]
        masks, experts = _held_still(self.policy)
        for each in pulls:
            hook = self._hook(each, masks.get(each.parameter), experts.get(each.parameter))
            self._handles.append(each.parameter.register_post_accumulate_grad_hook(hook))
        self._left().update(self._handles)
        # Off-policy a rollout may be a step long, and a device would be waited for in each.
        on_policy = isinstance(self.model, OnPolicyAlgorithm)
        if pulls and (on_policy or np.any(self.locals.get("dones"))):
            penalty = self.coef * float(th.stack([each.penalty() for each in pulls]).sum())
            self.logger.record(f"{self.room}/penalty/{self.key}", penalty)

    def _hook(
        self, pull: Pull, mask: th.Tensor | None, num_experts: int | None
    ) -> Callable[[th.Tensor], None]:
        lasts = same_training(self.model)

        def add(parameter: th.Tensor) -> None:
            if not lasts():
                return
            gradient, offset = parameter.grad, pull.offset()
            assert gradient is not None
            if mask is not None:
                offset = offset * mask
            if num_experts is not None:
                moves = (gradient.reshape(num_experts, -1) != 0).any(1, keepdim=True)
                offset = (offset.reshape(num_experts, -1) * moves).view_as(gradient)
            gradient.add_(offset, alpha=self.coef)

        return add

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._left().difference_update(self._handles)
        self._handles = []

    def _on_training_end(self) -> None:
        self._detach()


class L2InitCallback(WeightPenaltyCallback):
    """Draw weights towards those with which they started (Kumar et al. 2023, arXiv 2308.11958).

    Their coefficient is half of this one. Where weights started is where they are when the first
    training with this callback begins; every file of the model keeps it, as
    ``model.initial_weights``, and a run that starts at step 0 takes them anew. Experts keep their
    own start when others join or leave; a new one is drawn to where it was when it joined.

    :param coef: of the penalty, ``coef / 2`` times the squared distance; at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str] = "l2_init"

    def _on_training_start(self) -> None:
        super()._on_training_start()
        kept = vars(self.model)
        if "initial_weights" not in kept or self.model.num_timesteps == 0:
            named = self.parameters().items()
            weights = {name: each.detach().cpu().numpy().copy() for name, each in named}
            kept["initial_weights"] = weights

    def pulls(self) -> Iterator[Pull]:
        """Yield the weights whose start is known."""
        start = vars(self.model)["initial_weights"]
        for name, parameter in self.parameters().items():
            if np.shape(start.get(name)) == parameter.shape:
                yield Pull(parameter, th.as_tensor(start[name]).to(parameter))


class WeightNormDecayCallback(WeightPenaltyCallback):
    """Draw weights towards zero: a penalty on their norm, in the loss.

    Unlike AdamW's ``weight_decay`` its gradient goes through the optimiser's running averages.

    :param coef: of the penalty, ``coef / 2`` times the squared norm; at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if it is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str] = "weight_norm"

    def pulls(self) -> Iterator[Pull]:
        """Yield all weights."""
        yield from map(Pull, self.parameters().values())


def _held_still(policy: Any) -> tuple[dict[th.Tensor, th.Tensor], dict[th.Tensor, int]]:
    """Return masks, and how many experts, each still while it is idle, a parameter holds."""
    masks: dict[th.Tensor, th.Tensor] = {}
    experts: dict[th.Tensor, int] = {}
    for optimizer in networks_of(policy).every_optimizer():
        masks |= masks_in(optimizer) if keeps_masks(optimizer) else {}
        experts |= optimizer.held_while_idle() if isinstance(optimizer, ExpertAdam) else {}
    for parameter, learns in _unfrozen(policy):
        masks[parameter] = learns & masks[parameter] if parameter in masks else learns
    return masks, experts


def _unfrozen(policy: Any) -> Iterator[tuple[nn.Parameter, th.Tensor]]:
    """Yield tensors some of whose experts are frozen, with a mask of those that are not."""
    for layer in (module for module in policy.modules() if isinstance(module, MoELayer)):
        for share in layer.experts.shares() if layer.frozen else ():
            learns = th.ones_like(share.parameter, dtype=th.bool)
            for k in layer.frozen & {*range(share.first, share.first + share.num_experts)}:
                learns.view(share.num_experts, -1)[k - share.first] = False
            yield share.parameter, learns
