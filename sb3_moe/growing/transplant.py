"""Put layers with other experts into a model that goes on: its policy, optimisers and targets.

All else stays the very object that it was: networks, environments, noise, callbacks' references.
Nothing is changed before everything is known to fit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.anchors import Arrays, Kept, carried, kept_for_penalties
from sb3_moe.growing.averages import inherited_states
from sb3_moe.growing.heirs import Heir
from sb3_moe.growing.inheritance import Inherited, Origin, inherited
from sb3_moe.growing.parting import move, moves_apart
from sb3_moe.layers import MoELayer, StackedNetwork
from sb3_moe.measures.gradients import KEPT
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import per_tower
from sb3_moe.policies.parts import MoEPart
from sb3_moe.policies.towers import MoEBlock


@dataclass
class _Graft:
    """A layer that takes the place of another.

    :param name: of the mixture
    :param old: what goes
    :param new: what comes
    :param parts: where its numbers come from
    :param is_target: whether it is of a target network
    """

    name: str
    old: MoELayer
    new: MoELayer
    parts: list[Inherited]
    is_target: bool


class Transplant:
    """Layers with other experts, made ready for a model.

    :param model: whose policy is one of ours; it stays as it is until :meth:`put_in`
    :param heirs: what each expert comes from, by mixture; of one tower they are equally many
    :param shares: whether gates are shared out anew
    :param perturb: how far copies start apart, as a share of the size of their last weights
    :ivar scaled: names of the mixtures whose experts' weights are scaled
    :raises ValueError: if the options don't fit so many experts, the layers can't be known, or an
        optimiser has several groups of parameters
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
        self.built = _build(self.policy, self.options)
        self.grafts = list(self._grafts())
        moves: dict[str, dict[int, th.Tensor]] = {}
        for graft in self.grafts:
            self._write(graft)
            if graft.name not in moves:  # a target makes the moves of what it follows
                own = moves_apart(graft.new, graft.old, heirs[graft.name], perturb)
                moves[graft.name] = own
            move(graft.new.experts, moves[graft.name])
            if shares:
                self._scale(graft, graft.new.share_out(heirs[graft.name], graft.old))
        self._names = _fitting_names(self.policy, self.built, self.grafts)

    def _grafts(self) -> Iterator[_Graft]:
        ours, theirs = networks_of(self.policy), networks_of(self.built)
        new_layers = self.built.moe_layers()
        for name, old in self.policy.moe_layers().items():
            if name not in self.heirs:
                continue
            new = new_layers[name]
            yield _Graft(name, old, new, inherited(new, old, self.heirs[name]), is_target=False)
            target, follower = ours.follower(old), theirs.follower(new)
            if isinstance(target, MoELayer) and isinstance(follower, MoELayer):
                parts = inherited(follower, target, self.heirs[name])
                yield _Graft(name, target, follower, parts, is_target=True)

    @staticmethod
    def _write(graft: _Graft) -> None:
        for part in graft.parts:
            part.write()
        graft.new.aux = graft.old.aux
        for module in graft.new.modules():
            module.training = graft.old.training
        learns = {
            name: parameter.requires_grad or name in graft.old.held
            for name, parameter in graft.old.named_parameters()
        }
        for name, parameter in graft.new.named_parameters():
            parameter.requires_grad_(learns.get(name, parameter.requires_grad))
        if graft.old.holds_router:
            graft.new.hold_router(True)

    def _scale(self, graft: _Graft, scales: Sequence[float]) -> None:
        if all(scale == 1.0 for scale in scales):
            return
        self.scaled.append(graft.name)
        if graft.old.frozen:
            raise ValueError(needs_thawed(graft.name, graft.old, graft.old.frozen))
        if graft.old.experts.combination is not None:
            raise ValueError(
                f"`router`={graft.old.name!r} can share out gates by the size of the experts' "
                f"outputs alone, which `combine` takes away in {graft.name}"
            )
        graft.new.experts.scale_each(scales)
        experts = graft.new.experts
        if isinstance(experts, StackedNetwork):
            lasts = {id(p) for p in experts.last.parameters()}
            graft.parts = [
                _slower(part, scales, self.heirs[graft.name])
                if id(part.into.stored) in lasts
                else part
                for part in graft.parts
            ]

    # What changes the model.

    def put_in(self) -> None:
        """Change the model."""
        frozen = self._frozen()
        buffers = self._running_buffers()
        groups = self._groups()
        anchors = self._anchors()
        blocks = {graft.old: graft.new for graft in self.grafts}
        for block in [m for m in self.policy.modules() if isinstance(m, MoEBlock)]:
            block.layer = blocks.get(block.layer, block.layer)
        for optimizer, parameters, states in groups:
            _set_parameters(optimizer, parameters, states)
        for name, value in vars(self.model).items():
            if "batch_norm_stats" in name:
                vars(self.model)[name] = [buffers.get(t.data_ptr(), t) for t in value]
        for kept, arrays in anchors:
            kept.place[kept.key] = arrays
        vars(self.model).pop(KEPT, None)  # of tensors that go
        self._set_options(frozen)

    def _frozen(self) -> dict[str, list[int]]:
        old = self.policy.frozen_experts or {}
        new = {name: ks for name, ks in old.items() if name not in self.heirs}
        for name, heirs in self.heirs.items():
            still = set(old.get(name, ()))
            new[name] = [
                x for x, h in enumerate(heirs) if h.stays and h.weights and still >= set(h.weights)
            ]
        return new

    def _anchors(self) -> list[tuple[Kept, Arrays]]:
        """Return what penalties will draw weights to."""
        before, after = (
            {p: name for name, p in policy.named_parameters()}
            for policy in (self.policy, self.built)
        )
        grafts = [graft for graft in self.grafts if not graft.is_target]
        parts = [part for graft in grafts for part in graft.parts]
        gone = {before[p] for graft in grafts for p in graft.old.parameters()}
        return [
            (kept, carried(kept, parts, before, after, gone))
            for kept in kept_for_penalties(self.model)
        ]

    def _running_buffers(self) -> dict[int, th.Tensor]:
        """Return what comes in place of buffers that SB3 copies to targets, by where they lie."""
        found = {}
        for graft in self.grafts:
            new = dict(graft.new.named_buffers())
            for name, buffer in graft.old.named_buffers():
                if "running_" in name and name in new:
                    found[buffer.data_ptr()] = new[name].detach()
        return found

    def _groups(self) -> list[tuple[th.optim.Optimizer, list[th.Tensor], dict[th.Tensor, Any]]]:
        """Return the tensors of each optimiser in the order in which a loaded model has them."""
        ours, theirs = (networks_of(p).optimizers() for p in (self.policy, self.built))
        parts = [part for graft in self.grafts if not graft.is_target for part in graft.parts]
        experts = [graft.new.experts for graft in self.grafts if not graft.is_target]
        found: dict[th.optim.Optimizer, Any] = {}
        for tower, optimizer in ours.items():
            if optimizer in found:
                continue
            order = [self._names[p] for p in theirs[tower].param_groups[0]["params"]]
            own = set(order)
            states = inherited_states(
                optimizer, [part for part in parts if part.into.stored in own], experts
            )
            found[optimizer] = (optimizer, order, states)
        return list(found.values())

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


def _check_groups(policy: MoEPolicy) -> None:
    for optimizer in networks_of(policy).every_optimizer():
        if len(optimizer.param_groups) > 1:
            raise ValueError(
                "`model` must have optimisers with one group of parameters for experts to join or "
                f"leave, as SB3 builds them, got {len(optimizer.param_groups)} in "
                f"{type(optimizer).__name__}"
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


def _options(
    policy: MoEPolicy, heirs: Mapping[str, Sequence[Heir]], *, shares: bool
) -> dict[str, Any]:
    """Return the options that change, each with a value for every tower."""
    numbers = {tower: policy.moe[tower].num_experts for tower in policy.towers}
    kwargs = {tower: policy.moe[tower].router_kwargs for tower in policy.towers}
    layers, changed = policy.moe_layers(), set[str]()
    for name, own in heirs.items():
        tower = kind_of(name)
        numbers[tower] = len(own)
        more = layers[name].options_for_others(shares=shares)
        chosen = dict(policy.moe[tower].router_kwargs or {}) | more or None
        if tower in changed and kwargs[tower] != chosen:
            raise ValueError(
                f"`router_kwargs` must be the same in every mixture of {tower!r} for experts to "
                f"join or leave, got {kwargs[tower]} and {chosen}: mixtures of pictures' tokens "
                "and of single ones have other `num_slots`, unless you give their number"
            )
        kwargs[tower] = chosen
        changed.add(tower)
    options: dict[str, Any] = {"num_experts": _plain(numbers), "router_kwargs": _plain(kwargs)}
    per_tower(policy.moe_options | options, policy.towers)
    return options


def _plain(by_tower: Mapping[str, Any]) -> Any:
    """Return one value where all towers have the same."""
    first, *others = by_tower.values()
    return first if all(each == first for each in others) else dict(by_tower)


def _build(policy: Any, options: dict[str, Any]) -> Any:
    """Return a policy like another but for some options, its experts drawn anew."""
    given = networks_of(policy).constructor_arguments() | options
    given.pop("frozen_experts", None)  # these are numbers of the old ones
    return policy.__class__(**given).to(policy.device)


def _fitting_names(
    policy: MoEPolicy, built: MoEPolicy, grafts: Sequence[_Graft]
) -> dict[th.Tensor, th.Tensor]:
    """Return the tensor that a policy will have in place of each of one that is built like it.

    :raises ValueError: if they are not alike but for the layers that are exchanged
    """
    old_layers = [graft.old for graft in grafts]
    inside = {p for layer in old_layers for p in layer.parameters()}
    coming = {p for graft in grafts for p in graft.new.parameters()}
    stays = {name: p for name, p in policy.named_parameters() if p not in inside}
    found: dict[th.Tensor, th.Tensor] = {}
    for name, parameter in built.named_parameters():
        own = parameter if parameter in coming else stays.pop(name, None)
        if own is None or own.shape != parameter.shape:
            raise ValueError(
                f"`model` must have a policy that gives all that its networks depend on in "
                f"`_get_constructor_parameters`, got a {type(policy).__name__} that has another "
                f"{name} when it is built again"
            )
        found[parameter] = own
    return found


def _slower(part: Inherited, scales: Sequence[float], heirs: Sequence[Heir]) -> Inherited:
    """Return a part of a last layer whose gradient is smaller where its numbers are larger."""
    x = next(i for i, heir in enumerate(heirs) if heir is part.heir)
    origins = [Origin(o.held, o.weight, o.gate / scales[x]) for o in part.origins]
    return replace(part, origins=origins, scale=scales[x])


def _set_parameters(
    optimizer: th.optim.Optimizer,
    parameters: list[th.Tensor],
    states: Mapping[th.Tensor, dict[str, Any]],
) -> None:
    """Let an optimiser have other tensors, with the states of those that come."""
    kept = {p: optimizer.state[p] for p in parameters if p in optimizer.state}
    optimizer.param_groups[0]["params"] = parameters
    optimizer.state.clear()
    optimizer.state.update({**kept, **states})
