"""The mixture-of-experts options: names, defaults, what they mean, and which go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from inspect import Parameter
from typing import Any

from torch import nn

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, one_of, whole, widths
from sb3_moe.layers.classes import did_you_mean, of_this_package, own_options
from sb3_moe.layers.registry import EXPERTS, ROUTERS
from sb3_moe.layers.sparse_moe import check_top_k
from sb3_moe.layers.tokens import TokenKind
from sb3_moe.policies.placements import TOKENS, Placement, find_placement
from sb3_moe.policies.task_gradients import COMBINATIONS

__all__ = ["MoEOptions"]

DEFAULT_NUM_EXPERTS = 4
#: More experts than this are surely a slip, and would take minutes to build.
MOST_EXPERTS = 4096
# Options that go to the router, whose own options have the same names.
OF_ROUTERS = ("top_k", "num_slots", "normalize_router", "renormalize", "router_noise", "bias_rate")
# Options that weigh an auxiliary loss, and that loss's name in a router's `losses`.
LOSS_OF = {"balance_coef": "balance", "importance_coef": "importance", "z_coef": "z"}
# The values that an option may have.
CHOICES: dict[str, Sequence[Any]] = {
    "tokens": TOKENS,
    "task_input": (None, "both", "router", "experts", "none"),
    "combine": ("sum", "orthogonal"),
    "block": ("mlp", "layer_norm", "simba"),
    "head_router": ("task", None),
}
TYPES: dict[str, Any] = {
    **dict.fromkeys(("num_experts", "expert_width", "task_embedding", "num_slots", "top_k"), whole),
    **dict.fromkeys(("router_noise", "bias_rate", "spectral_coef", *LOSS_OF), not_negative),
    "action_dims": widths,
    "task_gradients": partial(one_of, allowed=COMBINATIONS),
}


@dataclass(frozen=True, kw_only=True)
class MoEOptions:
    """The options of one network.

    :param placement: where the experts sit: ``"none"``, ``"middle"`` (the last hidden layer),
        ``"final"`` (the head), ``"all"`` (each hidden layer and the head), ``"body"`` (each expert
        holds all hidden layers) or ``"big"`` (each expert is a whole network, encoder and head
        included); or a :class:`~sb3_moe.policies.placements.Placement`
    :param router: ``"soft"``, ``"top_k"``, ``"expert_choice"``, ``"task"`` (the task id picks the
        expert), ``"belief"`` (the belief about a hidden task weighs the experts, see
        :class:`~sb3_moe.vec_env.VecBelief`), ``"embedding"`` (a learned weight of each expert for
        each task), or a control: ``"uniform"`` (every gate 1/E), ``"random"`` (frozen weights); or
        a subclass of :class:`~sb3_moe.layers.MoELayer`, as a class or as
        ``"package.module:Class"``
    :param router_kwargs: the router's own options, such as ``dict(hidden=[64])`` for hidden layers
        in a router that scores tokens
    :param num_experts: how many experts; None: the number of tasks for ``"task"``, of models for
        ``"belief"``, else 4
    :param top_k: experts per token, with their gates from a softmax over all experts (for
        ``"belief"``, made to sum to 1); None: the router's own default, 1 or, for ``"belief"``, all
        of them
    :param renormalize: make the gates of the kept experts sum to 1, for ``"top_k"``
    :param tokens: what one token is: ``"sample"`` (all features), ``"conv"`` (a position of the
        feature map) or ``"feature"`` (a channel of it)
    :param num_slots: slots per expert for ``"soft"``; None: ceil(tokens / experts)
    :param combine: how the experts' outputs are combined: ``"sum"``, or ``"orthogonal"``: each
        row's outputs of all experts are made orthonormal by Gram-Schmidt before they are summed
    :param expert: what an expert has in place of a hidden layer: ``"mlp"`` (two linear layers),
        ``"linear"`` (one), ``"simba"`` (SimBa's blocks), or a module class, itself or as
        ``"package.module:Class"``, that takes (in_features, width, out_features, activation)
    :param expert_kwargs: the expert's own options
    :param expert_width: hidden width of an expert; None: that of the dense layer it replaces
    :param block: what hidden layers consist of that are not replaced by experts, or that are part
        of an expert: ``"mlp"`` (a linear layer and its activation), ``"layer_norm"`` (with a
        normalization between the two) or ``"simba"``
    :param head_router: ``"task"``: a head for each task (with a belief for each of its models,
        which it weighs), with any placement whose experts hold no head
    :param normalize_router: L2-normalize tokens and router weights, with one learned scale
    :param router_noise: standard deviation of noise on the router's scores, in off-policy training
        only
    :param balance_coef: weight of the load-balance loss
    :param importance_coef: weight of the importance loss
    :param z_coef: weight of the router's z-loss
    :param spectral_coef: size of the penalty on the features of the experts' last hidden layers
        (SPHERE, arXiv 2605.04712): the norm of the penalty's gradient, over the network, as a share
        of the norm of the loss's; a single number applies to the actor alone, or to ``qf`` where
        there is no actor
    :param bias_rate: step of loss-free balancing
    :param freeze_idle: leave an expert's weights and optimizer state unchanged in steps in which
        its gradient is zero, for example because no row reached it; None: do so where the task id
        picks the expert, if the optimizer is Adam or AdamW. Otherwise idle experts still move by
        momentum
    :param task_input: who sees the one-hot task id, or the belief in its place: ``"both"``,
        ``"router"``, ``"experts"`` or ``"none"``; dense networks count as experts. None: the router
        alone for ``"belief"``, else both. With experts, a value needs a task id or a belief. A
        router that goes by the task needs ``"both"`` or ``"router"``. ``head_router`` gets the id
        in any case
    :param task_embedding: width of a learned vector for each task, which experts and routers see in
        place of the one-hot, or of the belief, which weighs these vectors; a router that goes by
        the task alone still gets the one-hot
    :param ent_coef_per_task: learn an entropy temperature for each task (SAC, TQC and CrossQ, with
        ``ent_coef=1.0``); a single value applies to the actor alone
    :param task_gradients: how the gradients of several tasks are combined: None (added up), or one
        of ``sb3_moe.policies.task_gradients.COMBINATIONS``: ``"pcgrad"``; a single value applies to
        the actor alone, or to ``qf`` where there is no actor
    :param match_scale: scale the experts' initial weights so that the output of each layer of
        experts starts as large as that of the dense layers it replaces
    :param action_dims: how many dimensions each task's Box action has, where actions are padded to
        one space: the other dimensions are 0, and have no part in log-probability and entropy, and
        no effect on critics
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value or a combination is not valid
    """

    placement: str | Placement = "middle"
    router: str | type[MoELayer] = "soft"
    router_kwargs: Mapping[str, Any] | None = None
    num_experts: int | None = None
    top_k: int | None = None
    renormalize: bool = False
    tokens: TokenKind = "sample"
    num_slots: int | None = None
    combine: str = "sum"
    expert: str | type[nn.Module] = "mlp"
    expert_kwargs: Mapping[str, Any] | None = None
    expert_width: int | None = None
    block: str = "mlp"
    head_router: str | None = None
    normalize_router: bool = False
    router_noise: float = 0.0
    balance_coef: float = 0.0
    importance_coef: float = 0.0
    z_coef: float = 0.0
    spectral_coef: float = 0.0
    bias_rate: float = 0.0
    freeze_idle: bool | None = None
    task_input: str | None = None
    task_embedding: int | None = None
    ent_coef_per_task: bool = False
    task_gradients: str | None = None
    match_scale: bool = False
    action_dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        # Find the classes first: this may import a module that registers the placement, too.
        _ = self.router_class, self.expert_class, self.place
        for name, allowed in CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name, check in TYPES.items():
            if not (getattr(self, name) is None and DEFAULTS[name] is None):
                check(name, getattr(self, name))
        self._check_kwargs()
        self._check_router()
        self._check_expert()
        self._check_head()
        if self.place.has_experts:
            self._check_tokens()
            self._check_task_input()

    def is_given(self, name: str) -> bool:
        """Say whether an option differs from its default.

        :param name: of the option
        """
        return bool(getattr(self, name) != DEFAULTS[name])

    # What the options mean.

    @property
    def place(self) -> Placement:
        """Where the experts sit."""
        return find_placement(self.placement)

    @property
    def router_class(self) -> type[MoELayer]:
        """The class of the router."""
        return ROUTERS.find(self.router)

    @property
    def router_options(self) -> dict[str, Any]:
        """The router's own options: its defaults, replaced by what was given."""
        given = {name: getattr(self, name) for name in OF_ROUTERS if self.is_given(name)}
        merged = own_options(self.router_class) | given | dict(self.router_kwargs or {})
        return {name: value for name, value in merged.items() if value is not Parameter.empty}

    @property
    def expert_class(self) -> type[nn.Module]:
        """The module class that an expert has in place of a hidden layer."""
        return EXPERTS.find(self.expert)

    @property
    def is_moe(self) -> bool:
        """Whether there are experts at all, in hidden layers or heads."""
        return self.place.has_experts or self.head_router is not None

    @property
    def has_own_experts(self) -> bool:
        """Whether there are experts besides heads for tasks, which most options don't change."""
        own_head = self.place.head is not None and self.head_router is None
        return self.place.hidden is not None or own_head

    @property
    def routes_by_belief(self) -> bool:
        """Whether the router turns a belief about the task into gates."""
        return self.place.has_experts and self.router_class.sees == "belief"

    @property
    def may_be_sb3s(self) -> bool:
        """Whether SB3's own network will do, apart from what ``block`` and ``task_input`` ask."""
        return not (self.is_moe or self.embeds_task or self.ent_coef_per_task)

    @property
    def embeds_task(self) -> bool:
        """Whether experts or routers see a learned vector in place of the one-hot."""
        asks = self.place.has_experts and self.router_class.sees == "tokens"
        seen = self.experts_see_task or (asks and self.router_sees_task)
        return self.task_embedding is not None and seen

    @property
    def is_tokenized(self) -> bool:
        """Whether samples become more than one token."""
        return self.place.has_experts and self.tokens != "sample"

    @property
    def routes_head(self) -> bool:
        """Whether the head has experts of its own."""
        return self.place.head == "own" or self.head_router is not None

    @property
    def experts_see_task(self) -> bool:
        """Whether the one-hot enters the first layer."""
        if self.task_input is None:
            return not self.routes_by_belief
        return self.task_input in ("both", "experts")

    @property
    def router_sees_task(self) -> bool:
        """Whether the one-hot is part of every router's input."""
        return self.task_input in (None, "both", "router")

    def resolve_num_experts(self, num_tasks: int) -> int:
        """Return the number of experts, once the number of tasks is known.

        :param num_tasks: 0 if the observation holds no task id
        :raises ValueError: if the router needs one expert for each task, and ``num_experts`` is
            another number
        """
        by_task = self.router_class.needs_tasks or self.routes_by_belief
        if not (by_task and self.place.has_experts):
            return self.num_experts or DEFAULT_NUM_EXPERTS
        if self.num_experts not in (None, num_tasks):
            raise ValueError(
                f"`num_experts` must be the number of tasks or of a belief's models, {num_tasks}, "
                f"with `router`={self.router_class.name!r} (or None), got {self.num_experts}"
            )
        return num_tasks

    # Which options go together.

    def check_tasks(self, num_tasks: int, *, tells_task: bool) -> None:
        """Raise ValueError if an option needs a task id or a belief, and there is none.

        :param num_tasks: 0 if the observation holds neither
        :param tells_task: whether it holds the true id, and not a belief
        """
        if self.routes_by_belief and (num_tasks == 0 or tells_task):
            raise ValueError(
                f"`router`={self.router_class.name!r} needs a belief in the observation, which "
                "sb3_moe.vec_env.VecBelief adds, or make_multitask_vec_env(..., task_id='info', "
                "belief=16)"
            )
        routes_by_id = self.place.has_experts and self.router_class.needs_tasks
        if routes_by_id and num_tasks and not tells_task:
            raise ValueError(
                f"`router`={self.router_class.name!r} needs the true task id, and there is a "
                "belief: use `router`='belief'"
            )
        asked = {
            "task_input": self.is_moe and self.is_given("task_input"),
            "head_router": self.head_router is not None,
            "router": self.router_class.sees == "task" and self.place.has_experts,
            "task_embedding": self.embeds_task,
            "ent_coef_per_task": self.ent_coef_per_task,
        }
        if self.ent_coef_per_task and not tells_task:
            num_tasks = 0  # a temperature is that of one task, and can't be weighed
        for name, is_asked in asked.items():
            if is_asked and num_tasks == 0:
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} needs a task id in the observation, got "
                    "none: use a Dict observation with a Discrete `task_id`, as "
                    "make_multitask_vec_env gives, or features_extractor_kwargs=dict(num_tasks=N) "
                    "for a one-hot at the end of the observation; a `features_extractor_class` of "
                    "your own must be a TaskExtractor"
                )

    def _check_kwargs(self) -> None:
        """Refuse arguments that the router's or the experts' class doesn't take."""
        classes = {"router_kwargs": self.router_class, "expert_kwargs": self.expert_class}
        for option, cls in classes.items():
            known = [*own_options(cls)]
            for name in set(getattr(self, option) or ()) - set(known):
                raise TypeError(
                    f"`{option}` may hold the keyword-only arguments of {cls.__name__}, {known}, "
                    f"got {name!r}{did_you_mean(name, known)}"
                )

    def _check_router(self) -> None:
        """Refuse options that the router doesn't take."""
        router = self.router_class
        kwargs = self.router_kwargs or {}
        for name in (*OF_ROUTERS, *LOSS_OF):
            if self.is_given(name) and not takes(router, name):
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} needs `router` to be one of "
                    f"{sorted(key for key, each in ROUTERS.items() if takes(each, name))}, got "
                    f"{router.name!r}"
                )
            # A user's class may have another default than the option here. The latter's default
            # counts as not given, so only `router_kwargs` can set it.
            if name in kwargs and (self.is_given(name) or of_this_package(router)):
                raise ValueError(
                    f"`{name}` is an option of the policy: give it beside `router_kwargs`, not "
                    f"inside, got {dict(kwargs)}"
                )
        if self.num_experts is None:
            return
        if self.num_experts > MOST_EXPERTS:
            raise ValueError(
                f"`num_experts` must be at most {MOST_EXPERTS}, got {self.num_experts}"
            )
        check_top_k(self.top_k or 1, self.num_experts)

    def _check_expert(self) -> None:
        """Refuse options that the kind of expert doesn't take."""
        kind = self.expert_class
        called = getattr(kind, "name", kind.__name__)
        only_linear = self.place.hidden is None and not self.is_given("expert")
        has_width = getattr(kind, "uses_width", True) and not only_linear
        if self.place.has_experts and self.expert_width is not None and not has_width:
            raise ValueError(
                f"`expert_width` needs experts with a hidden layer, got `placement`="
                f"{self.place.name!r} with `expert`={called!r}"
            )
        if self.spectral_coef and not self.place.has_experts:
            raise ValueError(
                f"`spectral_coef`={self.spectral_coef} needs experts, got `placement`="
                f"{self.placement!r}; a single number applies to the actor alone: name another "
                "network as in dict(vf=0.001)"
            )
        if self.is_given("block") and self.match_scale:
            raise ValueError(
                f"`match_scale` must be False with `block`={self.block!r}, since it compares with "
                "SB3's dense layers"
            )

    def _check_head(self) -> None:
        """Refuse a head for each task within experts, and ``freeze_idle`` if no expert idles."""
        if self.head_router is not None and self.place.whole:
            raise ValueError(
                f"`head_router`={self.head_router!r} needs a head outside the experts, got "
                f"`placement`={self.place.name!r}, each of whose experts holds one: use 'body'"
            )
        leaves_out = self.router_class.leaves_out or self.head_router is not None
        if self.freeze_idle and self.place.has_experts and not leaves_out:
            able = [name for name, each in ROUTERS.items() if each.leaves_out]
            raise ValueError(
                f"`freeze_idle`=True needs a `router` that leaves experts out, {able}, got "
                f"{self.router_class.name!r}"
            )

    def _check_tokens(self) -> None:
        """Refuse tokens that the placement lacks, and options that need whole samples as tokens."""
        if self.tokens != "sample" and self.place.hidden in (None, "one"):
            raise ValueError(
                f"`tokens`={self.tokens!r} needs a layer whose input is the feature map, so "
                f"`placement`='middle' or 'all', got {self.place.name!r}"
            )
        for name in ("combine", "spectral_coef"):
            if self.is_tokenized and self.is_given(name):
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} needs `tokens`='sample', got {self.tokens!r}"
                )

    def _check_task_input(self) -> None:
        """Refuse to hide the task from a router that needs it, or an embedding nobody would see."""
        router = self.router_class
        if router.sees in ("task", "belief") and not self.router_sees_task:
            raise ValueError(
                f"`task_input` must be 'both' or 'router' with `router`={router.name!r}, which "
                f"goes by the task id, got {self.task_input!r}"
            )
        if self.task_embedding is not None and not self.embeds_task:
            raise ValueError(
                f"`task_embedding`={self.task_embedding} needs experts or routers that see it, got "
                f"`task_input`={self.task_input!r} with `router`={router.name!r}: use "
                "`task_input`='both', or 'experts'"
            )


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(MoEOptions)}
# All arguments that MoE policies take and SB3's don't: a network's options, and the policy's own.
ARGUMENTS = (*DEFAULTS, "frozen_experts", "popart")

# Options of which a single value is for the first network alone: the actor, where there is one.
OF_THE_FIRST = ("spectral_coef", "ent_coef_per_task", "task_gradients")
# Options that do nothing where no network has experts, and those of them that act on heads for
# tasks too.
OF_HEADS = ("freeze_idle", "match_scale")
OF_EXPERTS = (
    "router", "router_kwargs", "num_experts", "tokens", "combine", *OF_HEADS,
    "expert", "expert_kwargs", "expert_width", "spectral_coef", *OF_ROUTERS, *LOSS_OF,
)  # fmt: skip
# Options that hold a dict of arguments, which is for all networks unless its keys are networks.
KWARGS = ("router_kwargs", "expert_kwargs")


def per_network(options: Mapping[str, Any], networks: Sequence[str]) -> dict[str, MoEOptions]:
    """Check the options and give each network its own.

    :param options: by name; each a value for all networks or a dict from network to value
    :param networks: names of the networks, such as ``("pi", "vf")``
    :return: the options of each network
    :raises TypeError: if an option is unknown
    :raises ValueError: if a dict names another network, or a value is not valid
    """
    for name, value in options.items():
        if name not in DEFAULTS:
            raise TypeError(f"unknown option {name!r}; the options are {sorted(DEFAULTS)}")
        if isinstance(value, Mapping) and name not in KWARGS and not {*value} <= {*networks}:
            raise ValueError(f"`{name}` may name the networks {list(networks)}, got {list(value)}")
    found = {
        network: MoEOptions(**{n: _of_network(n, v, network, networks) for n, v in options.items()})
        for network in networks
    }
    heads = any(each.is_moe for each in found.values())
    if any(each.has_own_experts for each in found.values()):
        return found
    for name in [each for each in OF_EXPERTS if not (heads and each in OF_HEADS)]:
        if given := [each for each in found.values() if each.is_given(name)]:
            raise ValueError(
                f"`{name}`={getattr(given[0], name)!r} needs experts, got `placement`="
                f"{given[0].place.name!r} for {', '.join(found)}{' with heads for tasks' * heads}: "
                "leave it out, or choose another placement"
            )
    return found


def _of_network(name: str, value: Any, network: str, networks: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and {*value} <= {*networks}:
        return value.get(network, DEFAULTS[name])
    return DEFAULTS[name] if name in OF_THE_FIRST and network != networks[0] else value


def takes(router: type[MoELayer], option: str) -> bool:
    """Say whether a router takes an option, or the option has nothing to do with routers.

    :param router: a router's class
    :param option: any of ``MoEOptions``
    """
    if option in LOSS_OF:
        return LOSS_OF[option] in router.losses
    return option not in OF_ROUTERS or option in own_options(router)
