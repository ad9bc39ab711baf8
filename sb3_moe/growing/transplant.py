"""Put layers with other experts into a model that goes on: its policy, optimizers and targets.

All else stays the very object that it was: networks, environments, noise, callbacks' references.
Nothing is changed before everything is known to fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.copy_map import CopyMap, Entry, Origin, itself
from sb3_moe.growing.gates import Heir, kept, options_for_others, share_out
from sb3_moe.layers import MoELayer
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import per_network
from sb3_moe.policies.parts import MoEPart


class Transplant:
    """Layers with other experts, made ready for a model.

    :param model: whose policy is one of ours; it stays as it is until :meth:`put_in`
    :param heirs: what each expert comes from, by mixture; of one network they are equally many
    :param shares: whether gates are shared out anew
    :param perturb: how far copies start apart, as a share of the size of their last weights
    :raises ValueError: if the options don't fit so many experts, or the layers can't be known
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        heirs: Mapping[str, Sequence[Heir]],
        *,
        shares: bool,
        perturb: float = 0.0,
    ) -> None:
        self.model: Any = model
        self.policy: Any = policy_of(model)
        self.heirs = heirs
        self.frozen = self.policy.frozen_experts or {}
        self.options = _options(self.policy, heirs, shares=shares)
        self.built = _built(self.policy, self.options)
        self.map = CopyMap(self.built, self.policy)
        layers, built = self.policy.moe_layers(), self.built.moe_layers()
        self.layers: dict[MoELayer, MoELayer] = {layers[name]: built[name] for name in heirs}
        for name, own in heirs.items():
            old, new = layers[name], built[name]
            self.map.entries += _of_experts(self.map, old, new, own)
            self.map.entries += _of_router(self.map, old, new, own)
            if perturb:
                _move_copies_apart(self.map, old, new, own, perturb, self.frozen.get(name, ()))
        ours, theirs = networks_of(self.built), networks_of(self.policy)
        self.map.write(ours, theirs)
        #: The layers of target networks too.
        self.pairs = dict(self.layers)
        for (old, new), own in zip(self.layers.items(), heirs.values(), strict=True):
            _finish(old, new, own if shares else None)
            old_target, new_target = theirs.follower(old), ours.follower(new)
            if isinstance(old_target, MoELayer) and isinstance(new_target, MoELayer):
                self.pairs[old_target] = new_target
                _finish(old_target, new_target, own if shares else None)

    # What changes the model.

    def put_in(self) -> None:
        """Change the model."""
        heirs = next(iter(self.heirs.values()))
        self.policy.follow_experts([h.weights for h in heirs], [h.gates for h in heirs])
        networks = networks_of(self.policy).optimizers()
        changes = [self._state(each, network) for network, each in networks.items()]
        kept = [(*each, self._anchors(*each)) for each in kept_for_penalties(self.model)]
        buffers = self._running_buffers()
        for network in [m for m in self.policy.modules() if isinstance(m, MoENetwork)]:
            for i, block in enumerate(network.blocks):
                if isinstance(block, MoELayer):
                    network.blocks[i] = self.pairs.get(block, block)
        for optimizer, parameters, states in changes:
            optimizer.param_groups[0]["params"] = parameters
            optimizer.state.clear()
            optimizer.state.update(states)
        for name, value in vars(self.model).items():
            if "batch_norm_stats" in name:
                vars(self.model)[name] = [buffers.get(t.data_ptr(), t) for t in value]
        for place, key, _, arrays in kept:
            place[key] = arrays
        self._set_options()

    def _state(
        self, optimizer: th.optim.Optimizer, network: str
    ) -> tuple[th.optim.Optimizer, list[th.Tensor], dict[th.Tensor, Any]]:
        """Return an optimizer's tensors in the order that a loaded model has, and their states.

        :param network: which it is of
        """
        if len(optimizer.param_groups) > 1:
            raise ValueError(
                "`model` must have optimizers with one group of parameters for experts to join or "
                f"leave, as SB3 builds them, got {len(optimizer.param_groups)}"
            )
        names = {p: name for name, p in self.built.named_parameters()}
        coming = {p for layer in self.pairs.values() for p in layer.parameters()}
        counterpart = networks_of(self.built).optimizers()[network].param_groups[0]["params"]
        parameters = [
            p if p in coming else self.policy.get_parameter(names[p]) for p in counterpart
        ]
        known = {p: state for p, state in optimizer.state.items() if state}
        found = self.map.states(known, optimizer, parameters, self.layers.values())
        stay = {p: state for p, state in known.items() if p in set(parameters)}
        return optimizer, parameters, stay | found

    def _anchors(self, place: dict[str, Any], key: str, are_strengths: bool) -> dict[str, Any]:
        """Return where penalties will draw weights to, or how strongly.

        An expert that stays is drawn to where it was drawn before, a copy to where its original is,
        and one made of several to the mean of theirs, as its weights are. One that starts anew
        starts where it is now; neither it nor a copy is held by tasks that ended before it joined.
        """
        arrays, new = place[key], self.map.new
        before = {p: name for name, p in self.policy.named_parameters()}
        gone = {before[p] for layer in self.layers for p in layer.parameters()}
        found = {name: array for name, array in arrays.items() if name not in gone}
        if not arrays:  # nothing is drawn anywhere yet
            return found
        held = CopyMap(self.built, self.policy)
        held.entries = [
            entry
            for entry in self.map.entries
            if entry.origins and not (entry.joins if are_strengths else entry.learns_anew)
        ]
        was = held.old.row(lambda each: _tensor(arrays.get(before.get(each, ""))))
        row = held.follow(new.row(th.zeros_like if are_strengths else itself), was)
        coming = {p for layer in self.layers.values() for p in layer.parameters()}
        for name, parameter in self.built.named_parameters():
            values = row[new.places(parameter)]
            if parameter in coming and not values.isnan().any():
                found[name] = values.to(parameter.dtype).numpy()
        return found

    def _running_buffers(self) -> dict[int, th.Tensor]:
        """Return what comes in place of buffers that SB3 copies to targets, by where they lie."""
        return {
            buffer.data_ptr(): new.get_buffer(name).detach()
            for old, new in self.pairs.items()
            for name, buffer in old.named_buffers()
            if "running_" in name and name in dict(new.named_buffers())
        }

    def _set_options(self) -> None:
        policy = self.policy
        policy.moe_options = policy.moe_options | self.options
        policy.moe = per_network(policy.moe_options, policy.network_names)
        for part in policy.modules():
            if isinstance(part, MoEPart):
                network = "qf" if part.judges_actions or "pi" not in policy.network_names else "pi"
                part.given = part.given | policy.moe[network].by_name()
        frozen = {name: ks for name, ks in self.frozen.items() if name not in self.heirs}
        for name, heirs in self.heirs.items():
            still = set(self.frozen.get(name, ()))
            frozen[name] = [
                x for x, h in enumerate(heirs) if h.stays and h.weights and still >= set(h.weights)
            ]
        self.model.policy_kwargs = {**self.model.policy_kwargs, **self.options}
        set_frozen(self.model, frozen)


def set_frozen(model: Any, frozen: Mapping[str, Sequence[int]]) -> None:
    """Freeze experts, and these alone, in a model and its arguments.

    :param frozen: their numbers, by mixture
    """
    policy = policy_of(model)
    policy.set_frozen_experts(frozen)
    model.policy_kwargs = {k: v for k, v in model.policy_kwargs.items() if k != "frozen_experts"}
    if policy.frozen_experts is not None:
        model.policy_kwargs["frozen_experts"] = policy.frozen_experts


def kept_for_penalties(model: BaseAlgorithm) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """Yield where arrays by parameter are that callbacks keep on a model for penalties.

    A dict, the key in it, and whether they say how strongly weights are drawn rather than where.
    """
    if "initial_weights" in vars(model):
        yield vars(model), "initial_weights", False
    for anchors in vars(model).get("anchors", {}).values():
        yield anchors, "weights", False
        yield anchors, "strengths", True


def _tensor(array: Any) -> th.Tensor | None:
    return None if array is None else th.as_tensor(array)


# Where experts come from.


def _of_experts(
    map_: CopyMap, old: MoELayer, new: MoELayer, heirs: Sequence[Heir]
) -> Iterator[Entry]:
    """Yield where the numbers of experts come from."""
    before = map_.old.experts(old.experts)
    for own, heir in zip(map_.new.experts(new.experts), heirs, strict=True):
        for i, leaf in enumerate(own):
            for name, into in leaf.places.items():
                yield _entry(into, heir, {k: before[k][i].places[name] for k in heir.weights})


def _entry(into: th.Tensor, heir: Heir, places: Mapping[int, th.Tensor]) -> Entry:
    weights = heir.weights.items()
    origins = [Origin(places[k], weight, heir.gates.get(k, 0.0)) for k, weight in weights]
    return Entry(into, origins, joins=heir.is_new or not heir.stays, learns_anew=heir.is_new)


def _of_router(
    map_: CopyMap, old: MoELayer, new: MoELayer, heirs: Sequence[Heir]
) -> Iterator[Entry]:
    """Yield where the numbers of a router come from; a new expert has the mean of the scores.

    :raises ValueError: if it has tensors of which that is not known
    """
    axes, before = new.expert_axes(), _own_tensors(old)
    for name, tensor in _own_tensors(new).items():
        if name in axes and name not in before:
            continue  # what is added to scores, and shared out later
        axis = axes.get(name)
        into = _parts(map_.new.places(tensor), axis, new.num_experts)
        origins = _parts(map_.old.places(before[name]), axis, old.num_experts)
        if into[0].shape != origins[0].shape:
            raise ValueError(
                f"`router`={new.name!r} must have a part as large for each expert, on the axis "
                f"that its `expert_axes` names, and the same `num_slots` in each mixture, got "
                f"{name!r} of shape {[*tensor.shape]} in place of {[*before[name].shape]}"
            )
        mean = [Origin(each, 1.0 / old.num_experts) for each in origins]
        for own, heir in zip(into, [kept(0)] if axis is None else heirs, strict=True):
            entry = _entry(own, heir, dict(enumerate(origins)))
            yield entry._replace(origins=mean) if heir.is_new else entry


def _parts(places: th.Tensor, axis: int | None, num_experts: int) -> Sequence[th.Tensor]:
    """Return each expert's part of a tensor, or all of it where there is no such axis."""
    return [places] if axis is None else places.unflatten(axis, (num_experts, -1)).unbind(axis)


def _own_tensors(layer: MoELayer) -> dict[str, th.Tensor]:
    """Return a layer's parameters and buffers besides those of its experts."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor for name, tensor in named if not name.startswith("experts.")}


def _move_copies_apart(
    map_: CopyMap,
    old: MoELayer,
    new: MoELayer,
    heirs: Sequence[Heir],
    perturb: float,
    frozen: Sequence[int],
) -> None:
    """Move the last weights of copies, and of originals that aren't frozen, apart."""
    ours, theirs = map_.new.experts(new.experts), map_.old.experts(old.experts)
    for k in {k for heir in heirs if not heir.stays for k in heir.weights}:
        movers = {
            x: heir.gates[k]
            for x, heir in enumerate(heirs)
            if set(heir.weights) == {k} and not (heir.stays and k in frozen)
        }
        if not all(ours[x][-1].is_linear for x in movers):
            raise ValueError(
                "`perturb` must be 0 with experts whose last layer isn't known to be linear, or "
                f"they must end in an nn.Linear, got {type(new.experts).__name__}"
            )
        lasts = [ours[x][-1].places["weight"] for x in movers]
        if len(lasts) > 1:
            size = map_.size_of(theirs[k][-1].places["weight"])
            map_.move_apart(lasts, [*movers.values()], perturb * size)


# The new policy.


def _options(
    policy: MoEPolicy, heirs: Mapping[str, Sequence[Heir]], *, shares: bool
) -> dict[str, Any]:
    """Return the options that change, each with a value for every network."""
    names = ("num_experts", "num_slots", "router_kwargs")
    found = {
        name: {t: getattr(policy.moe[t], name) for t in policy.network_names} for name in names
    }
    for name, own in heirs.items():
        network = kind_of(name)
        more = options_for_others(policy.moe_layers()[name], shares=shares)
        found["num_experts"][network] = len(own)
        found["num_slots"][network] = more.pop("num_slots", found["num_slots"][network])
        found["router_kwargs"][network] = {
            **(found["router_kwargs"][network] or {}),
            **more,
        } or None
    options = {}
    for name, by_network in found.items():
        first, *others = by_network.values()
        options[name] = first if all(each == first for each in others) else by_network
    per_network(policy.moe_options | options, policy.network_names)
    return options


def _built(policy: Any, options: dict[str, Any]) -> Any:
    """Return a policy like another but for some options, its experts drawn anew."""
    given = networks_of(policy).constructor_arguments() | options
    given.pop("frozen_experts", None)  # these are numbers of the old ones
    return policy.__class__(**given).to(policy.device)


def _finish(old: MoELayer, new: MoELayer, heirs: Sequence[Heir] | None) -> None:
    """Share out gates, if any are, and let a new layer be as the old one is for now."""
    if heirs is not None:
        share_out(new, old, heirs)
    new.train(old.training)
    learns = {name: p.requires_grad for name, p in old.named_parameters()}
    of_router = [on for name, on in learns.items() if not name.startswith("experts.")]
    for name, parameter in new.named_parameters():
        # What a router gets for its new gates is held as all of it is.
        parameter.requires_grad_(learns.get(name, any(of_router) or not of_router))
