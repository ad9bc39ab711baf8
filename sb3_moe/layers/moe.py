"""What all mixture-of-experts layers share: a class of them is a router.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k chosen experts per token, I features of
a token, R features that the router sees, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch as th
from torch import nn

from sb3_moe.layers.aux_loss import AuxCoefs, add_loss, total_loss
from sb3_moe.layers.classes import own_options
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.heirs import Heir, shared_biases
from sb3_moe.layers.routers import ScoreRouter
from sb3_moe.layers.routing import Routing, as_routed
from sb3_moe.layers.shares import KeptBuffers
from sb3_moe.layers.steering import Steering
from sb3_moe.layers.tracing import is_recorded

NO_AUX = AuxCoefs()


@dataclass(frozen=True, kw_only=True)
class RouterInput:
    """What a router is built for.

    :param features: R, features of what it sees of a token
    :param num_experts: E
    :param num_tokens: N
    :param num_tasks: length of the one-hot task id; 0 where there is none
    """

    features: int
    num_experts: int
    num_tokens: int = 1
    num_tasks: int = 0


class MoELayer(nn.Module):
    """Tokens in, tokens out, and the routing beside them.

    A subclass is a router: policies take it as ``router=``. It needs :meth:`route`, and a
    constructor that takes the experts, a :class:`RouterInput` and options of its own, keyword-only.
    What else anyone asks of a router has an answer here that the subclass may replace.

    :cvar name: how options, files and figures call it; the class's own where none is given
    :cvar title: how reports write it
    :cvar meaning: half a sentence for reports, about the experts
    :cvar learns: whether gradients reach what it decides by
    :cvar sees_task: it sees the one-hot task id alone
    :cvar needs_tasks: the same, and there is an expert for each task
    :cvar blind: it looks at nothing
    :cvar tokens: kinds of tokens that it takes; None: all
    :cvar placements: where it can sit; None: anywhere
    :cvar leaves_out: whether an expert may get no row at all
    :cvar losses: the auxiliary losses that policies may give it: it learns from them
    :ivar steers_itself: :meth:`route` asks ``steering`` before it makes gates; else
        :meth:`combine` changes the gates that it is given
    :ivar when_off: half a sentence for reports, about an expert that is switched off
    :cvar steering: what someone who looks inside does to the routing for a while
    :cvar holds_router: whether its router is kept as it is, see :meth:`hold_router`
    :cvar held: names of the router's parameters that would learn if it weren't
    :param experts: the experts
    :param aux: coefficients of the auxiliary losses, added while training
    :raises ValueError: if there is an auxiliary loss and nothing that it could teach
    """

    name: ClassVar[str] = "moe"
    title: ClassVar[str] = "MoE"
    meaning: ClassVar[str] = ""
    learns: ClassVar[bool] = False
    sees_task: ClassVar[bool] = False
    needs_tasks: ClassVar[bool] = False
    blind: ClassVar[bool] = False
    leaves_out: ClassVar[bool] = False
    tokens: ClassVar[Sequence[str] | None] = None
    placements: ClassVar[Sequence[str] | None] = None
    losses: ClassVar[frozenset[str]] = frozenset()
    steers_itself: bool = False
    when_off: str = "its output is zero, and the others count as before"
    steering: Steering | None = None
    #: Experts that stay as they are while the others learn.
    frozen: frozenset[int] = frozenset()
    holds_router: bool = False
    held: frozenset[str] = frozenset()
    #: R, features of what its router was built to see; None where it wasn't built for a policy.
    router_features: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Name what the class does not name itself."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        cls.name = own.get("name", cls.__name__)
        cls.title = own.get("title", cls.name)
        cls.meaning = own.get("meaning", f"weighed by the router {cls.title}")
        cls.sees_task = cls.sees_task or cls.needs_tasks

    def __init__(self, experts: Experts, *, aux: AuxCoefs = NO_AUX) -> None:
        super().__init__()
        if aux != NO_AUX and not self.losses:
            raise ValueError(
                f"`aux` must be all 0 for {type(self).__name__}, which has no scores to learn, "
                f"got {aux}"
            )
        self.experts = experts
        self.aux = aux

    # How it is built.

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return its own options and their defaults, which stand in the signature alone."""
        builds = any("build" in vars(each) for each in cls.__mro__[: cls.__mro__.index(MoELayer)])
        found = own_options(cls, "build" if builds else "__init__")
        return {name: value for name, value in found.items() if name != "aux"}

    @classmethod
    def check(cls, options: Mapping[str, Any], num_experts: int | None) -> None:
        """Raise if an option is not valid, before anything is built.

        :param options: its own, all of them
        :param num_experts: E; None where the number of tasks decides
        """

    @classmethod
    def why_invalid(cls, tokens: str, placement: str) -> str | None:
        """Say why the router can't take such tokens, or sit there; None if it can."""
        if cls.tokens is not None and tokens not in cls.tokens:
            return f"`router`={cls.name!r} needs `tokens` of {list(cls.tokens)}, got {tokens!r}"
        if cls.placements is not None and placement not in cls.placements:
            allowed = " or ".join(map(repr, cls.placements))
            return f"`router`={cls.name!r} needs `placement`={allowed}, got {placement!r}"
        return None

    @classmethod
    def build(cls, experts: Experts, sees: RouterInput, **options: Any) -> Self:
        """Return the layer for what a router sees there.

        :param experts: the experts
        :param sees: what the router is built for
        :param options: its own
        """
        return cls(experts, sees, **options)  # type: ignore[call-arg, arg-type]  # a subclass's

    # What it does.

    @property
    def num_experts(self) -> int:
        """E."""
        return self.experts.num_experts

    def forward(
        self, x_BNI: th.Tensor, router_BNR: th.Tensor | None = None, *, aux: bool = True
    ) -> tuple[th.Tensor, Routing]:
        """Route tokens through the experts.

        :param x_BNI: what the experts see
        :param router_BNR: what the router sees; None: the same
        :param aux: whether auxiliary losses count in this pass
        :return: (B, N, O) and the routing
        """
        router_BNR = x_BNI if router_BNR is None else router_BNR
        y_BNO, routing = as_routed(self.route(x_BNI, router_BNR), self.name)
        if self.steering is not None:
            self._check_steered(self.steering, routing)
        if aux and self.aux != NO_AUX and self.training and th.is_grad_enabled():
            y_BNO = add_loss(y_BNO, total_loss(routing, self.aux))
        return y_BNO, routing

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the routing; :meth:`combine` does what follows the gates.

        :param x_BNI: what the experts see
        :param router_BNR: what the router sees
        :return: (B, N, O) and the routing
        """
        raise NotImplementedError

    def combine(
        self,
        x_BNI: th.Tensor,
        gates_BNE: th.Tensor,
        *,
        logits_BNE: th.Tensor | None = None,
        experts_BNk: th.Tensor | None = None,
    ) -> tuple[th.Tensor, Routing]:
        """Run the experts and sum their outputs with the gates.

        :param x_BNI: what the experts see
        :param gates_BNE: weight of each expert in each token's output
        :param logits_BNE: the scores that the gates are made from, for auxiliary losses
        :param experts_BNk: the chosen experts, all other gates being 0; None: all run
        :return: (B, N, O) and the routing
        :raises ValueError: if there isn't a gate for each token and expert
        """
        self._check_gates(x_BNI, gates_BNE)
        if self.steering is not None and not self.steers_itself:
            gates_BNE = self.steering.gates(gates_BNE)
            if experts_BNk is not None:
                experts_BNk = self.steering.chosen(experts_BNk)
        x_TI, gates_TE = x_BNI.flatten(0, 1), gates_BNE.flatten(0, 1)
        if experts_BNk is None:
            y_TO = self.experts.mixture(x_TI, gates_TE)
        else:
            y_TO = self.experts.selected(x_TI, experts_BNk.flatten(0, 1), gates_TE)
        # ONNX takes B for a constant after `unflatten`.
        y_BNO = y_TO.view(-1, x_BNI.shape[1], y_TO.shape[-1])
        return y_BNO, Routing(gates_BNE, logits_BNE, experts_BNk)

    def _check_gates(self, x_BNI: th.Tensor, gates_BNE: th.Tensor) -> None:
        # While it is recorded a graph has sizes that are no numbers.
        if is_recorded():
            return
        wanted, got = (*x_BNI.shape[:2], self.num_experts), tuple(gates_BNE.shape)
        if got != wanted:
            raise ValueError(
                f"`gates_BNE` of the router {self.name!r} must have a gate for each sample, token "
                f"and expert, {wanted}, got {got}"
            )

    def _steered(self, scores_BNK: th.Tensor) -> th.Tensor:
        """Return scores as whoever looks inside wants them."""
        return scores_BNK if self.steering is None else self.steering.scores(scores_BNK)

    def _check_steered(self, steering: Steering, routing: Routing) -> None:
        if steering.off and routing.gates_BNE[..., sorted(steering.off)].any():
            raise ValueError(
                f"the router {self.name!r} must call `self.combine` in `route` for experts to be "
                f"switched off, and gave {sorted(steering.off)} weight all the same"
            )

    def join(self, first: MoELayer) -> None:
        """Take over what the layers of one network have together.

        :param first: the network's first layer with such a router
        """

    def between_updates(self) -> None:
        """Change what may only change between two updates of the policy.

        Called once after each, and once before the first, or where a file of the model goes on.
        """

    @property
    def acts_between_updates(self) -> bool:
        """Whether :meth:`between_updates` does anything."""
        return type(self).between_updates is not MoELayer.between_updates

    # How it grows out of one network, and back into one.

    def take_copies(self) -> float:
        """Get ready for experts that are all alike, and return what the gates of a token sum to.

        :raises ValueError: if alike experts would not do for each token what one of them does
        """
        return 1.0

    def take_shares(self) -> None:
        """Get ready for experts that hold a share each of what one did: with the gates 1/E.

        :raises ValueError: if some tokens would miss some experts, or gates can't be alike
        """
        raise ValueError(
            f"`how`='split' needs a `router` whose gates can all start as 1/E, got {self.name!r}"
        )

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return the gates of the experts where they are the same for every token, else None.

        :param task: the task whose tokens are meant; None: any
        """
        return None

    # How it goes on with more experts, or fewer.

    def by_expert(self) -> dict[str, int]:
        """Return its tensors that hold something for each expert, and on which axis.

        Those of the experts themselves are not among them. Several entries of one expert (slots)
        stand side by side.
        """
        router = getattr(self, "router", None)
        if not isinstance(router, ScoreRouter):
            return {}
        return {f"router.{name}": axis for name, axis in router.by_score().items()}

    def options_for_others(self, *, shares: bool) -> dict[str, Any]:
        """Return options of its own with which it can do the same with more experts, or fewer.

        :param shares: whether gates are to be shared out
        """
        return {"bias": True} if shares and "bias" in self.defaults() else {}

    @th.no_grad()
    def share_out(self, heirs: Sequence[Heir], old: MoELayer) -> list[float]:
        """Let experts take over the gates of others, and return how to scale their outputs.

        :param heirs: what each expert takes over
        :param old: the layer before, whose experts are meant; all that :meth:`by_expert` names is
            copied or averaged already
        :raises ValueError: if the gates can't be shared out
        """
        router, before = getattr(self, "router", None), getattr(old, "router", None)
        if not isinstance(router, ScoreRouter) or router.bias is None:
            raise ValueError(
                f"`router`={self.name!r} can't share out gates: it needs an option `bias` for its "
                "scores, or a method `share_out` of its own"
            )
        assert isinstance(before, ScoreRouter)
        router.bias.copy_(shared_biases(before, old.num_experts, heirs).to(router.bias))
        return [1.0] * self.num_experts

    # What it costs, and what each row counts for.

    @property
    def num_chosen(self) -> int | None:
        """How many experts serve a token; None: all of them."""
        return None

    @property
    def active_share(self) -> float:
        """Share of its experts that a token uses."""
        return 1.0 if self.num_chosen is None else self.num_chosen / self.num_experts

    def rows(self, num_tokens: int) -> int:
        """Return how many rows its experts run on together, for one sample."""
        return num_tokens * (self.num_experts if self.num_chosen is None else self.num_chosen)

    def extra_flops(self, num_tokens: int, in_features: int) -> int:
        """Return the FLOPs for one sample of neither experts nor modules of the router."""
        return 0

    def row_gates(self, routing: Routing) -> th.Tensor:
        """Return the weight of each row of each expert in the output.

        :param routing: what the layer decided
        :return: (T, E), with rows in the order in which the experts saw them
        """
        return routing.gates_BNE.flatten(0, 1)

    # What its router learns.

    def router_parameters(self) -> list[nn.Parameter]:
        """Return what the router learns: all parameters but the experts'."""
        return list(self._of_router().values())

    def _of_router(self) -> dict[str, nn.Parameter]:
        of_experts = set(self.experts.parameters())
        return {name: p for name, p in self.named_parameters() if p not in of_experts}

    def router_buffers(self) -> list[th.Tensor]:
        """Return what the router keeps beside what it learns: all buffers but the experts'."""
        of_experts = {id(each) for each in self.experts.buffers()}
        return [each for each in self.buffers() if id(each) not in of_experts]

    def hold_router(self, still: bool) -> None:
        """Keep what the router decides by as it is, bit for bit, or let it learn again.

        A parameter without a gradient is left alone by torch's optimisers, with its averages. One
        that wouldn't learn anyway stays so. Nothing of this is saved.

        :param still: whether to keep it
        """
        router = self._of_router()
        self.holds_router = still
        self.held |= {name for name, each in router.items() if still and each.requires_grad}
        for name in self.held:
            router[name].requires_grad_(not still)
            router[name].grad = None
        self.held = self.held if still else frozenset()
        for handle in vars(self).pop("_kept_buffers", ()):
            handle.remove()
        if still and self.router_buffers():
            self._kept_buffers = KeptBuffers(self, MoELayer.router_buffers).handles

    def readers(self) -> list[nn.Module]:
        """Return the modules by which the router reads its input.

        The only part besides the experts; the layer itself where there are several, or weights
        in none, and so nothing tells.
        """
        if self.sees_task or self.blind:
            return []
        parts = [part for part in self.children() if part is not self.experts]
        if len(parts) > 1 or [*self.parameters(recurse=False)]:
            return [self]
        # A layer of another width reads some of what there is to see, and nothing tells which.
        widths = {part.in_features for part in parts if isinstance(part, nn.Linear)}
        return [self] if self.router_features and widths - {self.router_features} else parts


def held_routers(module: nn.Module) -> set[nn.Parameter]:
    """Return what routers decide by that are held still for a while.

    :param module: a policy, say
    """
    layers = [each for each in module.modules() if isinstance(each, MoELayer)]
    return {layer.get_parameter(name) for layer in layers for name in layer.held}
