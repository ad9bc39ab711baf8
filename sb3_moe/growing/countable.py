"""Which mixtures of a model can have another number of experts."""

from __future__ import annotations

from collections.abc import Mapping

from sb3_moe.layers import MoELayer
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.networks.masks import masks_in
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import MoEOptions


def countable(policy: MoEPolicy, tower: str | None) -> dict[str, MoELayer]:
    """Return the mixtures of a tower whose number of experts can change.

    :param policy: one of ours
    :param tower: None: of each
    :raises ValueError: if there is none, or they can't
    """
    _refuse_masks(policy)
    layers: Mapping[str, MoELayer] = policy.moe_layers()
    kinds = sorted(set(map(kind_of, layers)))
    if layers and tower is not None and tower not in kinds:
        raise ValueError(
            f"`tower` must be one of {kinds}, whose mixtures have a number of experts together, "
            f"got {tower!r}"
        )
    if tower is not None or not layers:  # else it says that there are none
        layers = policy.mixtures(str(tower))
    found = {}
    for name, layer in layers.items():
        options = policy.moe[kind_of(name)]
        if not _is_task_head(options, layer):
            found[name] = layer
    for name, layer in (found or dict(layers)).items():
        if layer.needs_tasks:
            raise ValueError(
                f"`router`={layer.name!r} has an expert for each task in {name}, so their number "
                "can't change: upcycle a dense model with `env` of other tasks instead"
            )
        _check_alone(name, layer)
    return found


def _refuse_masks(policy: MoEPolicy) -> None:
    for optimizer in networks_of(policy).every_optimizer():
        if masks_in(optimizer):
            raise ValueError(
                "`model` must not train sparsely: SparseTrainingCallback keeps a mask for each "
                "tensor, and those of other experts would have none; sb3_moe.growing.drop_masks"
                "(model) ends sparse training"
            )


def _is_task_head(options: MoEOptions, layer: MoELayer) -> bool:
    """Say whether a layer is a head by task, which stands beside the tower's own experts."""
    head = options.head_router_class
    return head is not None and isinstance(layer, head) and not options.router_class.needs_tasks


def _check_alone(name: str, layer: MoELayer) -> None:
    if layer.steering is not None:
        raise ValueError(
            f"`model` must not be inside without_expert, only_expert or swap_experts, got {name} "
            "with experts switched off or swapped"
        )
