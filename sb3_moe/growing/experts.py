"""Add, remove, merge and freeze the experts of a model that goes on training.

Shapes: E experts.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.gates import Heir, kept
from sb3_moe.growing.models import refuse_masks
from sb3_moe.growing.transplant import Transplant, set_frozen
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, numbers_below, whole
from sb3_moe.policies.masks import forget_masks
from sb3_moe.policies.networks import kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.saving.snapshot import preserved_generators

# The default of `share`: how much of all gates a new expert takes at most.
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
    """Add experts after those that a model has; its outputs stay the same, or nearly so.

    A new expert starts with fresh weights (``like=None``), or as a copy of another expert.

    - A copy has the router's weights of its original and a share of its gates, so both together
      output what the original did. So that the two don't stay equal, opposite noise, which cancels,
      is added to their last layers (``perturb``). A frozen original gets no noise: training moves
      the copy away from it. ``"top_k"`` may choose only one of the two, which then has less weight.
    - A fresh expert has the mean of the others' scores, and so at most its share of the gates of
      any sample. The gates of all others shrink by one factor. ``"top_k"`` does not choose it until
      its score has grown; a large ``share``, ``bias_rate`` or ``balance_coef`` speeds that up.
      Under ``"expert_choice"`` outputs change by more, since each expert chooses fewer tokens.

    To set the gates, routers with scores get a bias for each score
    (``router_kwargs=dict(bias=True)``), which is learned from then on. The gates of ``"uniform"``
    are all 1/E and can't be shared out. The optimizers' running averages of copies and their
    originals are scaled as the gates are, a new expert starts its own count of steps, and target
    networks get the new experts too.

    :param model: of any algorithm, with one of this package's policies
    :param n: how many experts to add
    :param network: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :param like: the number of the expert to copy; None: new experts get fresh weights
    :param share: the part of its original's gates that each copy takes, or the part of all gates
        that each fresh expert takes, in (0, 1/n); None: equal parts for copies if every token meets
        every expert, else 0.05, or 0.5/n if that is less
    :param perturb: size of the noise on copies, relative to the weights of their last layer
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
    """Prepare the layers with more experts that :func:`add_experts` puts into a model."""
    whole("n", n)
    not_negative("perturb", perturb)
    if share is not None and not 0.0 < share * n < 1.0:
        raise ValueError(f"`share` must be in (0, 1/n), n={n}, got {share}")
    found = {}
    for name, layer in changeable(model, network).items():
        heirs = [kept(k) for k in range(layer.num_experts)]
        part = min(SHARE, 0.5 / n) if share is None else share
        joins = Heir(share=part, age="new")
        if like is not None:
            numbers_below("like", [like], layer.num_experts, name)
            _check_sums("like", layer)
            # Not if the router may leave the copies out: then the original keeps most of its gate.
            if share is None and getattr(layer, "top_k", None) is None:
                part = 1.0 / (n + 1)
            heirs[like] = kept(like, 1.0 - n * part)
            joins = Heir({like: 1.0}, {like: part}, age="copied")
        found[name] = heirs + [joins] * n
    return Transplant(model, found, shares=True, perturb=perturb)


def remove_experts(
    model: BaseAlgorithm, experts: Sequence[int], *, network: str | None = None
) -> None:
    """Remove experts permanently; :func:`sb3_moe.without_expert` switches one off temporarily.

    The other experts keep weights, optimizer averages and step counts bit for bit. They stay in
    their order and are numbered from 0 again.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers, in every mixture of the network
    :param network: ``"pi"``, ``"vf"`` or ``"qf"`` (all critics); None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such expert, none would be left, the task picks the experts,
        or the options need more experts than are left
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
    """Merge several experts into one with the mean of their weights, which takes over their gates.

    It takes the place of the first. The router's weights are averaged too: the merged expert gets
    the sum of the gates, but only roughly if the router scores the experts differently. Merging
    equal experts changes nothing, except under ``"top_k"``, which may have chosen only some of
    them. If all are frozen, so is the merged one.

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
    :param network: whose mixtures to return; None: those of every network
    :raises ValueError: if there is no such mixture, or its number of experts can't change
    """
    policy = policy_of(model)
    refuse_masks(policy)
    found = policy.mixtures(network)
    kinds = sorted(set(map(kind_of, policy.moe_layers())))
    if network not in (None, *kinds):
        raise ValueError(f"`network` must be one of {kinds}, got {network!r}")
    for name, layer in found.items():
        if layer.needs_tasks:
            raise ValueError(
                f"`router`={layer.name!r} needs exactly one expert for each task in {name}"
            )
        if layer.sees == "belief":
            raise ValueError(
                f"`router`={layer.name!r} needs exactly one expert for each model of the belief in "
                f"{name}: begin with spare models, as VecBelief(active=2) does, of which "
                "NewTaskCallback(add_expert=True) gives one to each new task"
            )
    return found


def _check_sums(argument: str, layer: MoELayer) -> None:
    combination = layer.experts.combination
    if combination is not None:
        raise ValueError(f"`{argument}` needs `combine`='sum', got {combination.__name__}")


# Frozen experts.


def freeze_experts(
    model: BaseAlgorithm, experts: Sequence[int] | None = None, *, network: str | None = None
) -> None:
    """Freeze experts: their weights, optimizer averages and step counts stay the same bit for bit.

    Routers go on learning the gates of frozen experts. Target networks go on following them. A
    saved model keeps the numbers of its frozen experts as the option ``frozen_experts``.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all that there are now, heads for tasks included
    :param network: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's whole
        name; None: each that has experts
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such network or expert, or the optimizer is neither Adam nor
        AdamW
    """
    _change(model, experts, network, freeze=True)


def thaw_experts(
    model: BaseAlgorithm, experts: Sequence[int] | None = None, *, network: str | None = None
) -> None:
    """Let frozen experts learn again from where they were frozen.

    :param model: of any algorithm, with one of this package's policies
    :param experts: their numbers; None: all
    :param network: as in :func:`freeze_experts`
    :raises TypeError: if the policy is not one of this package's, or a value of the wrong type
    :raises ValueError: if there is no such network or expert
    """
    _change(model, experts, network, freeze=False)


def _change(
    model: BaseAlgorithm, experts: Collection[int] | None, network: str | None, *, freeze: bool
) -> None:
    policy = policy_of(model)
    chosen = policy.mixtures(network)
    if network is None and experts is None:
        chosen = policy.moe_layers()
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

    A line has the ``step``, ``what`` was done, to which ``mixtures``, and the arguments. A model
    has the attribute from its first change on; files by SB3 and by this package keep it.

    :param model: after the change
    """
    policy = policy_of(model)
    line = {"step": model.num_timesteps, "what": what, "mixtures": list(mixtures), **how}
    vars(model).setdefault("expert_log", []).append(line)
    if not hasattr(model, "_logger"):
        return  # the model has no logger before it learns
    for name in line["mixtures"]:
        layer = policy.moe_layers()[name]
        model.logger.record(f"experts/number/{name}", layer.num_experts)
        model.logger.record(f"experts/frozen/{name}", len(layer.frozen))


def drop_masks(model: BaseAlgorithm) -> None:
    """End sparse training for good: forget the masks that SparseTrainingCallback left.

    The optimizers hold the masks, and so do all files of the model. Weights stay as they are, most
    of them zero, until training changes them; experts can be added, removed and merged again. The
    next SparseTrainingCallback draws masks anew. A model without masks stays as it is.

    :param model: of any algorithm, with SB3's policies or ours
    :raises TypeError: if its policy is of no known class
    """
    for optimizer in networks_of(model.policy).every_optimizer():
        forget_masks(optimizer)
