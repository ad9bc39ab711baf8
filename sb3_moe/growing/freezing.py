"""Experts that stay as they are while everything else learns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.logbook import note
from sb3_moe.growing.transplant import with_frozen
from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers.checks import numbers_below
from sb3_moe.policies.of_model import policy_of


def freeze_experts(
    model: BaseAlgorithm,
    experts: Sequence[int] | None = None,
    *,
    tower: str | None = None,
    layer: int | None = None,
) -> None:
    """Keep experts as they are from now on: weights, averages and counts, bit for bit.

    Their gradients are zero, so that clipping doesn't count them, and hooks of the optimisers keep
    them as those of ``freeze_idle`` do idle ones. Routers go on learning how much the experts
    count. Target networks follow as before. It is kept in files as the option ``frozen_experts``.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all that there are now
    :param tower: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole name;
        None: each that has experts
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such tower, layer or expert, or the optimiser is of a class
        that is not known
    """
    _change(model, experts, tower, layer, freeze=True)


def thaw_experts(
    model: BaseAlgorithm,
    experts: Sequence[int] | None = None,
    *,
    tower: str | None = None,
    layer: int | None = None,
) -> None:
    """Let frozen experts learn again, as if there had been no gap.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all
    :param tower: as of :func:`freeze_experts`
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such tower, layer or expert
    """
    _change(model, experts, tower, layer, freeze=False)


def _change(
    model: BaseAlgorithm,
    experts: Collection[int] | None,
    tower: str | None,
    layer: int | None,
    *,
    freeze: bool,
) -> None:
    model_of_sb3(model)
    policy = policy_of(model)
    if tower is None and layer is not None:
        raise ValueError(f"`layer` needs a `tower` whose mixtures it counts, got {layer}")
    chosen = policy.moe_layers()
    if tower is not None or not chosen:  # else it says that there are none
        chosen = policy.mixtures(str(tower), layer)
    frozen = {name: set(numbers) for name, numbers in (policy.frozen_experts or {}).items()}
    for name, each in chosen.items():
        numbers = range(each.num_experts) if experts is None else experts
        numbers_below("experts", numbers, each.num_experts, name)
        old = frozen.get(name, set())
        frozen[name] = old | set(numbers) if freeze else old - set(numbers)
    policy.set_frozen_experts({name: sorted(numbers) for name, numbers in frozen.items()})
    model.policy_kwargs = with_frozen(model.policy_kwargs, policy)
    listed = None if experts is None else sorted(map(int, experts))
    note(model, "freeze" if freeze else "thaw", chosen, experts=listed)
