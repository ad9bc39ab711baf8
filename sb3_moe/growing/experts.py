"""More experts, or fewer, in a model that goes on training, and experts that stay as they are.

Shapes: E experts.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.gates import Heir, kept, meets_all
from sb3_moe.growing.transplant import Transplant, set_frozen
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, numbers_below, whole
from sb3_moe.policies.masks import forget_masks, masks_in
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import kind_of, networks_of, uncompiled
from sb3_moe.policies.of_model import model_of_sb3, policy_of
from sb3_moe.saving.snapshot import preserved_generators

# The share of all gates that a new expert takes, at most, unless more is asked for.
SHARE = 0.05


def add_experts(
    model: BaseAlgorithm,
    n: int = 1,
    *,
    network: str | None = None,
    like: int | None = None,
    share: float | None = None,
    perturb: float = 0.1,
) -> None:
    """Add experts behind those that a model has, which goes on as before or nearly so.

    A new expert begins as one of a new policy does (``like=None``), or as a copy of another.

    - A copy has the router's weights of its original, and a share of its gates: what both say is
      what one said. So that the two don't stay alike, opposite noise, which cancels, is added to
      their last layers (``perturb``). A frozen original stays as it is, and the copy moves away.
      Under ``"top_k"`` only one of the two may be chosen, with less weight.
    - A new one has the mean of the others' scores, and so at most its share of the gates of any
      sample, which the others lose evenly. ``"top_k"`` does
      not choose it before its score has grown; a large ``share``, ``bias_rate`` or
      ``balance_coef`` makes that soon.

    For that, routers with scores get a number to add to each (``router_kwargs=dict(bias=True)``),
    learned from then on; gates of ``"uniform"`` are all 1/E and can't be shared out. Averages of
    the optimizers follow the gates, a new expert counts its own steps, and target networks get what
    follows the new experts.

    :param model: of any algorithm, with one of this package's policies
    :param n: how many
    :param network: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :param like: the number of the expert to copy; None: they are drawn anew
    :param share: of its original's gates that each copy takes, or of all gates for new ones, in
        (0, 1/n); None: equal parts for copies where every sample meets every expert, else 0.05
    :param perturb: how far copies start apart, as a share of the size of their last weights
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if a value is not valid, the task picks the experts, or the router can't
        share out gates
    """
    transplant = _with_more(model, n, network, like, share, perturb)
    transplant.put_in()
    like = None if like is None else int(like)
    _note(model, "add", transplant.heirs, n=int(n), like=like)


def check_room(model: BaseAlgorithm, n: int) -> None:
    """Check that experts can be added to every mixture, without adding them.

    :param model: of any algorithm, with one of this package's policies
    :param n: how many
    :raises ValueError: if they can't
    """
    with preserved_generators():
        _with_more(model, n)


def _with_more(
    model: BaseAlgorithm,
    n: int,
    network: str | None = None,
    like: int | None = None,
    share: float | None = None,
    perturb: float = 0.0,
) -> Transplant:
    """Make layers with more experts ready, as :func:`add_experts` puts them in."""
    whole("n", n)
    not_negative("perturb", perturb)
    if share is not None and not 0.0 < share * n < 1.0:
        raise ValueError(f"`share` must be in (0, 1/n), n={n}, got {share}")
    found = {}
    for name, layer in changeable(model, network).items():
        heirs = [kept(k) for k in range(layer.num_experts)]
        part = min(SHARE, 0.5 / n) if share is None else share
        joins = Heir(share=part)
        if like is not None:
            numbers_below("like", [like], layer.num_experts, name)
            _check_sums("like", layer)
            # Where some are chosen it is one of original and copies that is left out.
            if share is None and meets_all(layer):
                part = 1.0 / (n + 1)
            heirs[like] = kept(like, 1.0 - n * part)
            joins = Heir({like: 1.0}, {like: part}, stays=False)
        found[name] = heirs + [joins] * n
    return Transplant(model, found, shares=True, perturb=perturb)


def remove_experts(
    model: BaseAlgorithm, experts: Sequence[int], *, network: str | None = None
) -> None:
    """Take experts away, as :func:`sb3_moe.without_expert` does for a while, for good.

    The others keep weights, averages and counts bit for bit, and close up in their order.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers, in every mixture of the network
    :param network: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such expert, none would be left, the task picks the experts,
        or the options don't allow so few
    """
    by_mixture = {}
    for name, layer in changeable(model, network).items():
        numbers_below("experts", experts, layer.num_experts, name)
        left = [kept(k) for k in range(layer.num_experts) if k not in set(experts)]
        if not 0 < len(left) < layer.num_experts:
            raise ValueError(f"`experts` must name some of {name}, not all, got {list(experts)}")
        by_mixture[name] = left
    Transplant(model, by_mixture, shares=False).put_in()
    _note(model, "remove", by_mixture, experts=sorted(map(int, experts)))


def merge_experts(
    model: BaseAlgorithm, experts: Sequence[int], *, network: str | None = None
) -> None:
    """Make one expert of several: the average of their weights, with all their gates.

    It takes the place of the first. The router's weights are averaged too, and the merged expert
    gets the sum of the gates. Merging experts that are alike changes nothing, except under
    ``"top_k"``, which had chosen only some of them. If all are frozen, so is the merged one.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers, two or more, in every mixture of the network
    :param network: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such expert, fewer than two are named, the task picks the
        experts, or the router can't share out gates
    """
    by_mixture = {}
    for name, layer in changeable(model, network).items():
        numbers_below("experts", experts, layer.num_experts, name)
        _check_sums("experts", layer)
        if len(experts) < 2:
            raise ValueError(f"`experts` must name at least 2 to be merged, got {list(experts)}")
        first, *others = numbers = sorted(map(int, experts))
        heirs = {k: kept(k) for k in range(layer.num_experts) if k not in others}
        parts = dict.fromkeys(numbers, 1.0 / len(numbers))
        heirs[first] = Heir(parts, dict.fromkeys(numbers, 1.0))
        by_mixture[name] = [*heirs.values()]
    Transplant(model, by_mixture, shares=True).put_in()
    _note(model, "merge", by_mixture, experts=sorted(map(int, experts)))


def changeable(model: BaseAlgorithm, network: str | None = None) -> dict[str, MoELayer]:
    """Return the mixtures whose number of experts can change.

    :param model: of any algorithm, with one of this package's policies
    :param network: whose; None: of each
    :raises ValueError: if there is none, or they can't
    """
    model_of_sb3(model)
    policy = policy_of(model)
    if any(masks_in(optimizer) for optimizer in networks_of(policy).every_optimizer()):
        raise ValueError("`model` must not train sparsely: growing.drop_masks(model) ends that")
    layers = _mixtures(policy)
    kinds = sorted(set(map(kind_of, layers)))
    if network not in (None, *kinds):
        raise ValueError(f"`network` must be one of {kinds}, got {network!r}")
    found = {
        name: layer
        for kind in kinds
        if network in (None, kind)
        for name, layer in policy.mixtures(kind).items()
    }
    for name, layer in found.items():
        if layer.needs_tasks:
            raise ValueError(
                f"`router`={layer.name!r} has an expert for each task in {name}, no more or less"
            )
    return found


def _mixtures(policy: MoEPolicy, network: str | None = None) -> dict[str, MoELayer]:
    layers = policy.moe_layers()
    # If there are none, or no such ones, `mixtures` says so.
    return layers if network is None and layers else policy.mixtures(str(network))


def _check_sums(argument: str, layer: MoELayer) -> None:
    combination = layer.experts.combination
    if combination is not None:
        raise ValueError(f"`{argument}` needs `combine`='sum', got {combination.__name__}")


# Experts that stay as they are.


def freeze_experts(
    model: BaseAlgorithm, experts: Sequence[int] | None = None, *, network: str | None = None
) -> None:
    """Keep experts as they are from now on: weights, averages and counts, bit for bit.

    Their gradients are zero, so that clipping doesn't count them. Routers go on learning how much
    the experts count. Target networks follow as before. Files keep it as the option
    ``frozen_experts``.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all that there are now
    :param network: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole
        name; None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such network or expert, or the optimizer can't hold
        experts
    """
    _change(model, experts, network, freeze=True)


def thaw_experts(
    model: BaseAlgorithm, experts: Sequence[int] | None = None, *, network: str | None = None
) -> None:
    """Let frozen experts learn again, as if there had been no gap.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all
    :param network: as of :func:`freeze_experts`
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such network or expert
    """
    _change(model, experts, network, freeze=False)


def _change(
    model: BaseAlgorithm, experts: Collection[int] | None, network: str | None, *, freeze: bool
) -> None:
    model_of_sb3(model)
    policy = policy_of(model)
    chosen = _mixtures(policy, network)
    frozen = {name: set(numbers) for name, numbers in (policy.frozen_experts or {}).items()}
    for name, each in chosen.items():
        numbers = range(each.num_experts) if experts is None else experts
        numbers_below("experts", numbers, each.num_experts, name)
        old = frozen.get(name, set())
        frozen[name] = old | set(numbers) if freeze else old - set(numbers)
    set_frozen(model, {name: sorted(numbers) for name, numbers in frozen.items()})
    listed = None if experts is None else sorted(map(int, experts))
    _note(model, "freeze" if freeze else "thaw", chosen, experts=listed)


def _note(model: BaseAlgorithm, what: str, mixtures: Iterable[str], **how: Any) -> None:
    """Add a line to ``model.expert_log``, and log how many experts there are now.

    A line has the ``step``, ``what`` was done, to which ``mixtures``, and its arguments. SB3 and
    this package keep it in files; a model has it from the first change.

    :param model: after the change
    """
    policy = policy_of(model)
    line = {"step": model.num_timesteps, "what": what, "mixtures": list(mixtures), **how}
    vars(model).setdefault("expert_log", []).append(line)
    if not hasattr(model, "_logger"):
        return  # it has not learned yet
    for name in line["mixtures"]:
        layer = policy.moe_layers()[name]
        model.logger.record(f"experts/number/{name}", layer.num_experts)
        model.logger.record(f"experts/frozen/{name}", len(layer.frozen))


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
