"""What all mixture-of-experts layers share, and the layer whose gates nobody learns.

Shapes: B batch, N tokens per sample, E experts, I features of a token, R features that the router
sees, O outputs.
"""

from __future__ import annotations

import torch as th
from torch import nn

from sb3_moe.layers.aux_loss import AuxCoefs, add_loss, total_loss
from sb3_moe.layers.experts import StackedNetwork
from sb3_moe.layers.routing import Routing

NO_AUX = AuxCoefs()


class MoELayer(nn.Module):
    """Tokens in, tokens out, and the routing beside them.

    :param experts: the stacked experts
    :param aux: coefficients of the auxiliary losses, added while training
    :raises ValueError: if there is an auxiliary loss and nothing that it could teach
    """

    has_scores = True

    def __init__(self, experts: StackedNetwork, *, aux: AuxCoefs = NO_AUX) -> None:
        super().__init__()
        if aux != NO_AUX and not self.has_scores:
            raise ValueError(
                f"`aux` must be all 0 for {type(self).__name__}, which has no scores to learn, "
                f"got {aux}"
            )
        self.experts = experts
        self.aux = aux

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
        if aux and self.training and self.aux != NO_AUX and th.is_grad_enabled():
            y_BNO = add_loss(y_BNO, total_loss(routing, self.aux))
        return y_BNO, routing

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Compute the output and the routing."""
        raise NotImplementedError


class UniformMoE(MoELayer):
    """Average all experts: the control that has experts but no router."""

    has_scores = False

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give every expert the weight 1/E."""
        shape = (*x_BNI.shape[:2], self.num_experts)
        gates_BNE = x_BNI.new_full(shape, 1.0 / self.num_experts)
        y_TO = self.experts.mixture(x_BNI.flatten(0, 1), gates_BNE.flatten(0, 1))
        return y_TO.unflatten(0, shape[:2]), Routing(gates_BNE)


class TaskMoE(MoELayer):
    """Let the task id pick the expert: the paper's hardcoded router."""

    has_scores = False

    def route(self, x_BNI: th.Tensor, router_BNR: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Send every token to its task's expert, whatever a normaliser made of the one-hot.

        :param router_BNR: the one-hot task id; the largest entry is taken for the one
        """
        experts_BN1 = router_BNR.argmax(dim=-1, keepdim=True)
        gates_BNE = th.zeros_like(router_BNR).scatter(-1, experts_BN1, 1.0)
        y_TO = self.experts.selected(
            x_BNI.flatten(0, 1), experts_BN1.flatten(0, 1), gates_BNE.flatten(0, 1)
        )
        return y_TO.unflatten(0, x_BNI.shape[:2]), Routing(gates_BNE, None, experts_BN1)
