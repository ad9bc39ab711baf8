"""The mixture-of-experts options: names, defaults, checks, and which combinations are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from sb3_moe.layers import AuxCoefs
from sb3_moe.layers.tokens import TokenKind

PLACEMENTS = ("none", "middle", "final", "all", "big")
ROUTERS = ("soft", "top_k", "expert_choice", "task", "uniform", "random")
TOKENS: tuple[str, ...] = get_args(TokenKind)
TASK_INPUTS = ("both", "router", "experts", "none")

LEARNED = frozenset({"soft", "top_k", "expert_choice"})
# Which routers an option speaks to; options that are not here speak to all.
ROUTERS_OF = {
    "top_k": {"top_k", "expert_choice"},
    "num_slots": {"soft", "random"},
    "normalize_router": LEARNED | {"random"},
    "router_noise": LEARNED,
    "balance_coef": {"soft", "top_k"},
    "importance_coef": {"soft", "top_k"},
    "z_coef": LEARNED,
    "bias_rate": {"top_k"},
}
# Which tokens a placement can take: only a layer whose input is the feature map can split it.
TOKENS_OF = {
    "none": TOKENS,
    "middle": TOKENS,
    "final": ("sample",),
    "all": TOKENS,
    "big": ("sample",),
}


@dataclass(frozen=True, kw_only=True)
class MoEOptions:
    """What one tower is to be.

    :param placement: where the experts sit: ``"none"``, ``"middle"`` (the last hidden layer),
        ``"final"`` (the head), ``"all"`` (each hidden layer and the head) or ``"big"`` (each expert
        a whole network, encoder and head included)
    :param router: ``"soft"``, ``"top_k"``, ``"expert_choice"``, ``"task"`` (the task id picks the
        expert), or a control: ``"uniform"`` (every gate 1/E), ``"random"`` (frozen weights)
    :param num_experts: None: the number of tasks for ``"task"``, else 4
    :param top_k: experts per token; the gates are the softmax over all, not renormalised
    :param tokens: ``"sample"`` (one token), ``"conv"`` (one per position of the feature map) or
        ``"feature"`` (one per channel)
    :param num_slots: slots per expert for ``"soft"``; None: ceil(tokens / experts)
    :param expert_width: hidden width of an expert; None: as the dense layer it replaces
    :param normalize_router: L2-normalise tokens and router weights, with one learned scale
    :param router_noise: standard deviation of noise on the scores, off-policy training only
    :param balance_coef: weight of the load-balance loss
    :param importance_coef: weight of the importance loss
    :param z_coef: weight of the router's z-loss
    :param bias_rate: step of loss-free balancing
    :param task_input: who sees the one-hot task id: ``"both"``, ``"router"``, ``"experts"`` or
        ``"none"``; dense towers count as experts. With experts, another than ``"both"`` needs a
        task id, and a router of a kind that can be shown it, or spared it
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value or a combination is not valid
    """

    placement: str = "middle"
    router: str = "soft"
    num_experts: int | None = None
    top_k: int = 1
    tokens: TokenKind = "sample"
    num_slots: int | None = None
    expert_width: int | None = None
    normalize_router: bool = False
    router_noise: float = 0.0
    balance_coef: float = 0.0
    importance_coef: float = 0.0
    z_coef: float = 0.0
    bias_rate: float = 0.0
    task_input: str = "both"

    def __post_init__(self) -> None:
        _one_of("placement", self.placement, PLACEMENTS)
        _one_of("router", self.router, ROUTERS)
        _one_of("tokens", self.tokens, TOKENS)
        _one_of("task_input", self.task_input, TASK_INPUTS)
        for name in ("num_experts", "num_slots", "expert_width"):
            if (value := getattr(self, name)) is not None:
                _whole(name, value)
        _whole("top_k", self.top_k)
        for name in ("router_noise", "balance_coef", "importance_coef", "z_coef", "bias_rate"):
            _not_negative(name, getattr(self, name))
        if not isinstance(self.normalize_router, bool):
            raise TypeError(f"`normalize_router` must be a bool, got {self.normalize_router!r}")
        self._check_top_k()
        for name, routers in ROUTERS_OF.items():
            if getattr(self, name) != DEFAULTS[name] and self.router not in routers:
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} needs `router` to be one of "
                    f"{sorted(routers)}, got {self.router!r}"
                )
        reason = why_invalid(self.router, self.tokens, self.placement)
        if reason is not None:
            raise ValueError(reason)
        if self.expert_width is not None and self.placement == "final":
            raise ValueError(
                "`expert_width` needs experts with a hidden layer, got `placement`='final', whose "
                "experts are single linear layers"
            )

        self._check_task_input()

    def _check_task_input(self) -> None:
        """Refuse to say of a router what it sees where its kind has settled that."""
        if self.placement == "none":
            return
        if self.router == "uniform" and self.task_input == "router":
            raise ValueError(
                "`task_input`='router' shows the task id to routers only, and `router`='uniform' "
                "looks at nothing: use 'none', or 'experts'"
            )
        if self.router == "task" and not self.router_sees_task:
            raise ValueError(
                f"`task_input` must be 'both' or 'router' with `router`='task', which goes by the "
                f"task id, got {self.task_input!r}"
            )

    def _check_top_k(self) -> None:
        num_experts = self.num_experts if self.num_experts is not None else DEFAULT_NUM_EXPERTS
        if self.router != "task" and self.top_k > num_experts:
            raise ValueError(f"`top_k` must be in [1, num_experts={num_experts}], got {self.top_k}")

    @property
    def is_moe(self) -> bool:
        """Whether there are experts at all."""
        return self.placement != "none"

    @property
    def experts_see_task(self) -> bool:
        """Whether the one-hot enters the first layer."""
        return self.task_input in ("both", "experts")

    @property
    def router_sees_task(self) -> bool:
        """Whether the one-hot is part of every router's input."""
        return self.task_input in ("both", "router")

    @property
    def aux(self) -> AuxCoefs:
        """Coefficients of the auxiliary losses."""
        return AuxCoefs(self.balance_coef, self.importance_coef, self.z_coef)

    def resolve_num_experts(self, num_tasks: int) -> int:
        """Return the number of experts, once the number of tasks is known.

        :param num_tasks: 0 if the observation holds no task id
        :raises ValueError: if the task router has no tasks, or another number of experts is asked,
            or ``task_input`` speaks of a task id that is not there
        """
        if num_tasks == 0 and self.task_input != DEFAULTS["task_input"]:
            raise ValueError(
                f"`task_input`={self.task_input!r} needs a task id in the observation, got none: "
                f"{TASK_ID_CURE}; or leave it at {DEFAULTS['task_input']!r}"
            )
        if self.router != "task":
            return DEFAULT_NUM_EXPERTS if self.num_experts is None else self.num_experts
        if num_tasks == 0:
            raise ValueError(
                f"`router`='task' needs a task id in the observation, got none: {TASK_ID_CURE}"
            )
        if self.num_experts not in (None, num_tasks):
            raise ValueError(
                f"`num_experts` must be the number of tasks, {num_tasks}, with `router`='task' "
                f"(or None), got {self.num_experts}"
            )
        return num_tasks


DEFAULT_NUM_EXPERTS = 4
TASK_ID_CURE = (
    "use a Dict observation with a Discrete `task_id`, as make_multitask_vec_env gives, or "
    "features_extractor_kwargs=dict(num_tasks=N) for a one-hot at the end of the observation"
)
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(MoEOptions)}


def why_invalid(router: str, tokens: str, placement: str) -> str | None:
    """Say why a combination can't work; None if it can.

    :param router: one of ``ROUTERS``
    :param tokens: one of ``TOKENS``
    :param placement: one of ``PLACEMENTS``
    """
    if placement == "none":
        return None
    if tokens not in TOKENS_OF[placement]:
        return (
            f"`tokens`={tokens!r} needs a layer whose input is the feature map, so `placement` "
            f"'middle' or 'all', got {placement!r}"
        )
    if router == "expert_choice" and tokens == "sample":
        return (
            "`router`='expert_choice' chooses among the tokens of one sample, so `tokens` must be "
            "'conv' or 'feature', got 'sample'"
        )
    if router == "expert_choice" and placement != "middle":
        return f"`router`='expert_choice' needs `placement`='middle', got {placement!r}"
    return None


def per_tower(options: Mapping[str, Any], towers: Sequence[str]) -> dict[str, MoEOptions]:
    """Check the options and give each tower its own.

    :param options: by name; each a value for all towers or a dict from tower to value
    :param towers: names of the towers, such as ``("pi", "vf")``
    :return: the options of each tower
    :raises TypeError: if an option is unknown
    :raises ValueError: if a dict names another tower, or a value is not valid
    """
    for name, value in options.items():
        if name not in DEFAULTS:
            raise TypeError(f"unknown option {name!r}; the options are {sorted(DEFAULTS)}")
        if isinstance(value, Mapping) and not set(value) <= set(towers):
            raise ValueError(f"`{name}` may name the towers {list(towers)}, got {list(value)}")
    return {
        tower: MoEOptions(**{name: _of_tower(name, v, tower) for name, v in options.items()})
        for tower in towers
    }


def _of_tower(name: str, value: Any, tower: str) -> Any:
    return value.get(tower, DEFAULTS[name]) if isinstance(value, Mapping) else value


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {list(allowed)}, got {value!r}")


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")


def _not_negative(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"`{name}` must be at least 0 and finite, got {value}")
