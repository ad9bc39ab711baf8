"""Experts as one stacked network, run all together or one by one, or as networks of their own.

Shapes: E experts, T rows that every expert may see, M rows per expert, k chosen experts per row,
I inputs, O outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch as th
from torch import nn

from sb3_moe.layers import fused, paths
from sb3_moe.layers.activations import FROM_OUTPUT, POINTWISE
from sb3_moe.layers.combining import Combination
from sb3_moe.layers.encoder import run
from sb3_moe.layers.grouped import Groups, can_group, grouped_linear, sort_rows
from sb3_moe.layers.shares import Share, Statistic, apart, statistics_apart
from sb3_moe.layers.stacked import Stacked, StackedLinear, gated_sum
from sb3_moe.layers.stacking import (
    can_stack,
    check_alike,
    flat,
    needs_all_rows,
    singles,
    stack,
    unstack_all,
)
from sb3_moe.layers.tracing import is_eager, is_recorded, is_transformed, is_watched

# A stacked linear layer's parameters.
NAMES = ("weight", "bias_EO")


class Experts(nn.Module):
    """E networks of one shape.

    :param num_experts: E
    :param out_features: O
    """

    def __init__(self, num_experts: int, out_features: int) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.out_features = out_features
        # Multiply-adds for one row in one expert.
        self.macs = 0
        # Statistics over the batch need every row in every expert.
        self.needs_all_rows = False
        # What is done with all outputs before they are summed.
        self.combination: type[Combination] | None = None

    def forward(self, x_EMI: th.Tensor) -> th.Tensor:
        """Run each expert on rows of its own: (E, M, I) to (E, M, O)."""
        raise NotImplementedError

    def mixture(self, x_TI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Run every expert on every row and sum with the gates: (T, I) to (T, O)."""
        y_ETO = self.every(x_TI)
        if self.combination is not None:
            return self.combination.mixture(y_ETO, gates_TE)
        return gated_sum(y_ETO, gates_TE)

    def every(self, x_TI: th.Tensor) -> th.Tensor:
        """Run every expert on every row: (T, I) to (E, T, O)."""
        raise NotImplementedError

    def selected(self, x_TI: th.Tensor, experts_Tk: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Run on each row only its chosen experts; no row is dropped.

        :param x_TI: the rows
        :param experts_Tk: indices of the chosen experts
        :param gates_TE: weight of each expert's output, zero where it was not chosen
        :return: (T, O)
        """
        if self.needs_all_rows or self.combination is not None or is_recorded():
            return self.mixture(x_TI, gates_TE)
        if not self._wastes(x_TI, experts_Tk):
            return self.mixture(x_TI, gates_TE)
        if self.num_experts >= paths.GROUPED_FROM and self.runs_grouped(x_TI):
            return self._grouped(x_TI, experts_Tk, gates_TE)
        # One by one needs the counts on the host: on a GPU that wait costs more than the waste,
        # and under a transform there is nothing to read.
        if not paths.on_cpu(x_TI) or is_transformed():
            return self.mixture(x_TI, gates_TE)
        return self._sorted(x_TI, experts_Tk, gates_TE)

    def _wastes(self, x_TI: th.Tensor, experts_Tk: th.Tensor) -> bool:
        """Say whether experts that were not chosen would cost more than to sort the rows."""
        wasted = len(x_TI) * (self.num_experts - experts_Tk.shape[1]) * self.macs
        return wasted > (paths.MASK_LIMIT if paths.on_cpu(x_TI) else paths.MASK_LIMIT_ELSEWHERE)

    def runs_grouped(self, x_TI: th.Tensor) -> bool:
        """Say whether each layer can run on sorted rows, for all experts in one call."""
        return False

    def grouped(self, x_MI: th.Tensor, groups: Groups) -> th.Tensor:
        """Run each expert on the sorted rows that are its own: (M, I) to (M, O)."""
        raise NotImplementedError

    @property
    def hidden_width(self) -> int:
        """H, what an expert's last linear layer reads of its hidden layers; 0: nothing is known."""
        return 0

    def hidden(self, x_TI: th.Tensor, experts_Tk: th.Tensor | None = None) -> th.Tensor:
        """Return what each expert's last linear layer reads: (T, E, H).

        :param x_TI: the rows
        :param experts_Tk: indices of the chosen experts, the others of which don't matter; None:
            all do
        """
        raise NotImplementedError

    def last_weights(self) -> th.Tensor:
        """Return the weights of the experts' last linear layers: (E, H, O)."""
        raise NotImplementedError

    def two_layers(self, num_rows: int) -> fused.TwoLayers | None:
        """Return the weights where one operation can run all experts on the same rows."""
        return None

    def _grouped(self, x_TI: th.Tensor, experts_Tk: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        y_TkO = self._on_sorted_rows(self.grouped, x_TI, experts_Tk)
        gated_TkO = y_TkO * gates_TE.gather(1, experts_Tk).unsqueeze(-1)
        return gated_TkO.squeeze(1) if experts_Tk.shape[1] == 1 else gated_TkO.sum(1)

    def _on_sorted_rows(
        self,
        run: Callable[[th.Tensor, Groups], th.Tensor],
        x_TI: th.Tensor,
        experts_Tk: th.Tensor,
    ) -> th.Tensor:
        """Sort the rows by expert, run something on them, and put them back: (T, k, O)."""
        top_k = experts_Tk.shape[1]
        order_M, groups = sort_rows(experts_Tk, self.num_experts, at_once=True)
        rows_M = order_M if top_k == 1 else order_M.div(top_k, rounding_mode="floor")
        y_MO = run(x_TI.index_select(0, rows_M), groups)
        places_M = th.arange(len(order_M), device=order_M.device)
        inverse_M = th.empty_like(order_M).scatter_(0, order_M, places_M)
        return y_MO.index_select(0, inverse_M).unflatten(0, experts_Tk.shape)

    def _sorted(self, x_TI: th.Tensor, experts_Tk: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        top_k = experts_Tk.shape[1]
        flat = experts_Tk.flatten()
        order = flat.argsort()
        counts = th.bincount(flat, minlength=self.num_experts).tolist()
        rows = x_TI[order.div(top_k, rounding_mode="floor")].split(counts)
        outputs = [expert(x) for expert, x in zip(self._singles(), rows, strict=True) if len(x)]
        inverse = th.empty_like(order).scatter_(0, order, th.arange(len(order)))
        y_TkO = th.cat(outputs)[inverse].unflatten(0, experts_Tk.shape)
        return (y_TkO * gates_TE.gather(1, experts_Tk).unsqueeze(-1)).sum(1)

    def _singles(self) -> Sequence[Callable[[th.Tensor], th.Tensor]]:
        """Return each expert as a function of its rows."""
        raise NotImplementedError

    def expert(self, k: int) -> nn.Sequential:
        """Return expert ``k`` as plain modules, with a copy of its weights."""
        raise NotImplementedError

    def scale_outputs(self, factor: float) -> None:
        """Multiply every expert's output by one number, in its last weights."""
        self.scale_each([factor] * self.num_experts)

    def scale_each(self, factors: Sequence[float]) -> None:
        """Multiply each expert's output by a number of its own, in its last weights."""
        raise NotImplementedError

    def shares(self) -> list[Share]:
        """Return the weights that experts have to themselves, and whose they are."""
        raise NotImplementedError

    def statistics(self) -> list[Statistic]:
        """Return the buffers that experts have to themselves, and whose they are."""
        raise NotImplementedError


class StackedNetwork(Experts):
    """E networks of one shape, run together.

    Each expert is given as a plain module and so starts with exactly the weights that module was
    given: whoever builds the experts decides how they are initialised.

    :param experts: one module per expert, alike but for their weights: an ``nn.Linear``, or an
        ``nn.Sequential`` of linear layers, an image encoder, normalisations and activations that
        ends in an ``nn.Linear``; a layer of unknown kind runs expert by expert
    :raises ValueError: if there is no expert, or they differ in more than their weights
    :raises TypeError: if a convolution can't be stacked, or the last layer is not linear
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        _check(experts)
        *hidden, last = zip(*(flat(expert) for expert in experts), strict=True)
        if not isinstance(last[0], nn.Linear):
            raise TypeError(f"an expert must end in nn.Linear, got {type(last[0]).__name__}")
        super().__init__(len(experts), last[0].out_features)
        self.layers = nn.Sequential(*(stack(same) for same in hidden))
        # Whether a layer before the last one already turns shared rows into rows per expert.
        self.spreads = any(isinstance(layer, Stacked) for layer in self.layers)
        self.last = StackedLinear(last, last=self.spreads)
        self.needs_all_rows = needs_all_rows(self.layers)
        leaves = [m for m in self.layers.modules() if isinstance(m, StackedLinear)]
        self.width = max((leaf.out_features for leaf in leaves), default=0)
        self.macs = sum(m.macs for m in self.modules() if isinstance(m, StackedLinear))

    def forward(self, x_EMI: th.Tensor) -> th.Tensor:
        """Run each expert on rows of its own: (E, M, I) to (E, M, O)."""
        if self._one_by_one(x_EMI.shape[1]):
            pairs = zip(self._singles(), x_EMI.unbind(), strict=True)
            return th.stack([expert(x_MI) for expert, x_MI in pairs])
        return self.last(run(self.layers, x_EMI, shared=False))

    def mixture(self, x_TI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        """Run every expert on every row and sum with the gates: (T, I) to (T, O)."""
        if not self.spreads or self.combination is not None:
            return super().mixture(x_TI, gates_TE)
        two_layers = self.two_layers(x_TI.shape[0])
        if two_layers is not None:
            return fused.mixture(x_TI, gates_TE, two_layers)
        if self._one_by_one(x_TI.shape[0]):
            return self._mixture_one_by_one(x_TI, gates_TE)
        return self.last.mix(run(self.layers, x_TI, shared=True), gates_TE)

    def every(self, x_TI: th.Tensor) -> th.Tensor:
        """Run every expert on every row: (T, I) to (E, T, O)."""
        hidden = run(self.layers, x_TI, shared=True)
        return self.last(hidden) if self.spreads else self.last.shared(hidden)

    def _one_by_one(self, num_rows: int) -> bool:
        values = self.num_experts * num_rows * self.width
        if self.needs_all_rows or is_recorded() or values < paths.ONE_BY_ONE_FROM:
            return False
        large = values >= paths.ONE_BY_ONE_FROM * th.get_num_threads()
        return large and paths.on_cpu(self.last.weight)

    def two_layers(self, num_rows: int) -> fused.TwoLayers | None:
        """Return the weights where one operation can run all experts on the same rows.

        That is for two linear layers with biases and a known activation that nobody watches, and
        sizes at which the layers would run as wide GEMMs.
        """
        if self.combination is not None:
            return None
        # Attributes of modules are slow to find, and this is asked in every pass.
        modules: dict[str, Any] = self._modules
        layers, last = modules["layers"]._modules, modules["last"]
        if len(layers) != 2:
            return None
        first, activation = layers.values()
        pointwise = FROM_OUTPUT.get(type(activation))
        if pointwise is None or type(first) is not StackedLinear or type(last) is not StackedLinear:
            return None
        w1_EHI, b1_EH = map(first._parameters.get, NAMES)
        w2_EHO, b2_EO = map(last._parameters.get, NAMES)
        if w1_EHI is None or b1_EH is None or w2_EHO is None or b2_EO is None:
            return None
        if is_watched(activation) or not is_eager():
            return None
        if w1_EHI.numel() > paths.WIDE_GEMM_LIMIT or w2_EHO.numel() > paths.WIDE_GEMM_LIMIT:
            return None
        values = num_rows * b1_EH.numel()
        if values >= paths.ONE_BY_ONE_FROM and self._one_by_one(num_rows):
            return None
        return fused.TwoLayers(w1_EHI, b1_EH, w2_EHO, b2_EO, pointwise)

    def runs_grouped(self, x_TI: th.Tensor) -> bool:
        """Say whether each layer can run on sorted rows, for all experts in one call.

        Linear layers can, and what does the same to each number, unless someone watches.
        """
        layers = [*self.layers, self.last]
        kinds = (StackedLinear, *POINTWISE)
        return (
            is_eager()
            and can_group(x_TI.device, x_TI.dtype)
            and all(type(layer) in kinds and not is_watched(layer) for layer in layers)
        )

    @property
    def hidden_width(self) -> int:
        """H, unless the experts are linear or statistics would see the rows twice."""
        return self.last.in_features if self.spreads and not self.needs_all_rows else 0

    def hidden(self, x_TI: th.Tensor, experts_Tk: th.Tensor | None = None) -> th.Tensor:
        """Return what each expert's last linear layer reads: (T, E, H)."""
        if experts_Tk is None or not (self._wastes(x_TI, experts_Tk) and self.runs_grouped(x_TI)):
            return run(self.layers, x_TI, shared=True).transpose(0, 1)
        chosen_TkH = self._on_sorted_rows(self._grouped_hidden, x_TI, experts_Tk)
        hidden_TEH = chosen_TkH.new_zeros(len(x_TI), self.num_experts, chosen_TkH.shape[2])
        return hidden_TEH.scatter(1, experts_Tk.unsqueeze(-1).expand_as(chosen_TkH), chosen_TkH)

    def last_weights(self) -> th.Tensor:
        """Return the weights of the experts' last linear layers: (E, H, O)."""
        return self.last.weight_EIO

    def grouped(self, x_MI: th.Tensor, groups: Groups) -> th.Tensor:
        """Run each expert on the sorted rows that are its own: (M, I) to (M, O)."""
        return self._run_grouped([*self.layers, self.last], x_MI, groups)

    def _grouped_hidden(self, x_MI: th.Tensor, groups: Groups) -> th.Tensor:
        return self._run_grouped(self.layers, x_MI, groups)

    @staticmethod
    def _run_grouped(layers: Iterable[nn.Module], x_MI: th.Tensor, groups: Groups) -> th.Tensor:
        for layer in layers:
            if isinstance(layer, StackedLinear):
                x_MI = grouped_linear(x_MI, layer.weight_EIO, layer.bias_EO, groups)
            else:
                x_MI = layer(x_MI)
        return x_MI

    def _singles(self) -> list[Callable[[th.Tensor], th.Tensor]]:
        """Return each expert as a function of its rows."""
        return singles([*self.layers, self.last])

    def _mixture_one_by_one(self, x_TI: th.Tensor, gates_TE: th.Tensor) -> th.Tensor:
        if self.last.bias_EO is None:
            y_TO = x_TI.new_zeros(len(x_TI), self.out_features)
        else:
            y_TO = gates_TE @ self.last.bias_EO
        gates, weights = gates_TE.split(1, dim=1), self.last.weight_EIO.unbind()
        for hidden, gate_T1, weight_IO in zip(singles(self.layers), gates, weights, strict=True):
            # Autocast leaves what is done in place to us.
            gated = (hidden(x_TI) * gate_T1).to(y_TO.dtype)
            y_TO = y_TO.addmm_(gated, weight_IO.to(y_TO.dtype))
        return y_TO

    def expert(self, k: int) -> nn.Sequential:
        """Return expert ``k`` as plain modules, with a copy of its weights."""
        return nn.Sequential(*unstack_all(self.layers, k), self.last.unstack(k))

    @th.no_grad()
    def scale_each(self, factors: Sequence[float]) -> None:
        """Multiply the last layers' weights and biases."""
        for parameter in self.last.parameters():
            factors_E = parameter.new_tensor(factors)
            parameter.mul_(factors_E.view(-1, *(1,) * (parameter.dim() - 1)))

    def shares(self) -> list[Share]:
        """Return the weights of every stacked layer."""
        layers = [layer for layer in self.modules() if isinstance(layer, Stacked)]
        return [share for layer in layers for share in layer.shares()]

    def statistics(self) -> list[Statistic]:
        """Return the buffers of every stacked layer."""
        layers = [layer for layer in self.modules() if isinstance(layer, Stacked)]
        return [each for layer in layers for each in layer.statistics()]


class SeparateNetworks(Experts):
    """E networks of any kind, run one after the other.

    :param experts: one module per expert, alike but for their weights, from rows to rows
    :param out_features: O
    :raises ValueError: if there is no expert, or they differ in more than their weights
    """

    def __init__(self, experts: Sequence[nn.Module], out_features: int) -> None:
        _check(experts)
        super().__init__(len(experts), out_features)
        self.each = nn.ModuleList(experts)
        self.needs_all_rows = next(experts[0].buffers(), None) is not None
        self.macs = sum(p.numel() for p in experts[0].parameters())

    def forward(self, x_EMI: th.Tensor) -> th.Tensor:
        """Run each expert on rows of its own: (E, M, I) to (E, M, O)."""
        return th.stack([run(x_MI) for run, x_MI in zip(self.each, x_EMI.unbind(), strict=True)])

    def every(self, x_TI: th.Tensor) -> th.Tensor:
        """Run every expert on every row: (T, I) to (E, T, O)."""
        return th.stack([expert(x_TI) for expert in self.each])

    def _singles(self) -> Sequence[Callable[[th.Tensor], th.Tensor]]:
        return list(self.each)

    def expert(self, k: int) -> nn.Sequential:
        """Return a copy of expert ``k``."""
        return nn.Sequential(copy.deepcopy(self.each[k]))

    @th.no_grad()
    def scale_each(self, factors: Sequence[float]) -> None:
        """Ask each expert's own ``scale_outputs``; without one, multiply its last ``nn.Linear``.

        What experts share is multiplied once.
        """
        shared: dict[int, tuple[th.Tensor, float]] = {}
        for expert, factor in zip(self.each, factors, strict=True):
            own = getattr(expert, "scale_outputs", None)
            if callable(own):
                own(factor)
                continue
            linears = [m for m in expert.modules() if isinstance(m, nn.Linear)]
            shared |= {id(p): (p, factor) for linear in linears[-1:] for p in linear.parameters()}
        for parameter, factor in shared.values():
            parameter.mul_(factor)

    def shares(self) -> list[Share]:
        """Return the weights of each network."""
        return apart(self.each)

    def statistics(self) -> list[Statistic]:
        """Return the buffers of each network."""
        return statistics_apart(self.each)


def _check(experts: Sequence[nn.Module]) -> None:
    if not experts:
        raise ValueError("`experts` must hold at least 1 expert, got 0")
    check_alike(experts)


def together(experts: Sequence[nn.Module], out_features: int) -> Experts:
    """Stack experts where that is known to be the same, else leave them apart.

    :param experts: one module per expert, alike but for their weights
    :param out_features: O
    """
    if can_stack(experts[0]):
        return StackedNetwork(experts)
    return SeparateNetworks(experts, out_features)


def mlp_experts(
    num_experts: int,
    in_features: int,
    hidden: int,
    out_features: int,
    activation_fn: Callable[[], nn.Module] = nn.ReLU,
) -> StackedNetwork:
    """Build experts of two linear layers with an activation between, initialised as torch does.

    :param num_experts: E
    :param in_features: features of a token
    :param hidden: width of an expert
    :param out_features: features of its output
    :param activation_fn: the activation between
    """
    return StackedNetwork(
        [
            nn.Sequential(
                nn.Linear(in_features, hidden), activation_fn(), nn.Linear(hidden, out_features)
            )
            for _ in range(num_experts)
        ]
    )
