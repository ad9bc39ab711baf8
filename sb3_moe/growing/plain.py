"""A network with experts as the plain layers that do the same, where there are such.

Shapes: O outputs, I inputs, H hidden units.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch as th
from torch import nn

from sb3_moe.growing.grafts import parts_of
from sb3_moe.layers import MoELayer
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.layers.stacked import flat
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.policies.towers import Columns, MoEBlock


def plain_modules(modules: Sequence[nn.Module], task: int | None) -> list[nn.Module]:
    """Return plain layers that do what some modules do, no linear layer behind another.

    :param modules: of a network, one behind the other
    :param task: the task whose samples are meant; None: any
    :raises ValueError: if there are none
    """
    found: list[nn.Module] = []
    for part in parts_of(modules):
        if isinstance(part, Columns):
            continue
        for layer in _layer(part, task) if isinstance(part, MoEBlock) else [copy.deepcopy(part)]:
            if isinstance(layer, nn.Linear) and found and isinstance(found[-1], nn.Linear):
                layer = in_one(found.pop(), layer)
            found.append(layer)
    return found


def check_temperature(policy: MoEPolicy) -> None:
    """Raise ValueError if there is a temperature for each task, which would be lost."""
    if any(options.ent_coef_per_task for options in policy.moe.values()):
        raise ValueError(
            "`model` must have one entropy temperature, got `ent_coef_per_task`=True, and a dense "
            "model, or one made of it, would begin with others"
        )


def check_sb3s(policy: MoEPolicy) -> None:
    """Raise ValueError unless a policy's layers, experts apart, are such as SB3 has."""
    check_temperature(policy)
    for tower, options in policy.moe.items():
        for name in ("block", "task_embedding"):
            given = getattr(options, name)
            if given != DEFAULTS[name]:
                raise ValueError(
                    f"`model` must have `{name}`={DEFAULTS[name]!r}, since SB3's dense networks "
                    f"have nothing else, got {given!r} for {tower!r}"
                )


def _layer(block: MoEBlock, task: int | None) -> list[nn.Module]:
    """Return a block of experts as plain layers."""
    layer = block.layer
    if block.tokens != "sample":
        raise ValueError(
            f"`model` must have experts on whole samples to be dense, got `tokens`={block.tokens!r}"
        )
    if layer.experts.combination is not None:
        raise ValueError(
            "`model` must sum its experts' outputs to be dense, got "
            f"`combine`={layer.experts.combination.name!r}: `distill` fits a dense one to "
            "observations"
        )
    if any(isinstance(each, Residual) for each in flat(layer.experts.expert(0))):
        raise ValueError(
            "`model` must have experts of linear layers to be dense, got blocks with a way around "
            "them: `distill` fits a dense one to observations"
        )
    gates = layer.gates_of(task)
    if gates is None:
        raise ValueError(
            "`model` must be a mixture that is one network to be dense; with "
            f"`router`={layer.name!r} and {layer.num_experts} experts its gates differ by sample: "
            "`distill` fits a dense one to observations"
        )
    used = [k for k, gate in enumerate(gates) if gate]
    if len(used) == 1:
        modules = flat(layer.experts.expert(used[0]))
        return [*modules[:-1], _mean([modules[-1]], [gates[used[0]]], layer)]
    experts = [flat(layer.experts.expert(k)) for k in used]
    if any(len(expert) > 1 for expert in experts):
        raise ValueError(
            "`model` must be a mixture that is one network to be dense; with "
            f"`router`={layer.name!r} several experts with hidden layers serve each sample: "
            "`distill` fits a dense one to observations"
        )
    return [_mean([expert[0] for expert in experts], [gates[k] for k in used], layer)]


@th.no_grad()
def _mean(linears: Sequence[nn.Module], gates: Sequence[float], layer: MoELayer) -> nn.Module:
    """Return the sum of linear layers under their gates."""
    if list(gates) == [1.0]:
        return linears[0]
    if not all(type(each) is nn.Linear for each in linears):
        raise ValueError(
            f"`expert` must end in nn.Linear for a gate of {gates[0]} to be part of it, "
            f"`router`={layer.name!r}, got {type(linears[0]).__name__}"
        )
    total = copy.deepcopy(linears[0])
    for name, parameter in total.named_parameters():
        parameter.zero_()
        for each, gate in zip(linears, gates, strict=True):
            parameter.add_(each.get_parameter(name), alpha=gate)
    return total


@th.no_grad()
def in_one(first: nn.Module, second: nn.Module) -> nn.Linear:
    """Return one linear layer for two that stand one behind the other.

    :param first: (I to H)
    :param second: (H to O)
    """
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    biases: list[th.Tensor | None] = [first.bias, second.bias]
    has_bias = any(bias is not None for bias in biases)
    one = nn.Linear(first.in_features, second.out_features, bias=has_bias)
    one = one.to(first.weight.device)
    one.weight.copy_(second.weight @ first.weight)
    if has_bias:
        one.bias.zero_()
        if biases[0] is not None:
            one.bias.add_(second.weight @ biases[0])
        if biases[1] is not None:
            one.bias.add_(biases[1])
    return one


def check_usual(modules: Iterable[nn.Module]) -> None:
    """Raise ValueError unless there is an activation behind each hidden layer, as SB3 builds it.

    :param modules: of :func:`plain_modules`, up to a head
    """
    open_linear = False
    for module in modules:
        if isinstance(module, ImageEncoder | nn.Conv2d):
            raise ValueError(
                "`model` must not encode images in towers to be SB3's own, got "
                f"{type(module).__name__}"
            )
        if isinstance(module, nn.Linear):
            if open_linear:
                raise ValueError(
                    "`model` must have an activation behind each hidden layer to be SB3's own, got "
                    "a normalisation alone between two linear layers"
                )
            open_linear = True
        elif not is_norm(module):
            open_linear = False


def widths_of(modules: Iterable[nn.Module]) -> list[int]:
    """Return the outputs of the linear layers."""
    return [module.out_features for module in modules if isinstance(module, nn.Linear)]
