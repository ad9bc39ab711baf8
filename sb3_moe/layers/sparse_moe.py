"""Sparse routing: each token chooses experts.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k choices, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch as th

from sb3_moe.layers import paths
from sb3_moe.layers.aux_loss import AuxCoefs
from sb3_moe.layers.checks import not_negative, whole, yes_or_no
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import NO_AUX, MoELayer, RouterInput
from sb3_moe.layers.routers import FAINT, ScoreRouter, check_score_options, make_router
from sb3_moe.layers.routing import Routing, counts, softmax_over_experts


class SparseMoE(MoELayer):
    """Send each token to the k experts it scores highest (arXiv 1701.06538), dropping none.

    The gates are the softmax over all experts: renormalised over the chosen ones, a gate would
    always be 1 with k = 1, and the router learn nothing.

    :param experts: the stacked experts
    :param router: one score per expert
    :param top_k: k
    :param bias_rate: step of loss-free balancing (arXiv 2408.15664, algorithm 1): a bias that only
        chooses, raised for experts with less than their share of tokens. Loads are counted in
        training passes and the bias moves once, when the module leaves training mode, so that the
        policy stays the same within one update
    :param move_on_eval: whether leaving training mode moves the bias; False: whoever trains the
        layer calls :meth:`move_bias` between two updates
    :param renormalize: make the kept gates sum to 1; with k of at least 2
    :param aux: coefficients of the auxiliary losses
    :raises ValueError: if an argument is out of range
    """

    name: ClassVar[str] = "top_k"
    title: ClassVar[str] = "Top-k"
    meaning: ClassVar[str] = "a learned router picks the best"
    learns: ClassVar[bool] = True
    leaves_out: ClassVar[bool] = True
    losses: ClassVar[frozenset[str]] = frozenset({"balance", "importance", "z"})
    steers_itself: bool = True
    when_off: str = "its score is minus infinity, and others are chosen in its place"

    running_bias_E: th.Tensor
    running_count_E: th.Tensor

    def __init__(
        self,
        experts: Experts,
        router: ScoreRouter,
        *,
        top_k: int = 1,
        bias_rate: float = 0.0,
        move_on_eval: bool = True,
        renormalize: bool = False,
        aux: AuxCoefs = NO_AUX,
    ) -> None:
        super().__init__(experts, aux=aux)
        check_top_k(top_k, self.num_experts)
        check_renormalize(renormalize, top_k)
        if bias_rate < 0:
            raise ValueError(f"`bias_rate` must be at least 0, got {bias_rate}")
        router.check_scores(self.num_experts, "num_experts")
        self.router = router
        self.top_k = top_k
        self.bias_rate = bias_rate
        self.move_on_eval = move_on_eval
        self.renormalize = renormalize
        if bias_rate:
            # Float, persistent and changed in place, so that target networks follow.
            self.register_buffer("running_bias_E", th.zeros(self.num_experts))
            self.register_buffer("running_count_E", th.zeros(self.num_experts))

    @classmethod
    def build(  # type: ignore[override]  # its options, by name
        cls,
        experts: Experts,
        sees: RouterInput,
        *,
        top_k: int = 1,
        bias_rate: float = 0.0,
        renormalize: bool = False,
        normalize_router: bool = False,
        router_noise: float = 0.0,
        hidden: Sequence[int] = (),
        bias: bool = False,
    ) -> Self:
        """Return the layer with its router, for a policy, which moves the bias itself.

        It knows an algorithm's next rollout from a mere ``predict``.
        """
        router = make_router(
            sees.features,
            sees.num_experts,
            hidden=hidden,
            normalize=normalize_router,
            noise=router_noise,
            bias=bias,
        )
        return cls(
            experts,
            router,
            top_k=top_k,
            bias_rate=bias_rate,
            move_on_eval=False,
            renormalize=renormalize,
        )

    @classmethod
    def check(cls, options: Mapping[str, Any], num_experts: int | None) -> None:
        """Check choices, bias and scores."""
        check_choices(options["top_k"], num_experts)
        not_negative("bias_rate", options["bias_rate"])
        yes_or_no("renormalize", options["renormalize"])
        check_renormalize(options["renormalize"], options["top_k"])
        check_score_options(options)

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the kept gates."""
        logits_BNE = self._steered(self.router(router_BNR))
        probs_BNE = softmax_over_experts(logits_BNE)
        scores_BNE = probs_BNE
        if self.bias_rate:
            scores_BNE = probs_BNE + self._steered(self.running_bias_E)
        experts_BNk = best(scores_BNE.detach(), self.top_k)
        kept_BNE = th.zeros_like(probs_BNE).scatter(-1, experts_BNk, 1.0)
        if self.renormalize:
            gates_BNE = softmax_over_experts(logits_BNE.masked_fill(kept_BNE == 0, -th.inf))
        else:
            gates_BNE = probs_BNE * kept_BNE
        counts_loads = self.bias_rate and not self.holds_router
        if counts_loads and self.training and th.is_grad_enabled():
            self.running_count_E += counts(experts_BNk, self.num_experts)
        return self.combine(x_BNI, gates_BNE, logits_BNE=logits_BNE, experts_BNk=experts_BNk)

    def take_copies(self) -> float:
        """Let kept gates that don't sum to 1 start all but alike, and still choose by the token."""
        if self.renormalize or self.top_k == self.num_experts:
            return 1.0
        self.router.soften(FAINT)
        return self.top_k / self.num_experts

    def take_shares(self) -> None:
        """Let the scores start so near 0 that all gates are as good as 1/E.

        :raises ValueError: if tokens don't see all experts
        """
        if self.top_k < self.num_experts:
            raise ValueError(
                "`how`='split' needs `top_k` to be the number of experts, "
                f"{self.num_experts}, for each token needs all shares, got {self.top_k}"
            )
        self.router.soften(FAINT)

    def by_expert(self) -> dict[str, int]:
        """Name the bias and the counts too."""
        running = ("running_bias_E", "running_count_E") if self.bias_rate else ()
        return super().by_expert() | dict.fromkeys(running, 0)

    def gates_of(self, task: int | None) -> list[float] | None:
        """Return the one gate of a single expert."""
        return [1.0] if self.num_experts == 1 else None

    @property
    def num_chosen(self) -> int:
        """The k of top-k."""
        return self.top_k

    def train(self, mode: bool = True) -> SparseMoE:
        """Set the mode; on leaving training, move the bias by the loads counted since."""
        if self.move_on_eval and self.training and not mode:
            self.move_bias()
        super().train(mode)
        return self

    @th.no_grad()
    def move_bias(self) -> None:
        """Move the bias by the loads counted since it last moved, and count from zero again."""
        if not self.bias_rate or self.holds_router:
            return
        count_E = self.running_count_E
        # With no counts every difference is 0, and so is its sign: the bias stays.
        self.running_bias_E += self.bias_rate * (count_E.mean() - count_E).sign()
        count_E.zero_()

    def between_updates(self) -> None:
        """Move the bias."""
        self.move_bias()

    @property
    def acts_between_updates(self) -> bool:
        """Whether there is a bias to move."""
        return bool(self.bias_rate)


def best(scores_BNE: th.Tensor, top_k: int) -> th.Tensor:
    """Return the indices of the k largest scores: (B, N, k)."""
    if top_k == 1 and scores_BNE.shape[-1] >= paths.LONG_AXIS_FROM:
        return scores_BNE.argmax(dim=-1, keepdim=True)
    return scores_BNE.topk(top_k, dim=-1).indices


def check_top_k(top_k: int, num_experts: int) -> None:
    """Raise unless so many experts can be chosen."""
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"`top_k` must be in [1, num_experts={num_experts}], got {top_k}")


def check_renormalize(renormalize: bool, top_k: int) -> None:
    """Raise where renormalised gates would always be 1."""
    if renormalize and top_k < 2:
        raise ValueError(
            "`renormalize`=True needs `top_k` of at least 2: the gate of a single expert would "
            f"always be 1, and the router learn nothing, got {top_k}"
        )


def check_choices(top_k: Any, num_experts: int | None) -> None:
    """Raise unless an option says how many of the experts are chosen.

    :param num_experts: None where the number of tasks decides
    """
    whole("top_k", top_k)
    if num_experts is not None:
        check_top_k(top_k, num_experts)
