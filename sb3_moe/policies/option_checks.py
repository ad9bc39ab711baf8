"""Which options go together: what a tower may be asked for at once, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, one_of, whole, whole_or_none, yes_or_no
from sb3_moe.layers.classes import check_names, of_this_package, own_options
from sb3_moe.layers.combining import COMBINATIONS
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.placements import PLACEMENTS, TOKENS, Placement, find_placement

if TYPE_CHECKING:
    from sb3_moe.policies.options import MoEOptions

TASK_INPUTS = ("both", "router", "experts", "none")
BLOCKS = ("mlp", "simba")
SPECTRAL_MODES = ("grad", "loss", "features")
DEFAULT_NUM_EXPERTS = 4
# Options that are a router's own, as it calls them itself, and the check of each.
OF_ROUTERS = {
    "top_k": whole,
    "num_slots": whole_or_none,
    "normalize_router": yes_or_no,
    "renormalize": yes_or_no,
    "router_noise": not_negative,
    "bias_rate": not_negative,
}
# What constructors are given by place.
ROUTER_TAKES = ("experts", "sees")
EXPERT_TAKES = ("in_features", "width", "out_features", "activation")
# Options that ask for an auxiliary loss.
LOSS_OF = {"balance_coef": "balance", "importance_coef": "importance", "z_coef": "z"}


def check_options(options: MoEOptions) -> None:
    """Refuse values that are not valid, and those that don't go together.

    :param options: of one tower
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value or a combination is not valid
    """
    # First what may be imported: a module may register a placement beside its router.
    router, _ = options.router_class, options.expert_class
    place = options.place
    one_of("tokens", options.tokens, TOKENS)
    one_of("task_input", options.task_input, TASK_INPUTS)
    yes_or_no("match_scale", options.match_scale)
    _check_action_dims(options)
    yes_or_no("ent_coef_per_task", options.ent_coef_per_task)
    whole_or_none("num_experts", options.num_experts)
    whole_or_none("expert_width", options.expert_width)
    whole_or_none("task_embedding", options.task_embedding)
    one_of("combine", options.combine, list(COMBINATIONS))
    one_of("block", options.block, BLOCKS)
    for name, check in OF_ROUTERS.items():
        check(name, getattr(options, name))
    for name in LOSS_OF:
        not_negative(name, getattr(options, name))
    not_negative("spectral_coef", options.spectral_coef)
    one_of("spectral_mode", options.spectral_mode, SPECTRAL_MODES)
    _check_router(options)
    reason = why_invalid(router, options.tokens, place)
    if reason is not None:
        raise ValueError(reason)
    _check_expert(options)
    _check_combination(options)
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
                f"{router.name!r}{_how_to_take(router, name)}"
            )
    check_names(
        "router_kwargs",
        kwargs,
        list(router.defaults()),
        f"{router.name!r}",
        cls=router,
        contract=ROUTER_TAKES,
    )
    for name in OF_ROUTERS:
        if name in kwargs and getattr(options, name) not in (options.default(name), kwargs[name]):
            raise ValueError(
                f"`{name}` must be given once, got {getattr(options, name)!r} and, in "
                f"`router_kwargs`, {kwargs[name]!r}"
            )
    for name in router.defaults():
        if name not in options.router_options:
            raise TypeError(
                f"`router_kwargs` must hold {name!r}, which {router.name!r} has no default "
                f"for, got {dict(kwargs)}"
            )
    own = options.num_experts or DEFAULT_NUM_EXPERTS
    asked = inherited_defaults(router) | options.router_options
    router.check(asked, None if router.needs_tasks else own)


def _how_to_take(router: type[MoELayer], option: str) -> str:
    """Say what a router of the user's own lacks to take an option."""
    if of_this_package(router):
        return ""
    if option in LOSS_OF:
        return f"; a router of your own takes it with {LOSS_OF[option]!r} in its `losses`"
    return f"; a router of your own takes it as a keyword-only argument, {option!r}"


def _kwargs_of(options: MoEOptions, name: str) -> Mapping[str, Any]:
    value = getattr(options, name)
    if not isinstance(value, Mapping | None):
        raise TypeError(f"`{name}` must be a dict of arguments, got {value!r}")
    return value or {}


def _check_expert(options: MoEOptions) -> None:
    """Refuse what the kind of expert doesn't take, or where there is none."""
    place, kind, kwargs = options.place, options.expert_class, _kwargs_of(options, "expert_kwargs")
    check_names(
        "expert_kwargs",
        kwargs,
        list(own_options(kind)),
        f"{called(kind)!r}",
        cls=kind,
        contract=EXPERT_TAKES,
    )
    if not place.has_experts:
        return
    if options.expert != options.default("expert") and not place.by_layer:
        raise ValueError(
            f"`expert`={called(kind)!r} needs a placement that replaces hidden layers one by "
            f"one, got `placement`={place.name!r}"
        )
    if options.expert_width is not None and place.hidden is None:
        raise ValueError(
            "`expert_width` needs experts with a hidden layer, got "
            f"`placement`={place.name!r}, whose experts are single linear layers"
        )
    if options.expert_width is not None and not getattr(kind, "uses_width", True):
        raise ValueError(
            f"`expert_width` needs experts with a hidden layer, got `expert`={called(kind)!r}"
        )


def _check_combination(options: MoEOptions) -> None:
    """Refuse to combine outputs of experts that don't all run, or see parts of a sample."""
    if options.combination is None or not options.place.has_experts:
        return
    if options.is_tokenised:
        raise ValueError(
            f"`combine`={options.combine!r} needs `tokens`='sample', got {options.tokens!r}"
        )
    if options.router_class.leaves_out:
        where = options.tokens, options.place.name
        able = [
            name
            for name, each in ROUTERS.items()
            if not each.leaves_out and each.why_invalid(*where) is None
        ]
        raise ValueError(
            f"`combine`={options.combine!r} needs a `router` that runs every expert, of {able}, "
            f"got {options.router_class.name!r}"
        )
    if options.match_scale:
        raise ValueError(
            "`match_scale` must be False where the outputs are given a size of their own by "
            f"`combine`={options.combine!r}"
        )


def _check_block(options: MoEOptions) -> None:
    """Refuse blocks where there is no place for them, or where they can't be measured."""
    if options.block == options.default("block"):
        return
    if options.place.hidden == "one" and not options.place.whole:
        raise ValueError(
            f"`block`={options.block!r} ends in a normalisation before a head, which experts of "
            f"`placement`={options.place.name!r} don't hold: use 'big', or `expert`='simba' with "
            "'middle'"
        )
    if options.match_scale:
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
    if (
        options.place.head == "own"
        and options.place.hidden is None
        and options.router != options.default("router")
    ):
        raise ValueError(
            f"`router` must be left out where `head_router`={router.name!r} routes the only "
            f"experts, those of `placement`={options.place.name!r}, got {options.router!r}"
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
    """Refuse to penalise features where there are none, or weights by what can't be told."""
    if options.spectral_coef and not options.place.has_experts:
        raise ValueError(
            f"`spectral_coef`={options.spectral_coef} needs experts, whose features it is about, "
            f"got `placement`={options.placement!r}; a single number is the first tower's, the "
            "actor's: name another as in dict(vf=0.001)"
        )
    if options.spectral_coef and options.is_tokenised:
        raise ValueError(
            f"`spectral_coef` needs `tokens`='sample', one row for each, got {options.tokens!r}"
        )
    if (
        options.spectral_coef
        and options.spectral_mode == "features"
        and options.combination is not None
    ):
        raise ValueError(
            "`spectral_mode` must be 'grad' or 'loss' where outputs go through "
            f"`combine`={options.combine!r} on their way, got 'features'"
        )


def _check_task_input(options: MoEOptions) -> None:
    """Refuse to say of a router what it sees where its kind has settled that."""
    _check_task_embedding(options)
    if not options.place.has_experts:
        return
    router = options.router_class
    if router.blind and options.task_input == "router" and options.head_router is None:
        raise ValueError(
            f"`task_input`='router' shows the task id to routers only, and "
            f"`router`={router.name!r} looks at nothing: use 'none', or 'experts'"
        )
    if router.sees_task and not options.router_sees_task:
        raise ValueError(
            f"`task_input` must be 'both' or 'router' with `router`={router.name!r}, which "
            f"goes by the task id, got {options.task_input!r}"
        )


def _check_task_embedding(options: MoEOptions) -> None:
    """Refuse an embedding that nobody would see."""
    if options.place.has_experts and options.task_embedding is not None and not options.embeds_task:
        raise ValueError(
            f"`task_embedding`={options.task_embedding} needs someone who sees it, got "
            f"`task_input`={options.task_input!r} with `router`={options.router_class.name!r}: use "
            "`task_input`='both', or 'experts'"
        )


def takes(router: type[MoELayer], option: str) -> bool:
    """Say whether an option speaks to a router.

    :param router: a router's class
    :param option: any of ``MoEOptions``
    """
    if option in LOSS_OF:
        return LOSS_OF[option] in router.losses
    return option not in OF_ROUTERS or option in router.defaults()


def inherited_defaults(router: type[MoELayer]) -> dict[str, Any]:
    """Return the defaults of a router and of its bases, whose checks ask for options of theirs.

    :param router: a router's class, which may take fewer options than its base
    """
    found: dict[str, Any] = {}
    for each in reversed(router.__mro__):
        if issubclass(each, MoELayer):
            found |= each.defaults()
    return found


def called(kind: type[nn.Module]) -> str:
    """Return what options call a kind of expert."""
    return str(getattr(kind, "name", kind.__name__))


def why_invalid(
    router: str | type[MoELayer], tokens: str, placement: str | Placement
) -> str | None:
    """Say why a combination can't work; None if it can.

    :param router: as the option
    :param tokens: one of ``TOKENS``
    :param placement: as the option
    """
    place = find_placement(placement)
    if not place.has_experts:
        return None
    if tokens not in place.tokens:
        able = " or ".join(repr(name) for name, row in PLACEMENTS.items() if tokens in row.tokens)
        return (
            f"`tokens`={tokens!r} needs a layer whose input is the feature map, so `placement` "
            f"{able}, got {place.name!r}"
        )
    return ROUTERS.find(router).why_invalid(tokens, place.name)
