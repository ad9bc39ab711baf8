"""Which layer's features a policy penalises, and how that is weighed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers import MoELayer
from sb3_moe.layers.spectral import ByFeatures, ByLoss, FeaturePenalty
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.optimizers.spectral import ByGradient
from sb3_moe.policies.options import MoEOptions

if TYPE_CHECKING:
    from sb3_moe.policies.looks_inside import LooksInside

Make = Callable[[float, Sequence[nn.Parameter]], FeaturePenalty]
#: How the penalty is weighed, by the option's value.
MAKERS: dict[str, Make] = {
    "grad": ByGradient,
    "loss": lambda coef, parameters: ByLoss(coef),
    "features": lambda coef, parameters: ByFeatures(coef),
}


def penalise(policy: LooksInside) -> list[RemovableHandle]:
    """Give the layers that are to have a penalty one, and teach the optimisers of it.

    :param policy: whole
    :return: what takes it off the optimisers again
    :raises ValueError: if a tower's experts have no features that could be penalised, or its loss
        can't be read
    """
    networks = networks_of(policy)
    optimizers = networks.optimizers()
    handles: list[RemovableHandle | None] = []
    for tower, modules in networks.towers().items():
        options = policy.moe[kind_of(tower)]
        if not (options.spectral_coef and options.place.has_experts):
            continue
        _check_mode(options, tower, policy)
        layers = [m for each in modules for m in each.modules() if isinstance(m, MoELayer)]
        parameters = [p for each in modules for p in each.parameters()]
        make = MAKERS[options.spectral_mode]
        layer = _last_with_features(layers, tower)
        layer.penalty = make(options.spectral_coef, parameters)
        handles.append(layer.penalty.follow(optimizers[tower]))
    return [each for each in handles if each is not None]


def by_loss(policy: LooksInside) -> list[ByLoss]:
    """Return the penalties that have to be told what a policy says of actions."""
    found = [getattr(layer, "penalty", None) for layer in policy.moe_layers().values()]
    return [each for each in found if isinstance(each, ByLoss)]


def _check_mode(options: MoEOptions, tower: str, policy: LooksInside) -> None:
    if options.spectral_mode == "loss" and not (policy.on_policy and tower == "pi"):
        raise ValueError(
            "`spectral_mode`='loss' reads the loss of an actor off the log-probabilities that PPO "
            f"and its like ask for, got it for {tower!r} of {type(policy).__module__}: use 'grad'"
        )


def _last_with_features(layers: Sequence[MoELayer], tower: str) -> MoELayer:
    able = [layer for layer in layers if layer.experts.hidden_width]
    if not able:
        kinds = [type(layer.experts).__name__ for layer in layers]
        raise ValueError(
            "`spectral_coef` needs experts of torch's own layers in a row, a hidden one before the "
            f"last, without statistics over the batch; {tower!r} has none, got {kinds}"
        )
    return able[-1]
