"""More experts, or fewer, in a model that goes on training.

Shapes: E experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.freezing import note
from sb3_moe.growing.routers import Heir, kept, meets_all
from sb3_moe.growing.transplant import Transplant, needs_thawed
from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, numbers_below, whole
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.networks.masks import masks_in
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.saving.generators import preserved_generators, undone_on_failure

# The share of all gates that a new expert takes, at most, unless more is asked for.
SHARE = 0.05

MakeHeirs = Callable[[str, MoELayer], list[Heir]]


def add_experts(
    model: BaseAlgorithm,
    n: int = 1,
    *,
    tower: str | None = None,
    like: int | None = None,
    share: float | None = None,
    perturb: float = 0.1,
) -> None:
    """Add experts behind those that a model has, which goes on as before or nearly so.

    A new expert begins as one of a new policy does (``like=None``), or as a copy of another.

    - A copy has the router's weights of its original, and a share of its gates: what both say is
      what one said. The last layers of the two start apart so that it cancels (``perturb``), or
      else they would stay alike; where the original is frozen it stays as it is, and they part.
      Under ``"top_k"`` only one of the two may be chosen, with less weight.
    - A new one has the mean of the others' scores, and so at most its share of the gates of any
      sample, which the others lose evenly. ``"top_k"`` does
      not choose it before its score has grown; a large ``share``, ``bias_rate`` or
      ``balance_coef`` makes that soon.

    Routers with scores get a number to add to each (``router_kwargs=dict(bias=True)``) for it,
    learned from then on. Gates of ``"uniform"`` are all 1/E: there the experts' last layers are
    scaled instead, which frozen ones and ``combine`` refuse. Averages of the optimizers follow the
    gates, a new expert counts its own steps, and target networks get what follows the new experts.

    :param model: of any algorithm, with one of this package's policies
    :param n: how many
    :param tower: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :param like: the number of the expert to copy; None: they are drawn anew
    :param share: of its original's gates that each copy takes, or of all gates for new ones, in
        (0, 1/n); None: equal parts for copies where every sample meets every expert, else 0.05
    :param perturb: how far copies start apart, as a share of the size of their last weights
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if a value is not valid, the task picks the experts, or the router can't
        share out gates
    """
    with undone_on_failure():
        by_mixture, transplant = _addition(model, n, tower, like, share, perturb)
        transplant.put_in()
    note(model, "add", by_mixture, n=int(n), like=None if like is None else int(like))


def check_room(model: BaseAlgorithm, n: int, *, frozen: bool) -> None:
    """Check that experts can be added to every mixture, without adding them.

    :param model: of any algorithm, with one of this package's policies
    :param n: how many
    :param frozen: whether all that there are will be frozen then
    :raises ValueError: if they can't
    """
    with preserved_generators():
        _, transplant = _addition(model, n, None, None, None, 0.0)
    for name in transplant.scaled if frozen else ():
        layer = policy_of(model).moe_layers()[name]
        raise ValueError(needs_thawed(name, layer, range(layer.num_experts)))


def _addition(
    model: BaseAlgorithm,
    n: int,
    tower: str | None,
    like: int | None,
    share: float | None,
    perturb: float,
) -> tuple[dict[str, list[Heir]], Transplant]:
    """Return what the experts come from, by mixture, and the layers that can be put in."""
    whole("n", n)
    not_negative("perturb", perturb)
    _check_share(share, n)

    def heirs(name: str, layer: MoELayer) -> list[Heir]:
        if like is not None:
            numbers_below("like", [like], layer.num_experts, name)
            _check_sums("like", name, layer)
        part = _default_share(layer, n, like) if share is None else share
        old = [kept(k) for k in range(layer.num_experts)]
        if like is None:
            return [*old, *(Heir(share=part) for _ in range(n))]
        old[like] = kept(like, 1.0 - n * part)
        return [*old, *(Heir({like: 1.0}, {like: part}, stays=False) for _ in range(n))]

    by_mixture = _heirs(model, tower, heirs)
    return by_mixture, Transplant(model, by_mixture, shares=True, perturb=perturb)


def remove_experts(
    model: BaseAlgorithm, experts: Sequence[int], *, tower: str | None = None
) -> None:
    """Take experts away, as :func:`sb3_moe.without_expert` does for a while, for good.

    The others keep weights, averages and counts bit for bit, and close up in their order.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers, in every mixture of the tower
    :param tower: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such expert, none would be left, the task picks the experts,
        or the options don't allow so few
    """

    def heirs(name: str, layer: MoELayer) -> list[Heir]:
        numbers_below("experts", experts, layer.num_experts, name)
        left = [kept(k) for k in range(layer.num_experts) if k not in set(experts)]
        if not left or len(left) == layer.num_experts:
            raise ValueError(
                f"`experts` must name some, and leave at least 1, of the {layer.num_experts} "
                f"experts of {name}, got {list(experts)}"
            )
        return left

    by_mixture = _heirs(model, tower, heirs)
    with preserved_generators():
        Transplant(model, by_mixture, shares=False).put_in()
    note(model, "remove", by_mixture, experts=sorted(map(int, experts)))


def merge_experts(
    model: BaseAlgorithm, experts: Sequence[int], *, tower: str | None = None, probe: Any = None
) -> None:
    """Make one expert of several: the average of their weights, by how much they are used.

    It takes the place of the first, and all their gates: the router's weights are averaged as the
    experts' are, and masses of the softmax are summed. Experts that are alike, and have like
    scores, are one without a trace (but under ``"top_k"`` with fewer than all experts, which chose
    one of them). Averaging weights by the router's probabilities is SMEAR's idea (arXiv
    2306.03745). If all of them are frozen, so is the one.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers, two or more, in every mixture of the tower
    :param tower: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :param probe: observations on which the mean sizes of the experts' gates are their weights in
        the average; None: all count the same
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such expert, fewer than two are named, the task picks the
        experts, or the router can't share out gates
    """
    use = {} if probe is None else _use(policy_of(model), probe)

    def heirs(name: str, layer: MoELayer) -> list[Heir]:
        numbers_below("experts", experts, layer.num_experts, name)
        _check_sums("experts", name, layer)
        if len(experts) < 2:
            raise ValueError(f"`experts` must name at least 2 to be merged, got {list(experts)}")
        numbers = sorted(map(int, experts))
        one = Heir(_parts(numbers, use.get(name)), dict.fromkeys(numbers, 1.0))
        old = (one if k == numbers[0] else kept(k) for k in range(layer.num_experts))
        return [heir for k, heir in enumerate(old) if k not in numbers[1:]]

    by_mixture = _heirs(model, tower, heirs)
    with preserved_generators():
        Transplant(model, by_mixture, shares=True).put_in()
    note(model, "merge", by_mixture, experts=sorted(map(int, experts)))


def countable(policy: MoEPolicy, tower: str | None) -> dict[str, MoELayer]:
    """Return the mixtures of a tower whose number of experts can change.

    :param policy: one of ours
    :param tower: None: of each
    :raises ValueError: if there is none, or they can't
    """
    if any(masks_in(optimizer) for optimizer in networks_of(policy).every_optimizer()):
        raise ValueError(
            "`model` must not train sparsely: SparseTrainingCallback keeps a mask for each "
            "tensor, and those of other experts would have none; sb3_moe.growing.drop_masks"
            "(model) ends sparse training"
        )
    layers = policy.moe_layers()
    kinds = sorted(set(map(kind_of, layers)))
    if layers and tower is not None and tower not in kinds:
        raise ValueError(
            f"`tower` must be one of {kinds}, whose mixtures have a number of experts together, "
            f"got {tower!r}"
        )
    if tower is not None or not layers:  # else it says that there are none
        layers = policy.mixtures(str(tower))
    found = {n: each for n, each in layers.items() if not _is_task_head(policy, n, each)}
    for name, layer in (found or dict(layers)).items():
        if layer.needs_tasks:
            raise ValueError(
                f"`router`={layer.name!r} has an expert for each task in {name}, so their number "
                "can't change: upcycle a dense model with `env` of other tasks instead"
            )
        if layer.edit_gates is not None:
            raise ValueError(
                f"`model` must not be inside without_expert, only_expert or swap_experts, got "
                f"{name} with experts switched off or swapped"
            )
    return found


def _is_task_head(policy: MoEPolicy, name: str, layer: MoELayer) -> bool:
    """Say whether a layer is a head by task, which stands beside the tower's own experts."""
    options = policy.moe[kind_of(name)]
    head = options.head_router_class
    return head is not None and isinstance(layer, head) and not options.router_class.needs_tasks


def _check_share(share: float | None, n: int) -> None:
    if share is None:
        return
    not_negative("share", share)
    if not 0.0 < share * n < 1.0:
        raise ValueError(f"`share` must be in (0, 1/n), n={n}, got {share}")


def _default_share(layer: MoELayer, n: int, like: int | None) -> float:
    # Where some are chosen it is one of original and copies that is left out.
    alike = like is not None and meets_all(layer)
    return 1.0 / (n + 1) if alike else min(SHARE, 0.5 / n)


def _use(policy: MoEPolicy, probe: Any) -> dict[str, th.Tensor]:
    """Return the mean size of each expert's gates on observations, (E,), by mixture.

    Linear ones may be negative, and with weights of both signs an average is none.
    """
    return {
        name: routing.gates_BNE.abs().mean((0, 1)).double().cpu()
        for name, routing in policy.routing(probe).items()
    }


def _parts(numbers: Sequence[int], use_E: th.Tensor | None) -> dict[int, float]:
    """Return how much each expert counts, 1 in all."""
    use = [1.0 if use_E is None else float(use_E[k]) for k in numbers]
    total = sum(use)
    if not math.isfinite(total):
        raise ValueError(f"`probe` must be observations on which gates are numbers, got {use}")
    if total <= 0.0:  # nobody was used: all count the same
        use, total = [1.0] * len(numbers), float(len(numbers))
    return {k: each / total for k, each in zip(numbers, use, strict=True)}


def _heirs(model: BaseAlgorithm, tower: str | None, make: MakeHeirs) -> dict[str, list[Heir]]:
    """Return what the experts of each mixture come from.

    :param make: from a mixture's name and layer
    """
    model_of_sb3(model)
    return {name: make(name, layer) for name, layer in countable(policy_of(model), tower).items()}


def _check_sums(argument: str, name: str, layer: MoELayer) -> None:
    combination = layer.experts.combination
    if combination is not None:
        raise ValueError(
            f"`{argument}` needs experts whose outputs are summed as they are, or else two are not "
            f"what one was, got {name} with {combination.__name__}"
        )
