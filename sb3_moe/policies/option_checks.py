"""What options may be, and which go together: each rule once, with its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, one_of, whole, whole_or_none, yes_or_no
from sb3_moe.layers.classes import check_names, of_this_package, own_options
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.layers.sparse_moe import check_top_k
from sb3_moe.policies.placements import PLACEMENTS, TOKENS

if TYPE_CHECKING:
    from sb3_moe.policies.options import MoEOptions

#: More experts than this are surely a slip, and would take minutes to build.
MOST_EXPERTS = 4096
# Options that are a router's own, as it calls them itself.
OF_ROUTERS = (
    "top_k",
    "num_slots",
    "normalize_router",
    "renormalize",
    "router_noise",
    "bias_rate",
)
# Options that ask for an auxiliary loss.
LOSS_OF = {"balance_coef": "balance", "importance_coef": "importance", "z_coef": "z"}
CHOICES = {
    "tokens": TOKENS,
    "task_input": ("both", "router", "experts", "none"),
    "combine": ("sum", "orthogonal"),
    "block": ("mlp", "layer_norm", "simba"),
}
TYPES: dict[str, Any] = {
    **dict.fromkeys(
        ("num_experts", "expert_width", "task_embedding", "num_slots", "top_k"), whole_or_none
    ),
    **dict.fromkeys(
        ("match_scale", "ent_coef_per_task", "normalize_router", "renormalize"), yes_or_no
    ),
    **dict.fromkeys(("router_noise", "bias_rate", "spectral_coef", *LOSS_OF), not_negative),
}


def check_options(options: MoEOptions) -> None:
    """Refuse values that are not valid, and those that don't go together.

    :param options: of one network
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value or a combination is not valid
    """
    # First what may be imported: a module may register a placement beside its router.
    _ = options.router_class, options.expert_class, options.place
    for name, allowed in CHOICES.items():
        one_of(name, getattr(options, name), allowed)
    for name, check in TYPES.items():
        check(name, getattr(options, name))
    if (options.num_experts or 0) > MOST_EXPERTS:
        raise ValueError(f"`num_experts` must be at most {MOST_EXPERTS}, got {options.num_experts}")
    if options.num_experts is not None:
        check_top_k(options.top_k or 1, options.num_experts)
    _check_action_dims(options)
    _check_router(options)
    _check_expert(options)
    _check_tokens(options)
    _check_block(options)
    _check_head(options)
    _check_idle(options)
    _check_spectral(options)
    _check_task_input(options)


def _check_action_dims(options: MoEOptions) -> None:
    if options.action_dims is None:
        return
    if not isinstance(options.action_dims, list | tuple) or not options.action_dims:
        raise TypeError(
            f"`action_dims` must be a list with a number for each task, got {options.action_dims!r}"
        )
    for size in options.action_dims:
        whole("action_dims", size)


def _check_router(options: MoEOptions) -> None:
    """Refuse what the router doesn't take."""
    router, kwargs = options.router_class, _kwargs_of(options, "router_kwargs")
    for name in (*OF_ROUTERS, *LOSS_OF):
        if getattr(options, name) != options.default(name) and not takes(router, name):
            raise ValueError(
                f"`{name}`={getattr(options, name)!r} needs `router` to be one of "
                f"{sorted(key for key, each in ROUTERS.items() if takes(each, name))}, got "
                f"{router.name!r}"
            )
        # A user's own class may have another default, which only `router_kwargs` changes back.
        twice = getattr(options, name) != options.default(name)
        if name in kwargs and (twice or of_this_package(router)):
            raise ValueError(
                f"`{name}` is an option of its own: give it beside `router_kwargs`, not within, "
                f"got {dict(kwargs)}"
            )
    known = list(own_options(router))
    check_names("router_kwargs", kwargs, known, f"{router.name!r}", cls=router)


def _kwargs_of(options: MoEOptions, name: str) -> Mapping[str, Any]:
    value = getattr(options, name)
    if not isinstance(value, Mapping | None):
        raise TypeError(f"`{name}` must be a dict of arguments, got {value!r}")
    return value or {}


def _check_expert(options: MoEOptions) -> None:
    """Refuse what the kind of expert doesn't take."""
    kind, kwargs = options.expert_class, _kwargs_of(options, "expert_kwargs")
    check_names("expert_kwargs", kwargs, list(own_options(kind)), f"{called(kind)!r}", cls=kind)
    if not options.place.has_experts or options.expert_width is None:
        return
    if not getattr(kind, "uses_width", True):
        raise ValueError(
            f"`expert_width` needs experts with a hidden layer, got `expert`={called(kind)!r}"
        )
    if options.place.hidden is None and not options.names_expert:
        raise ValueError(
            "`expert_width` needs experts with a hidden layer, got "
            f"`placement`={options.place.name!r}, whose experts are single linear layers"
        )


def _check_tokens(options: MoEOptions) -> None:
    """Refuse tokens where there are none, and what is done with whole samples alone."""
    place = options.place
    if not place.has_experts:
        return
    if options.tokens not in place.tokens:
        able = [name for name, row in PLACEMENTS.items() if options.tokens in row.tokens]
        raise ValueError(
            f"`tokens`={options.tokens!r} needs a layer whose input is the feature map, so "
            f"`placement` of {able}, got {place.name!r}"
        )
    if options.is_tokenized and options.combine != options.default("combine"):
        raise ValueError(
            f"`combine`={options.combine!r} needs `tokens`='sample', got {options.tokens!r}"
        )


def _check_block(options: MoEOptions) -> None:
    if options.block != options.default("block") and options.match_scale:
        raise ValueError(
            "`match_scale` must be False, for it compares with SB3's dense layers, with "
            f"`block`={options.block!r}"
        )


def _check_head(options: MoEOptions) -> None:
    """Refuse another router for the head where it can't route."""
    router = options.head_router_class
    if router is None:
        return
    if not router.needs_tasks:
        raise ValueError(
            f"`head_router` must be 'task', or None, got {router.name!r}: what goes by more "
            "than the task id is a `router` with `placement`='final'"
        )
    if options.place.whole:
        raise ValueError(
            f"`head_router`={router.name!r} needs a head outside the experts, got "
            f"`placement`={options.place.name!r}, each of whose experts holds one: use 'body'"
        )


def _check_idle(options: MoEOptions) -> None:
    """Refuse to hold idle experts still where there are none."""
    if options.freeze_idle is not None:
        yes_or_no("freeze_idle", options.freeze_idle)
    head, router = options.head_router_class, options.router_class
    routers = [router] * options.place.has_experts + ([] if head is None else [head])
    if options.freeze_idle and routers and not any(each.leaves_out for each in routers):
        able = [name for name, each in ROUTERS.items() if each.leaves_out]
        raise ValueError(
            f"`freeze_idle`=True needs a `router` that leaves experts out, {able}, got "
            f"{router.name!r}"
        )


def _check_spectral(options: MoEOptions) -> None:
    """Refuse to penalize features where there are none, or where they can't be weighed."""
    if not options.spectral_coef:
        return
    if not options.place.has_experts:
        raise ValueError(
            f"`spectral_coef`={options.spectral_coef} needs experts, whose features it is about, "
            f"got `placement`={options.placement!r}; a single number is the first network's, the "
            "actor's: name another as in dict(vf=0.001)"
        )
    if options.is_tokenized:
        raise ValueError(
            f"`spectral_coef` needs `tokens`='sample', one row for each, got {options.tokens!r}"
        )


def _check_task_input(options: MoEOptions) -> None:
    """Refuse to hide the task from what goes by it, and an embedding that nobody would see."""
    if not options.place.has_experts:
        return
    router = options.router_class
    for name in ("task_input", "task_embedding"):
        value, default = getattr(options, name), options.default(name)
        if router.sees == "belief" and value != default:
            raise ValueError(
                f"`{name}` must be {default!r}, the default, with `router`={router.name!r}, for "
                f"there is no task id, got {value!r}"
            )
    if router.sees == "task" and not options.router_sees_task:
        raise ValueError(
            f"`task_input` must be 'both' or 'router' with `router`={router.name!r}, which "
            f"goes by the task id, got {options.task_input!r}"
        )
    if options.task_embedding is not None and not options.embeds_task:
        raise ValueError(
            f"`task_embedding`={options.task_embedding} needs someone who sees it, got "
            f"`task_input`={options.task_input!r} with `router`={router.name!r}: use "
            "`task_input`='both', or 'experts'"
        )


def check_net_arch(net_arch: object, networks: Sequence[str]) -> None:
    """Raise unless hidden layers have units.

    :param net_arch: as given: widths, or widths by network
    :param networks: of the policy, such as ``("pi", "vf")``
    :raises TypeError: if it is something else, or a width is no whole number
    :raises ValueError: if a width is below 1, or a dict names another network
    """
    if isinstance(net_arch, list) and len(net_arch) == 1 and isinstance(net_arch[0], Mapping):
        net_arch = net_arch[0]  # SB3 warns of this form, and takes it
    if isinstance(net_arch, Mapping) and (len(networks) == 1 or not {*net_arch} <= {*networks}):
        raise ValueError(
            "`net_arch` must be a list of widths"
            + (f", or a dict with one for each of {list(networks)}" if len(networks) > 1 else "")
            + f", got {dict(net_arch)}"
        )
    by_network = net_arch.values() if isinstance(net_arch, Mapping) else [net_arch]
    for own in by_network:
        if not isinstance(own, list | tuple):
            raise TypeError(
                "`net_arch` must be a list of widths, or a dict with one for each network, got "
                f"{net_arch!r}"
            )
        for width in own:
            whole("net_arch", width)


def check_activation_fn(activation_fn: object) -> None:
    """Raise TypeError unless an activation is a module's class, or makes modules as one does.

    :param activation_fn: as given
    """
    if isinstance(activation_fn, nn.Module) or not callable(activation_fn):
        raise TypeError(
            f"`activation_fn` must be a module's class, such as torch.nn.ReLU, got "
            f"{activation_fn!r}"
        )


def takes(router: type[MoELayer], option: str) -> bool:
    """Say whether an option speaks to a router.

    :param router: a router's class
    :param option: any of ``MoEOptions``
    """
    if option in LOSS_OF:
        return LOSS_OF[option] in router.losses
    return option not in OF_ROUTERS or option in own_options(router)


def called(kind: type[nn.Module]) -> str:
    """Return what options call a kind of expert."""
    return str(getattr(kind, "name", kind.__name__))
