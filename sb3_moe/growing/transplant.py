"""Replace layers of experts in a model that goes on training, in its optimizers and targets too.

All else stays the same object as before: networks, environments, noise, and so what callbacks refer
to. The model does not change before everything is known to fit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from sb3_moe.growing.copy_map import Age, CopyMap, Entry, Origin, Read, itself, shown_in
from sb3_moe.growing.gates import Heir, kept, share_out, takes_bias
from sb3_moe.layers import MoELayer, SoftMoE
from sb3_moe.layers.moe import HELD, hold_router, router_tensors
from sb3_moe.layers.shares import tensors_of
from sb3_moe.policies.networks import kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.parts import MoEPart


class Transplant:
    """New layers of experts, prepared to replace those of a model.

    :param model: a model with one of our policies; it stays as it is until :meth:`put_in`
    :param heirs: what each new expert comes from, by mixture; all mixtures of a network get the
        same number of experts
    :param shares: whether gates are shared out anew
    :param perturb: size of the noise on copies, relative to the weights of their last layer
    :raises ValueError: if the options don't fit the number of experts, or a router's tensors can't
        be split by expert
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
        self.options = self._changed_options(shares=shares)
        given = networks_of(self.policy).constructor_arguments() | self.options
        self.built = type(self.policy)(**given).to(self.policy.device)
        self.map = CopyMap(self.built, self.policy)
        old = self.policy.moe_layers()
        new = self.built.moe_layers()
        with self.map.shown():
            for name, own in heirs.items():
                self._map_layer(old[name], new[name], own)
                if perturb:
                    self._move_copies_apart(name, old[name], new[name], own, perturb)
        self.map.write_weights()
        places = {module: name for name, module in self.policy.named_modules()}
        self.inside = tuple(f"{places[old[name]]}." for name in heirs)
        #: Each old layer and its replacement by module name, those of target networks included.
        self.pairs = {}
        for name, own in heirs.items():
            for before in (old[name], self.map.theirs.target_of(old[name])):
                if isinstance(before, MoELayer):
                    after: Any = self.built.get_submodule(places[before])
                    self.pairs[places[before]] = (before, after)
                    if shares:
                        share_out(after, before, own)
                    _copy_training_state(after, before)

    # Where the numbers of new experts come from.

    def _map_layer(self, old: MoELayer, new: MoELayer, heirs: Sequence[Heir]) -> None:
        """Map the tensors of old experts and of their router to the new ones.

        :raises ValueError: if a tensor of the router can't be split by expert
        """
        mine, theirs = (
            [tensors_of(layer.experts.expert(k)) for k in range(layer.num_experts)]
            for layer in (new, old)
        )
        for heir, expert in zip(heirs, mine, strict=True):
            for i, into in enumerate(expert):
                self._inherit(into, heir, [each[i] for each in theirs])
        axes = new.expert_axes()
        before = router_tensors(old)
        for name, tensor in router_tensors(new).items():
            if name in axes and name not in before:
                continue  # the new bias of the scores, set by `share_out`
            axis = axes.get(name)
            parts = _by_expert(tensor, axis, new.num_experts)
            origins = _by_expert(before[name], axis, old.num_experts)
            if parts[0].shape != origins[0].shape:
                raise ValueError(
                    f"`axes` of `router`={new.name!r} must say which axis of a tensor has "
                    f"an entry for each expert, as {{{name!r}: 0}} does, and mixtures of a network "
                    f"must have the same `num_slots`: {name!r} of shape {[*before[name].shape]} "
                    f"has {[*tensor.shape]} with {new.num_experts} experts"
                )
            for heir, into in zip([kept(0)] if axis is None else heirs, parts, strict=True):
                self._inherit(into, heir, origins, new_is_mean=True)

    def _inherit(
        self, into: Tensor, heir: Heir, parts: Sequence[Tensor], *, new_is_mean: bool = False
    ) -> None:
        """Map the old experts' tensors to a tensor of a new expert.

        :param into: the tensor of the new expert
        :param heir: the new expert
        :param parts: the same tensor of each old expert
        :param new_is_mean: whether an expert that starts anew gets their mean, as for scores
        """
        weights = heir.weights
        if heir.age == "new" and new_is_mean:
            weights = dict.fromkeys(range(len(parts)), 1.0 / len(parts))
        if weights:
            origins = [
                Origin(shown_in(parts[k]), weight, heir.gates.get(k, 0.0))
                for k, weight in weights.items()
            ]
            self.map.entries.append(Entry(shown_in(into), origins, age=heir.age))

    def _move_copies_apart(
        self, name: str, old: MoELayer, new: MoELayer, heirs: Sequence[Heir], perturb: float
    ) -> None:
        """Add noise to the last layers of copies, and of originals that aren't frozen."""
        for k in {k for heir in heirs if heir.age == "copied" for k in heir.weights}:
            is_still = k in self.frozen.get(name, ())
            movers = {
                x: heir.gates[k]
                for x, heir in enumerate(heirs)
                if set(heir.weights) == {k} and not (heir.age == "kept" and is_still)
            }
            if len(movers) > 1:
                size = perturb * self.map.size_of(_last_weight(old, k))
                lasts = [_last_weight(new, x) for x in movers]
                self.map.move_apart(lasts, [*movers.values()], size)

    # Changing the model.

    def put_in(self) -> None:
        """Replace the old layers in the model."""
        optimizers = {each: name for name, each in networks_of(self.policy).optimizers().items()}
        self._move_anchors()
        for hook in self.built._of_layers:  # the policy attaches its own
            hook.remove()
        for place, (_, after) in self.pairs.items():
            self.policy.set_submodule(place, after)
        for optimizer, network in optimizers.items():
            self._change_optimizer(optimizer, network)
        buffers = {
            old.get_buffer(name).data_ptr(): buffer.detach()
            for old, new in self.pairs.values()
            for name, buffer in new.named_buffers()
            if name in dict(old.named_buffers())
        }
        for name, value in vars(self.model).items():
            if "batch_norm_stats" in name:  # lists of buffers that SB3 copies to targets
                value[:] = [buffers.get(each.data_ptr(), each) for each in value]
        self._set_options()

    def _change_optimizer(self, optimizer: th.optim.Optimizer, network: str) -> None:
        """Give an optimizer the new parameters, in the order of a loaded model, and their states.

        :param network: the name of a network that it optimizes
        """
        names = {parameter: name for name, parameter in self.built.named_parameters()}
        counterpart = networks_of(self.built).optimizers()[network].param_groups[0]["params"]
        known = {p: state for p, state in optimizer.state.items() if state}
        parameters = [self.policy.get_parameter(names[p]) for p in counterpart]
        optimizer.param_groups[0]["params"] = parameters
        optimizer.state.clear()
        optimizer.state.update({p: known[p] for p in parameters if p in known})
        optimizer.state.update(self.map.states(known, optimizer))

    def _move_anchors(self) -> None:
        """Set the weights that penalties pull the new experts towards.

        A copy is pulled towards the same weights as its original, and a merged expert towards the
        mean of those of the old experts. An expert that starts anew is pulled towards its initial
        weights. Neither it nor a copy is pulled for tasks that ended before it joined.
        """
        kept = vars(self.model)
        self._move_arrays(kept, "initial_weights", itself, skip=("new",))
        for anchors in kept.get("anchors", {}).values():
            self._move_arrays(anchors, "weights", itself, skip=("new",))
            self._move_arrays(anchors, "strengths", th.zeros_like, skip=("new", "copied"))

    def _move_arrays(
        self, place: dict[str, Any], key: str, drawn: Read, skip: Sequence[Age]
    ) -> None:
        """Replace the arrays of old parameters by those of new parameters.

        :param place: the dict whose entry ``key`` holds the arrays by the parameter's name
        :param drawn: the values of numbers that are new
        :param skip: the ages of numbers that count as new here
        """
        old = dict(self.policy.named_parameters())
        arrays = {old[name]: th.as_tensor(array) for name, array in place.get(key, {}).items()}
        if not arrays:  # no penalty pulls yet
            return
        row = self.map.follow(drawn, arrays.get, skip=skip)
        found = {n: a for n, a in place[key].items() if not n.startswith(self.inside)}
        for name, parameter in self.built.named_parameters():
            values = row[self.map.new.places(parameter)]
            if name.startswith(self.inside) and not values.isnan().any():
                found[name] = values.to(parameter.dtype).numpy()
        place[key] = found

    def _set_options(self) -> None:
        policy = self.policy
        built = self.built
        policy.moe_options = built.moe_options
        policy.moe = built.moe
        parts = ([m for m in each.modules() if isinstance(m, MoEPart)] for each in (policy, built))
        for mine, theirs in zip(*parts, strict=True):
            mine.given |= theirs.given
        frozen = dict(self.frozen)
        for name, heirs in self.heirs.items():
            still = set(self.frozen.get(name, ()))
            numbered = enumerate(heirs)
            frozen[name] = [x for x, h in numbered if h.age == "kept" and still >= set(h.weights)]
        self.model.policy_kwargs = {**self.model.policy_kwargs, **self.options}
        set_frozen(self.model, frozen)

    def _changed_options(self, *, shares: bool) -> dict[str, Any]:
        """Return the options that change, each with a value for every network."""
        found: dict[str, Any] = {
            option: {network: getattr(each, option) for network, each in self.policy.moe.items()}
            for option in ("num_experts", "num_slots", "router_kwargs")
        }
        for name, own in self.heirs.items():
            layer = self.policy.moe_layers()[name]
            network = kind_of(name)
            found["num_experts"][network] = len(own)
            if isinstance(layer, SoftMoE):  # its default depends on the number of experts
                found["num_slots"][network] = layer.num_slots
            if shares and takes_bias(layer):
                kwargs = found["router_kwargs"][network] or {}
                found["router_kwargs"][network] = {**kwargs, "bias": True}
        return found | {"frozen_experts": None}  # set last, by the numbers of the new experts


def set_frozen(model: Any, frozen: Mapping[str, Sequence[int]]) -> None:
    """Freeze these experts and no others, in a model's policy and in its ``policy_kwargs``.

    :param frozen: the numbers of the experts, by mixture
    """
    policy = policy_of(model)
    policy.set_frozen_experts(frozen)
    model.policy_kwargs = {**model.policy_kwargs, "frozen_experts": policy.frozen_experts}


def _by_expert(tensor: Tensor, axis: int | None, num_experts: int) -> Sequence[Tensor]:
    """Return each expert's part of a tensor, or the whole tensor if it has no axis for experts."""
    return [tensor] if axis is None else tensor.unflatten(axis, (num_experts, -1)).unbind(axis)


def _last_weight(layer: MoELayer, k: int) -> Tensor:
    """Return the weight of an expert's last linear layer."""
    inside = layer.experts.expert(k).modules()
    return [module for module in inside if isinstance(module, nn.Linear)][-1].weight


def _copy_training_state(new: MoELayer, old: MoELayer) -> None:
    """Give a new layer the training mode and the ``requires_grad`` of the old one."""
    new.train(old.training)
    held = {name for name, p in old.named_parameters() if HELD in vars(p)}
    learns = {name: p.requires_grad or name in held for name, p in old.named_parameters()}
    of_router = [on for name, on in learns.items() if not name.startswith("experts.")]
    for name, parameter in new.named_parameters():
        # A router's new bias learns if any other parameter of the router does.
        parameter.requires_grad_(learns.get(name, any(of_router) or not of_router))
    if held:
        hold_router(new, True)
