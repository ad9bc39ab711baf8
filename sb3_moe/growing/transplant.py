"""Put layers with other experts into a model that goes on: its policy, optimizers and targets.

All else stays the very object that it was: networks, environments, noise, callbacks' references.
Nothing is changed before everything is known to fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.anchors import carried_anchors, kept_for_penalties
from sb3_moe.growing.copying import (
    Entry,
    carried_states,
    steps_by_expert,
    write_targets,
    write_weights,
)
from sb3_moe.growing.expert_map import expert_map, moves_apart
from sb3_moe.growing.numbers import Numbers
from sb3_moe.growing.routers import Heir, options_for_others, output_scales, share_out
from sb3_moe.layers import MoELayer
from sb3_moe.measures.gradients import KEPT
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import per_tower
from sb3_moe.policies.parts import MoEPart
from sb3_moe.policies.towers import MoEBlock


class Transplant:
    """Layers with other experts, made ready for a model.

    :param model: whose policy is one of ours; it stays as it is until :meth:`put_in`
    :param heirs: what each expert comes from, by mixture; of one tower they are equally many
    :param shares: whether gates are shared out anew
    :param perturb: how far copies start apart, as a share of the size of their last weights
    :ivar scaled: names of the mixtures whose experts' weights are scaled
    :raises ValueError: if the options don't fit so many experts, the layers can't be known, or an
        optimizer has several groups of parameters
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
        self.policy = policy_of(model)
        self.heirs = heirs
        self.scaled: list[str] = []
        _check_groups(self.policy)
        self.options = _options(self.policy, heirs, shares=shares)
        self.built = _built(self.policy, self.options)
        self.new, self.old = Numbers(self.built), Numbers(self.policy)
        layers, built = self.policy.moe_layers(), self.built.moe_layers()
        self.layers = {layers[name]: built[name] for name in heirs}
        self.entries = list(self._map(shares=shares, perturb=perturb))
        rows, networks = (self.entries, self.new, self.old), networks_of(self.built)
        write_weights(*rows)
        write_targets(*rows, networks, networks_of(self.policy))
        #: The layers of target networks too.
        self.pairs = dict(self.layers)
        for (old, new), own in zip(self.layers.items(), heirs.values(), strict=True):
            self._finish(old, new, own if shares else None)
            behind = networks_of(self.policy).follower(old), networks.follower(new)
            if isinstance(behind[0], MoELayer) and isinstance(behind[1], MoELayer):
                self.pairs[behind[0]] = behind[1]
                self._finish(behind[0], behind[1], own if shares else None)

    def _map(self, *, shares: bool, perturb: float) -> Iterator[Entry]:
        numbers = self.new, self.old
        for (name, heirs), (old, new) in zip(self.heirs.items(), self.layers.items(), strict=True):
            frozen = (self.policy.frozen_experts or {}).get(name, ())
            scales = output_scales(old, heirs) if shares else [1.0] * len(heirs)
            if any(scale != 1.0 for scale in scales):
                self.scaled.append(name)
                _check_scaled(name, old, frozen)
            yield from expert_map(new, old, numbers, heirs, scales)
            yield from moves_apart(new, old, numbers, heirs, perturb, frozen)

    @staticmethod
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

    # What changes the model.

    def put_in(self) -> None:
        """Change the model."""
        frozen = self._frozen()
        towers = networks_of(self.policy).optimizers()
        changes = [self._state(each, tower) for tower, each in towers.items()]
        anchors = self._anchors()
        buffers = self._running_buffers()
        for block in [m for m in self.policy.modules() if isinstance(m, MoEBlock)]:
            block.layer = self.pairs.get(block.layer, block.layer)
        for optimizer, parameters, states in changes:
            optimizer.param_groups[0]["params"] = parameters
            optimizer.state.clear()
            optimizer.state.update(states)
        for name, value in vars(self.model).items():
            if "batch_norm_stats" in name:
                vars(self.model)[name] = [buffers.get(t.data_ptr(), t) for t in value]
        for kept, arrays in anchors:
            kept.place[kept.key] = arrays
        vars(self.model).pop(KEPT, None)  # of tensors that go
        self._set_options(frozen)

    def _state(
        self, optimizer: th.optim.Optimizer, tower: str
    ) -> tuple[th.optim.Optimizer, list[th.Tensor], dict[th.Tensor, Any]]:
        """Return an optimizer's tensors in the order that a loaded model has, and their states.

        :param tower: which it is of
        """
        names = {p: name for name, p in self.built.named_parameters()}
        coming = {p for layer in self.pairs.values() for p in layer.parameters()}
        counterpart = networks_of(self.built).optimizers()[tower].param_groups[0]["params"]
        parameters = [
            p if p in coming else self.policy.get_parameter(names[p]) for p in counterpart
        ]
        known = {p: state for p, state in optimizer.state.items() if state}
        shares = [share for each in self.layers.values() for share in each.experts.shares()]
        experts = steps_by_expert(optimizer, shares)
        rows = (self.entries, self.new, self.old)
        found = carried_states(*rows, known, optimizer, parameters, experts)
        kept = {p: state for p, state in known.items() if p in set(parameters)}
        return optimizer, parameters, kept | found

    def _frozen(self) -> dict[str, list[int]]:
        old = self.policy.frozen_experts or {}
        new = {name: ks for name, ks in old.items() if name not in self.heirs}
        for name, heirs in self.heirs.items():
            still = set(old.get(name, ()))
            new[name] = [
                x for x, h in enumerate(heirs) if h.stays and h.weights and still >= set(h.weights)
            ]
        return new

    def _anchors(self) -> list[Any]:
        """Return what penalties will draw weights to."""
        before, after = (
            {p: name for name, p in policy.named_parameters()}
            for policy in (self.policy, self.built)
        )
        gone = {before[p] for layer in self.layers for p in layer.parameters()}
        coming = {p: after[p] for layer in self.layers.values() for p in layer.parameters()}
        rows = (self.entries, self.new, self.old)
        return [
            (kept, carried_anchors(kept, *rows, before, coming, gone))
            for kept in kept_for_penalties(self.model)
        ]

    def _running_buffers(self) -> dict[int, th.Tensor]:
        """Return what comes in place of buffers that SB3 copies to targets, by where they lie."""
        return {
            buffer.data_ptr(): new.get_buffer(name).detach()
            for old, new in self.pairs.items()
            for name, buffer in old.named_buffers()
            if "running_" in name and name in dict(new.named_buffers())
        }

    def _set_options(self, frozen: Mapping[str, Sequence[int]]) -> None:
        policy = self.policy
        policy.moe_options = policy.moe_options | self.options
        policy.moe = per_tower(policy.moe_options, policy.towers)
        for part in policy.modules():
            if isinstance(part, MoEPart):
                tower = "qf" if part.judges_actions or "pi" not in policy.towers else "pi"
                part.given = part.given | policy.moe[tower].by_name()
        policy.set_frozen_experts(frozen)
        kwargs = {**self.model.policy_kwargs, **self.options}
        self.model.policy_kwargs = with_frozen(kwargs, policy)


def needs_thawed(name: str, layer: MoELayer, frozen: Collection[int]) -> str:
    """Say why experts can't join a mixture whose experts would be scaled.

    :param name: of the mixture
    :param layer: the mixture
    :param frozen: experts that must stay as they are
    """
    return (
        f"`router`={layer.name!r} can share out gates by the experts' weights alone, and those of "
        f"{sorted(frozen)} of {name} are frozen: thaw them first"
    )


def with_frozen(kwargs: Mapping[str, Any], policy: MoEPolicy) -> dict[str, Any]:
    """Return a policy's arguments with the experts that are frozen now.

    :param kwargs: as a model keeps them
    :param policy: whose experts are meant
    """
    found = {name: value for name, value in kwargs.items() if name != "frozen_experts"}
    if policy.frozen_experts is not None:
        found["frozen_experts"] = policy.frozen_experts
    return found


def _check_groups(policy: MoEPolicy) -> None:
    for optimizer in networks_of(policy).every_optimizer():
        if len(optimizer.param_groups) > 1:
            raise ValueError(
                "`model` must have optimizers with one group of parameters for experts to join or "
                f"leave, as SB3 builds them, got {len(optimizer.param_groups)} in "
                f"{type(optimizer).__name__}"
            )


def _check_scaled(name: str, old: MoELayer, frozen: Collection[int]) -> None:
    if frozen:
        raise ValueError(needs_thawed(name, old, frozen))
    if old.experts.combination is not None:
        raise ValueError(
            f"`router`={old.name!r} can share out gates by the size of the experts' "
            f"outputs alone, which `combine` takes away in {name}"
        )


def _options(
    policy: MoEPolicy, heirs: Mapping[str, Sequence[Heir]], *, shares: bool
) -> dict[str, Any]:
    """Return the options that change, each with a value for every tower."""
    names = ("num_experts", "num_slots", "router_kwargs")
    found = {name: {t: getattr(policy.moe[t], name) for t in policy.towers} for name in names}
    slots: dict[str, int] = {}
    for name, own in heirs.items():
        tower = kind_of(name)
        more = options_for_others(policy.moe_layers()[name], shares=shares)
        found["num_experts"][tower] = len(own)
        if (number := more.pop("num_slots", None)) is not None:
            if slots.setdefault(tower, number) != number:
                raise ValueError(
                    f"`num_slots` must be the same in every mixture of {tower!r} for experts to "
                    f"join or leave, got {slots[tower]} and {number}: mixtures of images' tokens "
                    "and of single ones have others, unless you give their number"
                )
            found["num_slots"][tower] = number
        kwargs = dict(found["router_kwargs"][tower] or {}) | more
        found["router_kwargs"][tower] = kwargs or None
    options = {name: _plain(by_tower) for name, by_tower in found.items()}
    per_tower(policy.moe_options | options, policy.towers)
    return options


def _plain(by_tower: Mapping[str, Any]) -> Any:
    """Return one value where all towers have the same."""
    first, *others = by_tower.values()
    return first if all(each == first for each in others) else dict(by_tower)


def _built(policy: Any, options: dict[str, Any]) -> Any:
    """Return a policy like another but for some options, its experts drawn anew."""
    given = networks_of(policy).constructor_arguments() | options
    given.pop("frozen_experts", None)  # these are numbers of the old ones
    return policy.__class__(**given).to(policy.device)
