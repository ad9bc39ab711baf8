"""Experts that stay as they are while everything else learns, and what was done to experts."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.transplant import with_frozen
from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers.checks import numbers_below
from sb3_moe.networks import networks_of, uncompiled
from sb3_moe.networks.masks import forget_masks
from sb3_moe.policies.of_model import policy_of


def freeze_experts(
    model: BaseAlgorithm,
    experts: Sequence[int] | None = None,
    *,
    tower: str | None = None,
    layer: int | None = None,
) -> None:
    """Keep experts as they are from now on: weights, averages and counts, bit for bit.

    Their gradients are zero, so that clipping doesn't count them. Routers go on learning how much
    the experts count. Target networks follow as before. Files keep it as the option
    ``frozen_experts``.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all that there are now
    :param tower: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole name;
        None: each that has experts
    :param layer: which of the tower's mixtures, in each critic; None: each
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such tower, layer or expert, or the optimizer can't hold
        experts
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


# What was done, kept on the model as plain values, and logged.


def expert_log(model: BaseAlgorithm) -> list[dict[str, Any]]:
    """Return what was done to a model's experts, oldest first; empty before the first change.

    A line has the ``step``, ``what`` was done, to which ``mixtures``, and its arguments. SB3 and
    this package keep it in files as ``model.expert_log``, which a model has from the first change.

    >>> from stable_baselines3 import PPO
    >>> import sb3_moe
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> expert_log(model)
    []
    >>> sb3_moe.add_experts(model, tower="pi")
    >>> expert_log(model)
    [{'step': 0, 'what': 'add', 'mixtures': ['pi.middle'], 'n': 1, 'like': None}]

    :param model: of any algorithm
    :raises TypeError: if it is no model of SB3's
    """
    model_of_sb3(model)
    lines: list[dict[str, Any]] = copy.deepcopy(vars(model).get("expert_log", []))
    return lines


def note(model: BaseAlgorithm, what: str, mixtures: Iterable[str], **how: Any) -> None:
    """Add a line to ``model.expert_log``, which SB3 saves, and log how many experts there are now.

    :param model: after the change
    :param what: what was done
    :param mixtures: to which
    :param how: arguments of it
    """
    policy = policy_of(model)
    layers, frozen = policy.moe_layers(), policy.frozen_experts or {}
    line = {"step": model.num_timesteps, "what": what, "mixtures": list(mixtures), **how}
    vars(model).setdefault("expert_log", []).append(line)
    if not hasattr(model, "_logger"):
        return  # it has not learned yet
    for name in line["mixtures"]:
        model.logger.record(f"experts/number/{name}", layers[name].num_experts)
        model.logger.record(f"experts/frozen/{name}", len(frozen.get(name, ())))


def drop_masks(model: BaseAlgorithm) -> None:
    """End sparse training for good: forget the masks that SparseTrainingCallback left.

    They lie in the optimizers, and so in all files of the model. Weights stay as they are, most of
    them zero, until training fills them; experts can be added, removed and merged again. The next
    SparseTrainingCallback draws masks anew. A model without masks stays as it is.

    :param model: of any algorithm, with SB3's policies or ours
    :raises TypeError: if it is no model of SB3's, or its policy of no known class
    """
    model_of_sb3(model)
    for optimizer in networks_of(uncompiled(model.policy)).every_optimizer():
        forget_masks(optimizer)
