"""What can't be built, said before it is: too few layers, a router or an expert of another make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import MoELayer, RouterInput
from sb3_moe.layers.checks import whole
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.experts import Experts
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.stages import TRIAL_ROWS


def check_widths(net_arch: object) -> None:
    """Raise unless hidden layers have units.

    :param net_arch: as given: widths, or by tower, or the list around such a dict of older files
    :raises TypeError: if a width is no whole number
    :raises ValueError: if a width is below 1
    """
    if isinstance(net_arch, Mapping):
        for widths in net_arch.values():
            check_widths(widths)
    elif isinstance(net_arch, Sequence) and not isinstance(net_arch, str):
        for width in net_arch:
            if isinstance(width, Mapping):
                check_widths(width)
            else:
                whole("net_arch", width)


def check_depth(options: MoEOptions, depth: int) -> None:
    """Raise unless a placement, and what else needs hidden layers, finds them.

    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    place, tokens = options.place, options.tokens
    if place.hidden is not None and place.hidden != "each" and not place.whole and depth == 0:
        raise ValueError(
            f"`placement`={place.name!r} replaces {_span(place.hidden)}, and `net_arch` has "
            "none: give it at least one, or choose 'final' or 'big'"
        )
    if isinstance(place.hidden, int) and not -depth <= place.hidden < depth:
        raise ValueError(
            f"`placement`={place.name!r} replaces {_span(place.hidden)}, and `net_arch` has "
            f"only {depth}"
        )
    if place.has_experts and options.expert_width is not None and depth == 0:
        raise ValueError(
            f"`expert_width`={options.expert_width} needs experts with a hidden layer, "
            f"and with `placement`={place.name!r} and no hidden layer in `net_arch` they have "
            "none"
        )
    if not options.is_tokenised:
        return
    if depth == 0:
        raise ValueError(
            f"`tokens`={tokens!r} needs a hidden layer, and `net_arch` has none: give it one"
        )
    if not place.takes(0, depth):
        raise ValueError(
            f"`tokens`={tokens!r} with `placement`={place.name!r} needs exactly one hidden "
            f"layer, whose input is the feature map; `net_arch` has {depth}"
        )


def check_seen(num_seen: int, depth: int) -> None:
    """Raise if the task id would be lost, since only the first hidden layer sees it.

    :param num_seen: features that the first layer sees beside the observation
    :param depth: number of hidden layers
    :raises ValueError: naming the option
    """
    if num_seen and depth == 0:
        raise ValueError(
            "`net_arch` must have a hidden layer for the task id to enter where the head is apart, "
            "got none: give it one, or let only a routed head see it, with `placement`='final' "
            "and `task_input`='router'"
        )


def check_blocks(options: MoEOptions, blocks: Sequence[nn.Module]) -> None:
    """Raise if blocks were asked for and all hidden layers are experts.

    :param blocks: of the hidden layers
    :raises ValueError: naming the option
    """
    if options.block == "simba" and not any(isinstance(b, Residual) for b in blocks):
        raise ValueError(
            "`block`='simba' needs a hidden layer that isn't replaced by experts, and "
            f"`net_arch` has none with `placement`={options.place.name!r}: give it one more, or "
            "use `expert`='simba'"
        )


def _keeps_none(kind: type[MoELayer]) -> str:
    return (
        f"`router`={kind.name!r} must keep its experts: its constructor must call "
        "super().__init__(experts), before all else"
    )


def built_layer(
    kind: type[MoELayer], experts: Experts, sees: RouterInput, options: Mapping[str, Any]
) -> MoELayer:
    """Build a router, and say what is wrong with a class that can't be one."""
    if kind.route is MoELayer.route and kind.forward is MoELayer.forward:
        raise TypeError(f"`router`={kind.name!r} must have a method `route`, got none")
    try:
        layer = kind.build(experts, sees, **options)
    except TypeError as error:
        raise TypeError(
            f"`router`={kind.name!r} must be built from (experts, sees) and its options, "
            f"{list(options)}; it failed with: {error}"
        ) from error
    except AttributeError as error:
        if "Module.__init__() call" not in str(error):
            raise
        raise TypeError(_keeps_none(kind)) from error
    if getattr(layer, "experts", None) is not experts:
        raise TypeError(_keeps_none(kind))
    layer.router_features = sees.features
    return layer


def _span(hidden: str | int) -> str:
    """Say which hidden layers a placement replaces."""
    if hidden == "one":
        return "all hidden layers by one layer of experts"
    return "the last hidden layer" if hidden == -1 else f"hidden layer {hidden}"


def check_rows(experts: Experts, in_features: int, out_features: int, name: str) -> None:
    """Raise ValueError unless experts of unknown make turn rows into rows of the right width."""
    rows = th.zeros(TRIAL_ROWS, in_features)
    try:
        with th.no_grad(), evaluating(experts):
            got = f"it returned {tuple(experts.expert(0)(rows).shape)}"
    except Exception as error:  # a class of the user's own may raise anything
        got = f"it failed with: {error}"
    if got != f"it returned {(TRIAL_ROWS, out_features)}":
        raise ValueError(
            f"`expert`={name!r} must turn rows {tuple(rows.shape)} into rows "
            f"{(TRIAL_ROWS, out_features)}; {got}"
        )
