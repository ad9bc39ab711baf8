"""Reset the heads, optimizers or dormant neurons (ReDo) of a policy, or perturb all its weights.

Shapes: E experts (1 for a dense layer), H units, P positions of a feature map.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative
from sb3_moe.layers.moe import router_tensors
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.measures.hidden import (
    Activations,
    HiddenLayer,
    View,
    heads,
    hidden_layers,
    incoming,
    outgoing,
    policy_activations,
    weight_of,
)
from sb3_moe.measures.plasticity import dormant_mask
from sb3_moe.policies.masks import masked_as_before, moments_in
from sb3_moe.policies.networks import networks_of, uncompiled
from sb3_moe.policies.optimizers import ExpertAdam
from sb3_moe.vec_env.observations import Obs


def fresh_copy(policy: BasePolicy) -> Any:
    """Return a policy built like this one, with weights drawn anew from torch's generator.

    :param policy: of any algorithm
    """
    policy = uncompiled(policy)
    built = policy.__class__(**networks_of(policy).constructor_arguments())
    return built.to(policy.device)


def fresh_modules(policy: BasePolicy) -> dict[nn.Module, nn.Module]:
    """Map each module of a policy to its counterpart in a :func:`fresh_copy`."""
    return dict(zip(uncompiled(policy).modules(), fresh_copy(policy).modules(), strict=True))


def kept_entries(policy: BasePolicy) -> dict[Tensor, Tensor]:
    """Return masks that are True where a tensor's entries are of frozen experts or still routers.

    A router is still if it is held, or never learns.

    :param policy: of any algorithm
    """
    kept: dict[Tensor, Tensor] = {}
    for layer in (each for each in policy.modules() if isinstance(each, MoELayer)):
        of_router = router_tensors(layer).values()
        if not any(each.requires_grad for each in of_router):
            kept |= {tensor: th.ones_like(tensor, dtype=th.bool) for tensor in of_router}
        for share in layer.experts.shares() if layer.frozen else ():
            own = {*range(share.first, share.first + share.num_experts)} & layer.frozen
            mask = kept.setdefault(share.tensor, th.zeros_like(share.tensor, dtype=th.bool))
            mask.view(share.num_experts, -1)[[k - share.first for k in sorted(own)]] = True
    return kept


@contextmanager
def frozen_unchanged(policy: BasePolicy) -> Iterator[None]:
    """Put frozen experts and still routers, and their running averages, back when the block ends.

    :param policy: of any algorithm
    """
    averages = moments(policy)
    kept = [
        (stored.detach(), mask, stored.detach()[mask])
        for tensor, mask in kept_entries(policy).items()
        for stored in (tensor, *averages.get(tensor, ()))
    ]
    yield
    for stored, mask, before in kept:
        stored[mask] = before


@th.no_grad()
def reset_heads(policy: BasePolicy) -> None:
    """Draw the last layer of every network anew (Nikishin et al. 2022, arXiv 2205.07802).

    Optimizers forget their running averages of it, and target networks get the same new head.
    Weights of a head's router stay as they are if other layers share them, or if it never learns.

    :param policy: of any algorithm
    :raises ValueError: if the policy can't be built again
    """
    fresh = fresh_modules(policy)
    networks = networks_of(policy)
    with masked_as_before(policy):
        for head in heads(policy):
            own = _own(head, policy)
            with frozen_unchanged(policy):
                _load(head, fresh[head], own)
                _forget(policy, [p for name, p in head.named_parameters() if name in own])
            if (target := networks.target_of(head)) is not None:
                _load(target, head, own)


def _own(head: nn.Module, policy: BasePolicy) -> set[str]:
    """Return the names of those tensors of a head that it shares with no other layer."""
    paths = policy.named_modules(remove_duplicate=False)
    within = tuple(f"{path}." for path, module in paths if module is head)
    stored = policy.state_dict(keep_vars=True).items()
    others = {id(tensor) for path, tensor in stored if not path.startswith(within)}
    tensors = head.state_dict(keep_vars=True).items()
    return {name for name, tensor in tensors if id(tensor) not in others}


def _load(module: nn.Module, other: nn.Module, names: set[str]) -> None:
    """Copy the tensors of some names into a module from another one that was built alike."""
    new = {name: each for name, each in other.state_dict().items() if name in names}
    module.load_state_dict(module.state_dict() | new)


def _forget(policy: BasePolicy, parameters: list[nn.Parameter]) -> None:
    """Make optimizers forget their running averages of some parameters, and the count of steps.

    After a large count of steps, averages that start at 0 again would make the next steps several
    times too large. But the count of a parameter stays if it holds frozen experts, or experts that
    stay as they are while they are idle: then only the averages become 0.
    """
    kept = {*kept_entries(policy)}
    for optimizer in networks_of(policy).every_optimizer():
        if isinstance(optimizer, ExpertAdam):
            kept |= optimizer.frozen_while_idle().keys()
        averages = moments_in(optimizer)
        for parameter in [each for each in parameters if each in optimizer.state]:
            for moment in averages[parameter]:
                moment.zero_()
            if parameter not in kept:
                del optimizer.state[parameter]


@th.no_grad()
def shrink_and_perturb(policy: BasePolicy, shrink: float = 0.8, perturb: float = 0.2) -> None:
    """Shrink every weight and add part of a newly drawn one (Ash and Adams 2020, arXiv 1910.08475).

    Each online weight becomes ``shrink`` times itself plus ``perturb`` times a newly initialized
    one. The optimizers forget their running averages.

    :param policy: of any algorithm
    :param shrink: in [0, 1]
    :param perturb: at least 0
    :raises ValueError: if a number is out of range, or the policy can't be built again
    """
    check_shrink_and_perturb(shrink, perturb)
    fresh = dict(fresh_copy(policy).named_parameters())
    optimizers = networks_of(policy).every_optimizer()
    groups = [group for each in optimizers for group in each.param_groups]
    learned = {p for group in groups for p in group["params"]} - temperatures_in(policy)
    with masked_as_before(policy), frozen_unchanged(policy):
        for name, parameter in uncompiled(policy).named_parameters():
            if parameter in learned:
                parameter.mul_(shrink).add_(fresh[name], alpha=perturb)
        _forget(policy, list(learned))


def check_shrink_and_perturb(shrink: float, perturb: float) -> None:
    """Refuse factors out of range.

    :raises TypeError: if ``perturb`` is no number
    :raises ValueError: if a number is out of range
    """
    if not 0 <= shrink <= 1:
        raise ValueError(f"`shrink` must be in [0, 1], got {shrink}")
    not_negative("perturb", perturb)


def reset_optimizers(policy: BasePolicy) -> None:
    """Forget the running averages of every optimizer, except those of held routers."""
    held = {tensor for tensor in kept_entries(policy) if not tensor.requires_grad}
    for optimizer in networks_of(policy).every_optimizer():
        for parameter in optimizer.state.keys() - held:
            del optimizer.state[parameter]


def moments(policy: BasePolicy) -> dict[Tensor, list[Tensor]]:
    """Return the optimizers' running averages by parameter."""
    found: dict[Tensor, list[Tensor]] = {}
    for optimizer in networks_of(policy).every_optimizer():
        found |= moments_in(optimizer)
    return found


def resettable_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List the hidden layers of which incoming and outgoing weights are known.

    :raises ValueError: if there is none
    """
    found = [layer for layer in hidden_layers(policy) if layer.readers]
    if not found:
        raise ValueError("`policy` must have a hidden layer between linear or convolutional ones")
    return found


@th.no_grad()
def redo(
    policy: BasePolicy, obs: Obs, tau: float = 0.1, activity: Mapping[str, Tensor] | None = None
) -> dict[str, int]:
    """Reinitialize incoming weights of dormant neurons; set outgoing ones and Adam's moments to 0.

    At tau 0 the outputs of the policy on ``obs`` stay the same, unless a normalization stands
    between silent units and the layers that read them.

    The units of an expert to which a sparse router sends none of ``obs`` (one for another task,
    say) stay as they are: the measures of dormancy count them, but what they would do is unknown.
    Units of frozen experts stay as they are too, and so do units that a frozen expert or a held
    router reads.

    :param policy: of any algorithm; a hidden layer stays as it is unless its incoming and outgoing
        weights are known, see :func:`~sb3_moe.measures.hidden_layers`
    :param obs: observations on which activity is measured; the paper takes 256
    :param tau: units whose score is at most this are dormant
    :param activity: activity of each unit, (E, H) by layer, to be used instead of that on ``obs``,
        such as :func:`~sb3_moe.measures.gradient_activity`; layers that it lacks stay as they are,
        and so do experts whose entries are all 0
    :return: how many neurons were reinitialized in each layer, ``<network>.<index>``
    :raises ValueError: if ``tau`` is negative, no layer can be treated, or the policy can't be
        built again
    """
    layers = resettable_layers(policy)
    activations = policy_activations(policy, obs)
    fresh = fresh_modules(policy)
    averages = moments(policy)
    kept = kept_entries(policy)
    counts = {}
    with masked_as_before(policy), frozen_unchanged(policy):
        for layer in layers:
            seen = activations.get(layer.name)
            given_EH = (activity or {}).get(layer.name)
            if seen is None or (activity is not None and given_EH is None):
                continue
            mask_EH = _to_restart(seen, given_EH, tau)
            positions = seen.values_ETHP.shape[3]
            around = [*_around(layer, mask_EH, positions, fresh)]
            for tensor, view, _ in around:
                if tensor in kept:
                    held = view(kept[tensor] & (tensor != 0))
                    mask_EH &= ~held.reshape(*mask_EH.shape, -1).any(-1)
            for tensor, view, new in around:
                view(tensor)[mask_EH] = 0.0 if new is None else view(new)[mask_EH]
                for moment in averages.get(tensor, ()):
                    view(moment)[mask_EH] = 0.0
            counts[layer.name] = int(mask_EH.sum())
    return counts


def _to_restart(activations: Activations, given_EH: Tensor | None, tau: float) -> Tensor:
    """Return which units are dormant, (E, H), in experts that got any row or gradient."""
    if given_EH is not None:
        return dormant_mask(given_EH, tau) & given_EH.any(1, keepdim=True)
    mask_EH = dormant_mask(activations.activity_EH, tau)
    rows_E = activations.rows_E
    return mask_EH if rows_E is None else mask_EH & (rows_E > 0).unsqueeze(1)


def _around(
    layer: HiddenLayer,
    mask_EH: Tensor,
    positions: int,
    fresh: Mapping[nn.Module, nn.Module],
) -> Iterator[tuple[Tensor, View, Tensor | None]]:
    """List the tensors around a layer, their views by unit, and new values of those before it."""
    assert layer.feeder is not None
    before = [(layer.feeder, incoming(layer.feeder))]
    if layer.norm is not None:  # its statistics too: units were silent
        before.append((layer.norm, lambda tensor: tensor.view(mask_EH.shape)))
    for module, view in before:
        new = fresh[module].state_dict()
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.dim():  # it is no count of batches
                yield tensor, view, new[name]
    for reader in layer.readers:
        num_experts, units = mask_EH.shape
        inputs = units if reader.by_position else units * positions
        yield weight_of(reader.layer), outgoing(reader.layer, num_experts, units, inputs), None
