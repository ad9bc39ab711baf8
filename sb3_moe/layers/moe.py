"""The base class of all mixture-of-experts layers; each subclass is a router.

Shapes: B batch, N tokens per sample, T = B*N, E experts, k chosen experts per token, I features of
a token, R features that the router sees, O outputs. Where a sample is one token there is no N axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch as th
from torch import Tensor, nn

from sb3_moe.layers.aux_loss import AuxCoefs, add_loss, total_loss
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.routing import Routing

#: The attribute of parameters that `hold_router` holds.
HELD = "is_held"


@dataclass(frozen=True, kw_only=True)
class RouterInput:
    """The sizes that a router is built for.

    :param features: R, number of features that the router sees of a token
    :param num_experts: E
    :param num_tokens: N
    :param num_tasks: length of the one-hot task id; 0 where there is none
    :param tells_task: whether it is the true task's, and not a belief in its place
    """

    features: int
    num_experts: int
    num_tokens: int = 1
    num_tasks: int = 0
    tells_task: bool = True


class MoELayer(nn.Module):
    """A mixture-of-experts layer: it takes tokens, and returns tokens and the routing.

    A subclass is a router: policies take it as ``router=``. It needs :meth:`route`, and a
    constructor that takes the experts, a :class:`RouterInput` and options of its own, keyword-only.

    :cvar name: the router's name in options, files and figures; by default that of the class
    :cvar sees: what the router's input is: the ``"tokens"`` (with the task id, where the options
        say so), the one-hot ``"task"`` id alone, a ``"belief"`` about it, or ``"nothing"``
    :cvar needs_tasks: whether there must be one expert for each task
    :cvar leaves_out: whether an expert may get no row at all
    :cvar losses: the auxiliary losses that policies may give it
    :cvar axes: which axis is that of experts, by the names that tensors of the router have in
        their modules; see :meth:`expert_axes`
    :cvar edit_gates: a function that changes gates (..., E) before experts are chosen and weighed
        by them; set it on a layer for as long as its gates are to be changed
    :cvar aux: coefficients of the auxiliary losses, added while training
    :cvar frozen: numbers of experts that stay as they are; the policy's optimizer keeps them so
    :param experts: the experts
    :param router_input: the sizes that a router with weights is built for
    """

    name = "moe"
    sees: ClassVar[Literal["tokens", "task", "belief", "nothing"]] = "tokens"
    needs_tasks = False
    leaves_out = False
    losses: ClassVar[frozenset[str]] = frozenset()
    axes: ClassVar[dict[str, int]] = {}
    edit_gates: Callable[[Tensor], Tensor] | None = None
    aux: AuxCoefs | None = None
    frozen: frozenset[int] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = vars(cls).get("name", cls.__name__)

    def __init__(self, experts: Experts, router_input: RouterInput | None = None) -> None:
        super().__init__()
        self.experts = experts

    @property
    def num_experts(self) -> int:
        """E."""
        return self.experts.num_experts

    def forward(
        self, x: Tensor, router_x: Tensor | None = None, *, aux: bool = True
    ) -> tuple[Tensor, Routing]:
        """Route tokens through the experts.

        :param x: what the experts see, (B, I) where a sample is one token, else (B, N, I)
        :param router_x: what the router sees, (B, R) or (B, N, R); None: what the experts see
        :param aux: whether auxiliary losses count in this pass
        :return: (B, O) or (B, N, O), and the routing
        """
        y, routing = self.route(x, x if router_x is None else router_x)
        if self.aux is not None and aux and self.training and th.is_grad_enabled():
            y = add_loss(y, total_loss(routing, self.aux))
        return y, routing

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output and the routing; call :meth:`combine` once the gates are known.

        :param x: what the experts see, (B, I) where a sample is one token, else (B, N, I)
        :param router_x: what the router sees, (B, R) or (B, N, R)
        :return: (B, O) or (B, N, O), and the routing
        """
        raise NotImplementedError(f"{type(self).__name__} must have a method `route`")

    def combine(
        self,
        x: Tensor,
        gates: Tensor,
        *,
        logits: Tensor | None = None,
        experts: Tensor | None = None,
        edited: bool = False,
    ) -> tuple[Tensor, Routing]:
        """Run the experts and sum their outputs with the gates.

        :param x: what the experts see
        :param gates: weight of each expert in each token's output, (B, E) or (B, N, E)
        :param logits: the scores that the gates are made from, for auxiliary losses
        :param experts: indices of the chosen experts, (B, k) or (B, N, k), all other gates being 0;
            None: all run
        :param edited: whether ``edit_gates`` was applied already
        :return: (B, O) or (B, N, O), and the routing
        """
        if self.edit_gates is not None:
            gates = gates if edited else self.edit_gates(gates)
            experts = None  # one that is chosen may be switched off
        routing = Routing(gates, logits, experts)
        if x.dim() == 2:
            return self.experts.selected(x, experts, gates), routing
        chosen = None if experts is None else experts.flatten(0, 1)
        y_TO = self.experts.selected(x.flatten(0, 1), chosen, gates.flatten(0, 1))
        # Not `unflatten`: ONNX would export B as a constant.
        return y_TO.view(-1, x.shape[1], y_TO.shape[-1]), routing

    def expert_axes(self) -> dict[str, int]:
        """Return the names of the router's tensors with an axis over experts, and which axis it is.

        The experts' own tensors are not included: their first axis is that of experts. If an expert
        has several entries (slots), they are next to each other.
        """
        last = {name: name.rpartition(".")[2] for name in router_tensors(self)}
        return {name: self.axes[own] for name, own in last.items() if own in self.axes}


def edited_shares(layer: MoELayer, gates: Tensor) -> Tensor:
    """Apply a layer's ``edit_gates`` to gates (..., E), and make them sum to 1 again.

    :param layer: the layer
    :param gates: its gates, which sum to 1
    """
    if layer.edit_gates is None:
        return gates
    # One that rounds to 1 may be switched off: the gates of others must not all be 0 then.
    edited = layer.edit_gates(gates.clamp_min(th.finfo(gates.dtype).tiny))
    return edited / edited.sum(-1, keepdim=True).clamp_min(th.finfo(edited.dtype).tiny)


def router_tensors(layer: MoELayer) -> dict[str, Tensor]:
    """Return the tensors of a mixture's router by name: all of the layer's but the experts'."""
    named = layer.state_dict(keep_vars=True)
    return {name: each for name, each in named.items() if not name.startswith("experts.")}


def router_parameters(layer: MoELayer) -> list[nn.Parameter]:
    """Return the parameters of a mixture's router."""
    return [each for each in router_tensors(layer).values() if isinstance(each, nn.Parameter)]


def hold_router(layer: MoELayer, still: bool) -> None:
    """Hold a router's parameters as they are, or let those learn again that were held.

    Optimizers leave a parameter without a gradient alone, and its running averages too. Files of
    the model don't tell which routers are held.

    :param layer: the router's mixture
    :param still: True: hold the router; False: let it learn again
    """
    for parameter in router_parameters(layer):
        if still and parameter.requires_grad:
            parameter.requires_grad_(False)
            parameter.grad = None
            vars(parameter)[HELD] = True
        elif not still and vars(parameter).pop(HELD, False):
            parameter.requires_grad_(True)
