"""Experts: networks of one shape that run together, in one of two ways.

Wide: every expert runs on every row, in GEMMs over all experts. Sorted: each expert runs only on
the rows that chose it, which are contiguous once the rows are sorted by expert. On a GPU, float32
is always wide: to run sorted rows, the CPU would wait for their counts. `grouped_mm` avoids this
wait, but in bfloat16 only.

Shapes: E experts, T rows that every expert sees, M rows per expert or sorted rows, k chosen experts
per row, I inputs, H hidden, O outputs.
"""

from collections.abc import Iterable, Sequence

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_moe.layers.activations import POINTWISE
from sb3_moe.layers.shares import Share
from sb3_moe.layers.stacked import (
    Function,
    Stacked,
    StackedEach,
    StackedLayerNorm,
    StackedLinear,
    StackedResidual,
    apart,
    flat,
    gated_sum,
    stack,
    unstack,
)

# Up to this many wasted multiply-adds (rows, times experts that were not chosen, times those of a
# row), running all experts on all rows is faster than sorting. On a GPU multiply-adds are cheap and
# calls expensive, so the number is larger there (an estimate).
WIDE_UP_TO = {"cpu": 4_000_000}
WIDE_UP_TO_ELSEWHERE = 1_000_000_000
# `grouped_mm` needs the rows of every matrix to begin at multiples of ALIGNMENT bytes. Padding one
# number of a matrix costs as much as MACS_OF_PADDING multiply-adds. If there is padding, up to
# FEW_EXPERTS experts are faster one by one on a CPU.
ALIGNMENT = 16
MACS_OF_PADDING = 100
FEW_EXPERTS = 4
# Layers that can run on the sorted rows of all experts in one call: `_run_grouped` has a case for
# them, or they treat every number alike.
GROUPS = (StackedLinear, StackedLayerNorm, StackedResidual, nn.Sequential, *POINTWISE)


class Experts(nn.Module):
    """E networks of one shape, whose layers run one after the other, each for all experts.

    :param layers: all layers but the last; those that aren't :class:`Stacked` are the same for all
    :param last: the last layer
    :param num_experts: E
    :param out_features: O
    """

    def __init__(
        self, layers: Iterable[nn.Module], last: nn.Module, num_experts: int, out_features: int
    ) -> None:
        super().__init__()
        self.num_experts = num_experts
        self.out_features = out_features
        self.layers = nn.Sequential(*layers)
        self.last = last
        linears = [m for m in self.modules() if isinstance(m, StackedLinear)]
        # Multiply-adds for one row in one expert.
        self.macs = sum(m.in_features * m.out_features for m in linears)
        # Size, in numbers, of the weight matrices that `grouped_mm` needs padded.
        self.padded = sum(m.weight.numel() for m in linears if any(_missing(m.weight)))
        # Whether every expert must run on every row: for statistics over the batch, or for hooks on
        # the layers inside, which are not called for sorted rows.
        self.needs_all_rows = bool(self.statistics())
        self._all_group = all(type(m) in GROUPS for m in (*self.layers.modules(), last))
        # Transforms the outputs of all experts together, (E, T, O) to (E, T, O), before they are
        # summed (Gram-Schmidt does); None: they are summed as they are.
        self.combination: Function | None = None

    @property
    def spreads(self) -> bool:
        """Whether a layer before the last one turns shared rows into rows per expert."""
        return any(isinstance(layer, Stacked) for layer in self.layers)

    def forward(self, x: Tensor) -> Tensor:
        """Run each expert on all rows, (T, I), or on its own, (E, M, I), to (E, M, O)."""
        return self.last(self.layers(x))

    def mixture(self, x_TI: Tensor, gates_TE: Tensor) -> Tensor:
        """Run every expert on every row and sum with the gates: (T, I) to (T, O)."""
        x = x_TI
        for layer in self.layers:  # one call less than `self.layers(x)`
            x = layer(x)
        if self.combination is None and isinstance(self.last, StackedLinear):
            return self.last.mix(x, gates_TE)
        y_ETO = self.last(x)
        return gated_sum(self.combination(y_ETO) if self.combination else y_ETO, gates_TE)

    def selected(self, x_TI: Tensor, experts_Tk: Tensor | None, gates_TE: Tensor) -> Tensor:
        """Return the gated sum of each row's chosen experts; no row is dropped.

        Where it is cheaper than sorting the rows, all experts run on all rows, with gates of zero.

        :param x_TI: the rows
        :param experts_Tk: indices of the chosen experts; None: all
        :param gates_TE: weight of each expert's output, zero where it was not chosen
        :return: (T, O)
        """
        if experts_Tk is None or not self._sorts(x_TI, experts_Tk):
            return self.mixture(x_TI, gates_TE)
        y_TkO = self._on_sorted_rows(x_TI, experts_Tk)
        gated_TkO = y_TkO * gates_TE.gather(1, experts_Tk).unsqueeze(-1)
        return gated_TkO.squeeze(1) if experts_Tk.shape[1] == 1 else gated_TkO.sum(1)

    def _sorts(self, x_TI: Tensor, experts_Tk: Tensor) -> bool:
        """Say whether sorting the rows costs less than running every expert on every row."""
        # A recorded graph, such as ONNX, serves any number of rows, and has no `grouped_mm`.
        if self.needs_all_rows or self.combination is not None or is_recorded():
            return False
        wasted = x_TI.shape[0] * (self.num_experts - experts_Tk.shape[1]) * self.macs
        allowed = WIDE_UP_TO.get(x_TI.device.type, WIDE_UP_TO_ELSEWHERE)
        if wasted <= allowed + MACS_OF_PADDING * self.padded:
            return False
        # Without groups the CPU reads how many rows each expert has, and would wait for a GPU.
        return x_TI.device.type == "cpu" or self._groups(x_TI)

    def _groups(self, x_TI: Tensor) -> bool:
        """Say whether ``grouped_mm`` can run all layers, on a GPU without waiting (in bfloat16)."""
        if not (self._all_group and hasattr(F, "grouped_mm")):
            return False
        if self.padded and self.num_experts <= FEW_EXPERTS and x_TI.device.type == "cpu":
            return False
        fast = {"cpu": (th.float32, th.bfloat16), "cuda": (th.bfloat16,)}
        return x_TI.dtype in fast.get(x_TI.device.type, ())

    def _grouped(self, x_MI: Tensor, experts_M: Tensor, ends_E: Tensor) -> Tensor:
        """Run each expert on the sorted rows that are its own: (M, I) to (M, O)."""
        return _run_grouped([*self.layers, self.last], x_MI, experts_M, ends_E)

    def _on_sorted_rows(self, x_TI: Tensor, experts_Tk: Tensor) -> Tensor:
        """Sort the rows by expert, run each expert on its own, and put them back: (T, k, O)."""
        top_k = experts_Tk.shape[1]
        experts_M, order_M = experts_Tk.flatten().sort()
        rows_M = order_M if top_k == 1 else order_M // top_k
        x_MI = x_TI.index_select(0, rows_M)
        ids_E = th.arange(self.num_experts, device=x_TI.device)
        ends_E = th.searchsorted(experts_M, ids_E, right=True, out_int32=True)
        if self._groups(x_TI):
            y_MO = self._grouped(x_MI, experts_M, ends_E)
        else:
            counts = ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
            experts = apart([*self.layers, self.last], self.num_experts)
            pairs = zip(experts, x_MI.split(counts), strict=True)
            # Also without rows: an idle expert gets gradients of 0, as if it had run on all rows.
            y_MO = th.cat([expert(rows) for expert, rows in pairs])
        places_M = th.arange(len(order_M), device=order_M.device)
        inverse_M = th.empty_like(order_M).scatter_(0, order_M, places_M)
        return y_MO.index_select(0, inverse_M).unflatten(0, experts_Tk.shape)

    @property
    def has_hidden(self) -> bool:
        """Whether experts end in a linear layer with weights before it, and no batch statistics."""
        return isinstance(self.last, StackedLinear) and self.spreads and not self.needs_all_rows

    def hidden(self, x_TI: Tensor) -> Tensor:
        """Return what the experts' last linear layers read, if :attr:`has_hidden`: (T, E, H)."""
        return self.layers(x_TI).transpose(0, 1)

    def expert(self, k: int) -> nn.Sequential:
        """Return expert ``k`` as plain modules, with a copy of its weights."""
        return nn.Sequential(*unstack([*self.layers, self.last], k))

    @th.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply the experts' outputs by a factor, by scaling their last weights."""
        for parameter in self.last.parameters():
            parameter.mul_(factor)

    def shares(self) -> list[Share]:
        """Return the weights and buffers that experts don't share, with whose they are."""
        layers = self.modules()
        return [each for m in layers if isinstance(m, Stacked) for each in m.shares()]

    def statistics(self) -> list[Share]:
        """Return only the buffers of :meth:`shares`."""
        return [share for share in self.shares() if not isinstance(share.tensor, nn.Parameter)]


class StackedNetwork(Experts):
    """E networks of known layers in sequence; one tensor holds the same weight of all experts.

    Each expert is given as a plain module and so starts with exactly the weights that module was
    given: whoever builds the experts decides how they are initialized.

    :param experts: one module per expert, alike but for their weights: an ``nn.Linear``, or an
        ``nn.Sequential`` of linear layers, an image encoder, normalizations and activations; a
        layer of unknown kind runs expert by expert
    :raises ValueError: if there is no expert, or they differ in more than their weights
    :raises TypeError: if a convolution can't be stacked
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        _check_alike(experts)
        *hidden, last = zip(*(flat(expert) for expert in experts), strict=True)
        layers = [stack(same) for same in hidden]
        spreads = any(isinstance(layer, Stacked) for layer in layers)
        is_linear = type(last[0]) is nn.Linear  # a subclass may compute something else
        stacked = StackedLinear(last, last=spreads) if is_linear else stack(last)
        super().__init__(layers, stacked, len(experts), _width(experts[0]))


class SeparateNetworks(Experts):
    """E networks of any kind, run one after the other: a single layer of :class:`StackedEach`.

    :param experts: one module per expert, alike but for their weights; takes and returns rows
    :param out_features: O
    :raises ValueError: if there is no expert, or they differ in more than their weights
    """

    def __init__(self, experts: Sequence[nn.Module], out_features: int) -> None:
        _check_alike(experts)
        super().__init__([], StackedEach(experts), len(experts), out_features)
        self.macs = sum(p.numel() for p in experts[0].parameters())

    @property
    def each(self) -> Sequence[nn.Module]:
        """The networks themselves."""
        return self.last.each  # type: ignore[return-value]  # a StackedEach

    @th.no_grad()
    def scale(self, factor: float) -> None:
        """Call each expert's own ``scale_outputs``; without one, scale its last ``nn.Linear``.

        A last layer that experts share is scaled once.
        """
        last: set[nn.Parameter] = set()
        for expert in self.each:
            own = getattr(expert, "scale_outputs", None)
            if callable(own):
                own(factor)
                continue
            linears = [m for m in expert.modules() if isinstance(m, nn.Linear)]
            last.update(p for linear in linears[-1:] for p in linear.parameters())
        for parameter in last:
            parameter.mul_(factor)


def is_recorded() -> bool:
    """Say whether ``torch.export``, ONNX, TorchScript or ``torch.compile`` records a pass.

    The recorded graph would keep for good what was chosen by the number of rows.
    """
    return th.compiler.is_compiling() or th.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]


def _run_grouped(
    layers: Iterable[nn.Module], x_MI: Tensor, experts_M: Tensor, ends_E: Tensor
) -> Tensor:
    for layer in layers:
        if isinstance(layer, StackedLinear):
            x_MI = _grouped_mm(x_MI, layer.weight_EIO, ends_E)
            if layer.bias_EO is not None:
                x_MI = x_MI + layer.bias_EO.index_select(0, experts_M)
        elif isinstance(layer, StackedLayerNorm):
            normed_MI = F.layer_norm(x_MI, layer.shape, eps=layer.eps)
            scaled_MI = normed_MI * layer.weight_EH.index_select(0, experts_M)
            x_MI = scaled_MI + layer.bias_EH.index_select(0, experts_M)
        elif isinstance(layer, StackedResidual):
            x_MI = x_MI + _run_grouped(layer.block, x_MI, experts_M, ends_E)
        else:
            x_MI = layer(x_MI)
    return x_MI


def _grouped_mm(x_MI: Tensor, weight_EIO: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply sorted rows by their experts' matrices, padded as ``grouped_mm`` needs them."""
    missing_I, missing_O = _missing(weight_EIO)
    if missing_I:
        x_MI = F.pad(x_MI, (0, missing_I))
    if missing_I or missing_O:
        weight_EIO = F.pad(weight_EIO, (0, missing_O, 0, missing_I))
    y_MO = F.grouped_mm(x_MI, weight_EIO, offs=ends_E)
    return y_MO[:, :-missing_O] if missing_O else y_MO


def _missing(weight: Tensor) -> tuple[int, int]:
    """Return by how much a tensor's last two axes are short of what ``grouped_mm`` takes."""
    unit = ALIGNMENT // weight.element_size()
    return -weight.shape[-2] % unit, -weight.shape[-1] % unit


def _width(expert: nn.Module) -> int:
    """Return how many features an expert outputs, as its last linear layer tells."""
    return [each for each in expert.modules() if isinstance(each, nn.Linear)][-1].out_features


def _check_alike(experts: Sequence[nn.Module]) -> None:
    if not experts:
        raise ValueError("`experts` must hold at least 1 expert, got 0")
    first, *others = (str(expert) for expert in experts)
    for k, other in enumerate(others, start=1):
        if other != first:
            raise ValueError(f"`experts` must be alike, got {first} and, as expert {k}, {other}")
