"""One GEMM per expert over rows that are sorted by expert, with a backward pass of the same kind.

Shapes: E experts, T rows before sorting, k chosen experts per row, M = T*k sorted rows, I inputs,
O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch as th
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from sb3_moe.layers.tracing import is_batched

# `grouped_mm` wants the rows of every matrix to begin at multiples of so many bytes.
ALIGNMENT = 16
# Where it can be told whether it waits for the host.
PROBED = ("cpu", "cuda")


class Groups(NamedTuple):
    """Which of the sorted rows are whose.

    :param experts_M: the expert of each row, ascending
    :param ends_E: where each expert's rows end
    :param counts: how many each has, on the host; None: one call does all GEMMs, without them
    """

    experts_M: th.Tensor
    ends_E: th.Tensor
    counts: Sequence[int] | None


def sort_rows(
    experts_Tk: th.Tensor, num_experts: int, *, at_once: bool
) -> tuple[th.Tensor, Groups]:
    """Return the order that sorts pairs of row and expert by expert, and whose they then are.

    :param experts_Tk: indices of the chosen experts
    :param num_experts: E
    :param at_once: whether ``grouped_mm`` does all GEMMs; else the counts come to the host
    """
    experts_M, order_M = experts_Tk.flatten().sort()
    ids_E = th.arange(num_experts, device=experts_M.device, dtype=experts_M.dtype)
    ends_E = th.searchsorted(experts_M, ids_E, right=True, out_int32=True)
    counts = None if at_once else ends_E.diff(prepend=ends_E.new_zeros(1)).tolist()
    return order_M, Groups(experts_M, ends_E, counts)


def grouped_linear(
    x_MI: th.Tensor, weight_EIO: th.Tensor, bias_EO: th.Tensor | None, groups: Groups
) -> th.Tensor:
    """Apply each expert's linear layer to its own rows: (M, I) to (M, O)."""
    y_MO = rows_times(x_MI, weight_EIO, groups)
    return y_MO if bias_EO is None else y_MO + bias_EO.index_select(0, groups.experts_M)


def rows_times(x_MI: th.Tensor, weight_EIO: th.Tensor, groups: Groups) -> th.Tensor:
    """Multiply each row with the matrix of its expert: (M, O)."""
    y_MO: th.Tensor = Rows.apply(x_MI, weight_EIO, groups)  # type: ignore[no-untyped-call]
    return y_MO


def outer_sums(x_MI: th.Tensor, y_MO: th.Tensor, groups: Groups) -> th.Tensor:
    """Sum the outer products of each expert's rows: (E, I, O)."""
    out_EIO: th.Tensor = Outer.apply(x_MI, y_MO, groups)  # type: ignore[no-untyped-call]
    return out_EIO


class Rows(th.autograd.Function):
    """Each row times the matrix of its expert: (M, I), (E, I, O) to (M, O)."""

    @staticmethod
    def forward(ctx: Any, x_MI: th.Tensor, weight_EIO: th.Tensor, groups: Groups) -> th.Tensor:
        """Multiply."""
        ctx.save_for_backward(x_MI, weight_EIO)
        ctx.groups = groups
        return _rows(x_MI, weight_EIO, groups)

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor) -> tuple[th.Tensor | None, th.Tensor | None, None]:
        """Return gradients that can be differentiated again."""
        x_MI, weight_EIO = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        if is_batched(grads[0]):
            return (
                _masked_rows(grads[0], weight_EIO.mT, ctx.groups) if needs_x else None,
                _masked_outer(x_MI, grads[0], ctx.groups, len(weight_EIO))
                if needs_weight
                else None,
                None,
            )
        # An expanded gradient, as of a sum, has strides that `grouped_mm` refuses.
        grad_MO = grads[0].contiguous()
        return (
            rows_times(grad_MO, weight_EIO.mT, ctx.groups) if needs_x else None,
            _outer_as(weight_EIO, x_MI, grad_MO, ctx.groups) if needs_weight else None,
            None,
        )


class Outer(th.autograd.Function):
    """Sum over each expert's rows of outer products: (M, I), (M, O) to (E, I, O)."""

    @staticmethod
    def forward(ctx: Any, x_MI: th.Tensor, y_MO: th.Tensor, groups: Groups) -> th.Tensor:
        """Multiply; an expert without rows gets zeros."""
        ctx.save_for_backward(x_MI, y_MO)
        ctx.groups = groups
        return _outer(x_MI, y_MO, groups)

    @staticmethod
    def backward(ctx: Any, *grads: th.Tensor) -> tuple[th.Tensor | None, th.Tensor | None, None]:
        """Return gradients that can be differentiated again."""
        x_MI, y_MO = ctx.saved_tensors
        needs_x, needs_y, _ = ctx.needs_input_grad
        is_many = is_batched(grads[0])
        times = _masked_rows if is_many else rows_times
        grad_EIO = grads[0] if is_many else grads[0].contiguous()
        return (
            times(y_MO, grad_EIO.mT, ctx.groups) if needs_x else None,
            times(x_MI, grad_EIO, ctx.groups) if needs_y else None,
            None,
        )


def _rows(x_MI: th.Tensor, weight_EIO: th.Tensor, groups: Groups) -> th.Tensor:
    if groups.counts is None:
        return _at_once(x_MI, weight_EIO, groups.ends_E)
    y_MO = x_MI.new_empty(len(x_MI), weight_EIO.shape[2])
    rows, outputs = x_MI.split(groups.counts), y_MO.split(groups.counts)
    for x, weight_IO, out in zip(rows, weight_EIO.unbind(), outputs, strict=True):
        th.mm(x, weight_IO, out=out)
    return y_MO


def _outer(x_MI: th.Tensor, y_MO: th.Tensor, groups: Groups) -> th.Tensor:
    if groups.counts is None:
        return _at_once(x_MI.t(), y_MO, groups.ends_E)
    out_EIO = x_MI.new_empty(len(groups.counts), x_MI.shape[1], y_MO.shape[1])
    pairs = zip(x_MI.split(groups.counts), y_MO.split(groups.counts), strict=True)
    for (x, y), out in zip(pairs, out_EIO.unbind(), strict=True):
        th.mm(x.t(), y, out=out)
    return out_EIO


def _masked_rows(x_MI: th.Tensor, weight_EIO: th.Tensor, groups: Groups) -> th.Tensor:
    """Do as :func:`rows_times` by what torch knows of many at once: every expert on every row."""
    x_EMI = _spread(x_MI, weight_EIO.shape[-3], groups)
    # Once more, since zeros times an infinity are no numbers.
    return _own_rows(x_EMI.matmul(weight_EIO), groups).sum(-3)


def _masked_outer(x_MI: th.Tensor, y_MO: th.Tensor, groups: Groups, num_experts: int) -> th.Tensor:
    """Do as :func:`outer_sums` by what torch knows of many at once."""
    x_EMI, y_EMO = (_spread(each, num_experts, groups) for each in (x_MI, y_MO))
    return x_EMI.mT.matmul(y_EMO)


def _spread(x_MI: th.Tensor, num_experts: int, groups: Groups) -> th.Tensor:
    """Give each expert all rows, zeros in place of those of others: gradients keep apart too."""
    return _own_rows(x_MI.unsqueeze(-3).expand(num_experts, *x_MI.shape), groups)


def _own_rows(x_EMI: th.Tensor, groups: Groups) -> th.Tensor:
    """Keep each expert's own rows, and put zeros, whatever stood there, in place of the others."""
    ids_E = th.arange(x_EMI.shape[-3], device=x_EMI.device)
    is_others_EM = groups.experts_M != ids_E.unsqueeze(1)
    return x_EMI.masked_fill(is_others_EM.unsqueeze(2), 0.0)


def _outer_as(
    weight_EIO: th.Tensor, x_MI: th.Tensor, grad_MO: th.Tensor, groups: Groups
) -> th.Tensor:
    """Return a weight's gradient, laid out in memory as the weight is."""
    if weight_EIO.is_contiguous():
        return outer_sums(x_MI, grad_MO, groups)
    return outer_sums(grad_MO, x_MI, groups).mT


def _at_once(a: th.Tensor, b: th.Tensor, ends_E: th.Tensor) -> th.Tensor:
    """Call ``grouped_mm`` on (M, I) and (E, I, O), or on (I, M) and (M, O)."""
    rows, columns = a.shape[0], b.shape[-1]
    if b.dim() == 3:
        out = F.grouped_mm(_aligned(a, a.dim() - 1), _aligned(b, 1, 2), offs=ends_E)
    else:
        out = F.grouped_mm(_aligned(a, 0), _aligned(b, 1), offs=ends_E)
    return out[..., :rows, :columns]


def _aligned(x: th.Tensor, *axes: int) -> th.Tensor:
    """Pad axes with zeros to whole units of the alignment, if they are not; keep the layout.

    :param axes: those that are no rows of several experts
    """
    if x.stride(-1) != 1:
        last = x.dim() - 1
        return _aligned(x.mT, *(2 * last - 1 - axis for axis in axes)).mT
    unit = ALIGNMENT // x.element_size()
    missing = {axis: -x.shape[axis] % unit for axis in axes}
    if any(missing.values()):
        pads = [(0, missing.get(axis, 0)) for axis in reversed(range(x.dim()))]
        return F.pad(x, [each for pad in pads for each in pad])
    whole = x.storage_offset() % unit == 0 and all(step % unit == 0 for step in x.stride()[:-1])
    return x if whole else x.clone(memory_format=th.contiguous_format)


@cache
def can_group(device: th.device, dtype: th.dtype) -> bool:
    """Try once whether ``grouped_mm`` works there, backward too, and never waits for the host.

    :param device: of the tensors
    :param dtype: theirs
    """
    if device.type not in PROBED or not hasattr(F, "grouped_mm"):
        return False
    try:
        with _disable_current_modes(), th.inference_mode(False), th.enable_grad():
            wanted = _sample(device, dtype, counts=(2, 0, 3))
            with _never_waiting(device):
                found = _sample(device, dtype, counts=None)
            return all(th.allclose(*pair, rtol=0.02) for pair in zip(found, wanted, strict=True))
    except (RuntimeError, NotImplementedError):
        return False


def _sample(
    device: th.device, dtype: th.dtype, counts: Sequence[int] | None
) -> tuple[th.Tensor, ...]:
    """Return values and gradients of three experts, one without rows, at widths to be padded."""
    # Made on the device: a copy from the host would wait too.
    ids_M, ids_E = th.arange(5, device=device), th.arange(1, 4, device=device)
    groups = Groups((ids_M >= 2) * 2, ((ids_E == 3) * 3 + 2).to(th.int32), counts)
    x_MI = th.linspace(-1, 1, 25, device=device).to(dtype).view(5, 5).requires_grad_()
    weight_EIO = th.linspace(-1, 1, 90, device=device).to(dtype).view(3, 5, 6).requires_grad_()
    y_MO = grouped_linear(x_MI, weight_EIO, None, groups)
    return y_MO, *th.autograd.grad(y_MO.sum(), [x_MI, weight_EIO])


@contextmanager
def _never_waiting(device: th.device) -> Iterator[None]:
    """Raise RuntimeError where a GPU is waited for."""
    if device.type != "cuda":
        yield
        return
    before = th.cuda.get_sync_debug_mode()
    th.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        th.cuda.set_sync_debug_mode(before)
