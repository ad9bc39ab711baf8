"""The mixture-of-experts options: names, defaults, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from typing import Any

from torch import nn

from sb3_moe.layers import AuxCoefs, MoELayer
from sb3_moe.layers.classes import own_options
from sb3_moe.layers.registry import EXPERTS, ROUTERS
from sb3_moe.layers.tokens import TokenKind
from sb3_moe.policies.option_checks import LOSS_OF, OF_ROUTERS, check_options
from sb3_moe.policies.placements import Placement, find_placement

__all__ = ["MoEOptions"]

DEFAULT_NUM_EXPERTS = 4
# What any algorithm's networks are called.
NETWORKS = ("pi", "vf", "qf")


@dataclass(frozen=True, kw_only=True)
class MoEOptions:
    """What one network is to be.

    :param placement: where the experts sit: ``"none"``, ``"middle"`` (the last hidden layer),
        ``"final"`` (the head), ``"all"`` (each hidden layer and the head), ``"body"`` (each expert
        all hidden layers) or ``"big"`` (each expert a whole network, encoder and head included);
        or a :class:`~sb3_moe.policies.placements.Placement`
    :param router: ``"soft"``, ``"top_k"``, ``"expert_choice"``, ``"task"`` (the task id picks the
        expert), ``"embedding"`` (a learned weight of each expert for each task), ``"predict"`` (how
        well an expert's model predicts the last steps, see
        :class:`~sb3_moe.policies.belief.BeliefExtractor`), or a control: ``"uniform"`` (every
        gate 1/E), ``"random"`` (frozen weights); or a
        :class:`~sb3_moe.layers.MoELayer`, itself or as ``"package.module:Class"``
    :param router_kwargs: its own options, ``dict(hidden=[64])`` among them for hidden layers of a
        router with scores
    :param num_experts: None: the number of tasks for ``"task"``, else 4
    :param top_k: experts per token, with the gates of a softmax over all; None: the router's own
        default, 1 or, for ``"predict"``, all of them
    :param renormalize: make the gates of the experts that were kept sum to 1, for ``"top_k"``
    :param tokens: ``"sample"`` (one token), ``"conv"`` (one per position of the feature map) or
        ``"feature"`` (one per channel)
    :param num_slots: slots per expert for ``"soft"``; None: ceil(tokens / experts)
    :param combine: ``"sum"``, or ``"orthogonal"``: each row's outputs of all experts are made
        orthonormal by Gram-Schmidt before they are summed
    :param expert: what stands in one expert for a hidden layer: ``"mlp"`` (two linear layers),
        ``"linear"`` (one), ``"simba"`` (SimBa's blocks), or a module's class, itself or as
        ``"package.module:Class"``, that takes (in_features, width, out_features, activation)
    :param expert_kwargs: its own options
    :param expert_width: hidden width of an expert; None: as the dense layer it replaces
    :param block: what a hidden layer is that isn't replaced by experts, or is part of one:
        ``"mlp"`` (a linear layer and its activation), ``"layer_norm"`` (with a normalization
        between both) or ``"simba"``
    :param head_router: ``"task"``: a head for each task, with any placement whose experts hold none
    :param normalize_router: L2-normalize tokens and router weights, with one learned scale
    :param router_noise: standard deviation of noise on the scores, off-policy training only
    :param balance_coef: weight of the load-balance loss
    :param importance_coef: weight of the importance loss
    :param z_coef: weight of the router's z-loss
    :param spectral_coef: size of the penalty on the features of the experts' last hidden layers
        (SPHERE, arXiv 2605.04712): the norm of its gradient over the network as a share of that of
        the loss's; a number is the actor's, or of ``qf`` where there is none
    :param bias_rate: step of loss-free balancing
    :param freeze_idle: keep weights and optimizer state of an expert as they are in a step in which
        its gradient is zero, as it is without a row; None: where the task id picks the expert, if
        the optimizer is Adam or AdamW. Else idle experts still move by momentum
    :param task_input: who sees the one-hot task id: ``"both"``, ``"router"``, ``"experts"`` or
        ``"none"``; dense networks count as experts. With experts, another than ``"both"`` needs a
        task id, and a router of a kind that can be shown it, or spared it. ``head_router`` goes by
        the id whoever else sees it
    :param task_embedding: width of a learned vector for each task, which whoever sees the one-hot
        sees in its place; what goes by the task alone still has the one-hot
    :param ent_coef_per_task: an entropy temperature for each task, of SAC, TQC and CrossQ with
        ``ent_coef=1.0``; a value is the actor's
    :param match_scale: scale the experts' initial weights so that each layer of experts starts as
        strong as the dense layer it stands for
    :param action_dims: how many dimensions each task's Box action has, where they are padded to one
        space: what a task lacks is 0, and has no part in log-probability, entropy and critics
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
    head_router: str | type[MoELayer] | None = None
    normalize_router: bool = False
    router_noise: float = 0.0
    balance_coef: float = 0.0
    importance_coef: float = 0.0
    z_coef: float = 0.0
    spectral_coef: float = 0.0
    bias_rate: float = 0.0
    freeze_idle: bool | None = None
    task_input: str = "both"
    task_embedding: int | None = None
    ent_coef_per_task: bool = False
    match_scale: bool = False
    action_dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_options(self)

    def by_name(self) -> dict[str, Any]:
        """Return the options as they were given."""
        return {name: getattr(self, name) for name in DEFAULTS}

    @classmethod
    def default(cls, name: str) -> Any:
        """Return an option's default.

        :param name: of the option
        """
        return getattr(cls, name)

    # What the names mean.

    @property
    def place(self) -> Placement:
        """Where the experts sit."""
        return find_placement(self.placement)

    @property
    def router_class(self) -> type[MoELayer]:
        """What routes."""
        return ROUTERS.find(self.router)

    @property
    def router_options(self) -> dict[str, Any]:
        """The router's own options: its defaults, and what is given."""
        router = self.router_class
        given = {name: v for name in OF_ROUTERS if (v := getattr(self, name)) != DEFAULTS[name]}
        merged = own_options(router) | given | dict(self.router_kwargs or {})
        return {name: value for name, value in merged.items() if value is not Parameter.empty}

    @property
    def expert_class(self) -> type[nn.Module]:
        """What stands in one expert for a hidden layer."""
        return EXPERTS.find(self.expert)

    @property
    def names_expert(self) -> bool:
        """Whether experts are of a kind that was asked for, where else they are plain layers."""
        return self.expert != DEFAULTS["expert"]

    @property
    def head_router_class(self) -> type[MoELayer] | None:
        """What routes the head, where that is not the router of the rest."""
        if self.head_router is None:
            return None
        try:
            return ROUTERS.find(self.head_router)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("`router`", "`head_router`", 1)) from error

    @property
    def is_moe(self) -> bool:
        """Whether there are experts at all, in hidden layers or heads."""
        return self.place.has_experts or self.head_router is not None

    @property
    def routes_by_belief(self) -> bool:
        """Whether gates are a belief about the task."""
        return self.place.has_experts and self.router_class.sees == "belief"

    @property
    def is_sb3s(self) -> bool:
        """Whether SB3's own network will do, apart from who sees the task."""
        sb3s = self.block == DEFAULTS["block"] and not self.ent_coef_per_task
        return sb3s and not self.is_moe and not self.embeds_task

    @property
    def embeds_task(self) -> bool:
        """Whether anyone sees a learned vector in place of the one-hot."""
        router = self.router_class
        asks = self.place.has_experts and router.sees == "tokens"
        seen = self.experts_see_task or (asks and self.router_sees_task)
        return self.task_embedding is not None and seen

    def task_width(self, num_tasks: int) -> int:
        """Return how many features tell the task to those who see it.

        :param num_tasks: length of the one-hot
        """
        return num_tasks if self.task_embedding is None else self.task_embedding

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
        return self.task_input in ("both", "experts") and self.router_class.sees != "belief"

    @property
    def router_sees_task(self) -> bool:
        """Whether the one-hot is part of every router's input."""
        return self.task_input in ("both", "router")

    def resolve_freeze_idle(self, layer: MoELayer) -> bool:
        """Say whether an expert of a layer is to stay as it is while it gets no row.

        :param layer: of the network
        """
        return layer.leaves_out and (
            layer.needs_tasks if self.freeze_idle is None else self.freeze_idle
        )

    @property
    def aux(self) -> AuxCoefs | None:
        """Coefficients of the auxiliary losses; None: there are none."""
        coefs = AuxCoefs(self.balance_coef, self.importance_coef, self.z_coef)
        return coefs if any(coefs) else None

    def resolve_num_experts(self, num_tasks: int) -> int:
        """Return the number of experts, once the number of tasks is known.

        :param num_tasks: 0 if the observation holds no task id
        :raises ValueError: if the task router is asked for another number of experts than of tasks
        """
        by_task = self.router_class.needs_tasks or self.routes_by_belief
        if not (by_task and self.place.has_experts):
            return DEFAULT_NUM_EXPERTS if self.num_experts is None else self.num_experts
        if self.num_experts not in (None, num_tasks):
            raise ValueError(
                f"`num_experts` must be the number of tasks, {num_tasks}, with "
                f"`router`={self.router_class.name!r} (or None), got {self.num_experts}"
            )
        return num_tasks

    def check_tasks(self, num_tasks: int) -> None:
        """Raise ValueError if something is asked for that needs a task id, and there is none.

        :param num_tasks: 0 if the observation holds none
        """
        router, head = self.router_class, self.head_router_class
        asked = {
            f"`task_input`={self.task_input!r}": self.is_moe and self.task_input != "both",
            f"`head_router`={'' if head is None else head.name!r}": head is not None,
            f"`router`={router.name!r}": router.sees == "task" and self.place.has_experts,
            f"`task_embedding`={self.task_embedding}": self.embeds_task,
            "`ent_coef_per_task`=True": self.ent_coef_per_task,
        }
        for name, is_asked in asked.items():
            if is_asked and num_tasks == 0:
                raise ValueError(
                    f"{name} needs a task id in the observation, got none: {TASK_ID_CURE}"
                )


TASK_ID_CURE = (
    "use a Dict observation with a Discrete `task_id`, as make_multitask_vec_env gives, or "
    "features_extractor_kwargs=dict(num_tasks=N) for a one-hot at the end of the observation"
)
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(MoEOptions)}
# All arguments that our policies take and SB3's don't: options by network, and what is by mixture.
ARGUMENTS = (*DEFAULTS, "frozen_experts", "popart")

# Options of which a single value is for the first network alone: the actor, where there is one.
OF_THE_FIRST = ("spectral_coef", "ent_coef_per_task")
# Options that do nothing where no network has experts.
OF_EXPERTS = (
    *("router", "router_kwargs", "num_experts", "tokens", "combine", "freeze_idle", "match_scale"),
    *("expert", "expert_kwargs", "expert_width", "spectral_coef"),
    *(*OF_ROUTERS, *LOSS_OF),
)
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
        if isinstance(value, Mapping) and not is_by_network(name, value, networks):
            if name in KWARGS:
                continue
            raise ValueError(f"`{name}` may name the networks {list(networks)}, got {list(value)}")
    found = {
        network: MoEOptions(**{n: _of_network(n, v, network, networks) for n, v in options.items()})
        for network in networks
    }
    if not any(each.is_moe for each in found.values()):
        _refuse_without_experts(found)
    return found


def _refuse_without_experts(options: Mapping[str, MoEOptions]) -> None:
    for own in options.values():
        for name in OF_EXPERTS:
            if getattr(own, name) != DEFAULTS[name]:
                raise ValueError(
                    f"`{name}`={getattr(own, name)!r} needs experts, got `placement`='none' and no "
                    f"`head_router` for {', '.join(options)}: leave it out, or choose a placement"
                )


def is_by_network(name: str, value: Mapping[str, Any], networks: Sequence[str]) -> bool:
    """Say whether an option's dict has a value for each network that it names.

    :param name: of the option
    :param value: the dict
    :param networks: names of the networks
    """
    return set(value) <= set(networks) and not (name in KWARGS and not value)


def _of_network(name: str, value: Any, network: str, networks: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and is_by_network(name, value, networks):
        return value.get(network, DEFAULTS[name])
    return DEFAULTS[name] if name in OF_THE_FIRST and network != networks[0] else value
