"""What all mixture-of-experts layers share: a class of them is a router.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k chosen experts per token, I features of
a token, R features that the router sees, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch as th
from torch import nn

from sb3_moe.layers.aux_loss import AuxCoefs, add_loss, total_loss
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.routing import Routing


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

    :cvar name: what options, files and figures call it; the class's own where none is given
    :cvar sees: what the router's input is: the ``"tokens"`` (with the task id, where the options
        say so), the one-hot ``"task"`` id alone, or ``"nothing"``
    :cvar needs_tasks: there is one expert for each task
    :cvar leaves_out: whether an expert may get no row at all
    :cvar losses: the auxiliary losses that policies may give it
    :cvar edit_gates: changes gates (..., E) before experts are chosen and weighed by them; set it
        on a layer, for as long as gates are to be changed
    :cvar aux: coefficients of the auxiliary losses, added while training
    :cvar frozen: numbers of experts that stay as they are, which the optimizer sees to
    :param experts: the experts
    """

    name: ClassVar[str] = "moe"
    sees: ClassVar[Literal["tokens", "task", "nothing"]] = "tokens"
    needs_tasks: ClassVar[bool] = False
    leaves_out: ClassVar[bool] = False
    losses: ClassVar[frozenset[str]] = frozenset()
    edit_gates: Callable[[th.Tensor], th.Tensor] | None = None
    aux: AuxCoefs | None = None
    frozen: frozenset[int] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = vars(cls).get("name", cls.__name__)

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.experts = experts

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
        y_BNO, routing = self.route(x_BNI, x_BNI if router_BNR is None else router_BNR)
        if self.aux is not None and aux and self.training and th.is_grad_enabled():
            y_BNO = add_loss(y_BNO, total_loss(routing, self.aux))
        return y_BNO, routing

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the routing; :meth:`combine` does what follows the gates.

        :param x_BNI: what the experts see
        :param router_BNR: what the router sees
        :return: (B, N, O) and the routing
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method `route`")

    def combine(
        self,
        x_BNI: th.Tensor,
        gates_BNE: th.Tensor,
        *,
        logits_BNE: th.Tensor | None = None,
        experts_BNk: th.Tensor | None = None,
        edited: bool = False,
    ) -> tuple[th.Tensor, Routing]:
        """Run the experts and sum their outputs with the gates.

        :param x_BNI: what the experts see
        :param gates_BNE: weight of each expert in each token's output
        :param logits_BNE: the scores that the gates are made from, for auxiliary losses
        :param experts_BNk: the chosen experts, all other gates being 0; None: all run
        :param edited: whether ``edit_gates`` was applied already
        :return: (B, N, O) and the routing
        """
        if self.edit_gates is not None and not edited:
            gates_BNE, experts_BNk = self.edit_gates(gates_BNE), None
        x_TI, gates_TE = x_BNI.flatten(0, 1), gates_BNE.flatten(0, 1)
        if experts_BNk is None:
            y_TO = self.experts.mixture(x_TI, gates_TE)
        else:
            y_TO = self.experts.selected(x_TI, experts_BNk.flatten(0, 1), gates_TE)
        # Not `unflatten`, after which ONNX takes B for a constant.
        y_BNO = y_TO.view(-1, x_BNI.shape[1], y_TO.shape[-1])
        return y_BNO, Routing(gates_BNE, logits_BNE, experts_BNk)

    def expert_axes(self) -> dict[str, int]:
        """Return the router's tensors that hold something for each expert, and on which axis.

        The experts' own are not among them: they have the expert axis first. Several entries of
        one expert (slots) stand side by side.
        """
        return {}

    def between_updates(self) -> None:
        """Change what may only change between two updates of the policy.

        Called once after each, and once before the first, or where a file of the model goes on.
        """


def edited_shares(layer: MoELayer, gates: th.Tensor) -> th.Tensor:
    """Return a softmax's gates (..., E) as :attr:`MoELayer.edit_gates` leaves them, summing to 1.

    :param layer: whose gates they are
    :param gates: which sum to 1
    """
    if layer.edit_gates is None:
        return gates
    edited = layer.edit_gates(gates)
    return edited / edited.sum(-1, keepdim=True).clamp_min(th.finfo(edited.dtype).tiny)
