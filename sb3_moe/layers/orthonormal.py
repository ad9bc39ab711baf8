"""Outputs of all experts made orthonormal before they are summed (MOORE, arXiv 2311.11385).

Shapes: E experts, T rows, O outputs.
"""

import torch as th
from torch import Tensor

# The least norm that is divided by, so that an output of 0 stays 0. The authors add this number to
# every norm, which in single precision is the same.
TINY = 1e-8


def gram_schmidt(y_ETO: Tensor) -> Tensor:
    """Make each row's outputs orthonormal over the experts, by Gram-Schmidt.

    Expert 0 keeps its direction. Each further expert keeps the part of its output that is
    orthogonal to the outputs before it. All are scaled to norm 1.
    """
    units: list[Tensor] = []
    # In float32, since squares of the half-precision numbers of autocast lose most of their digits.
    # By `unbind`, since autograd makes a zero tensor of all experts for each slice of one.
    for left_TO in y_ETO.to(th.promote_types(y_ETO.dtype, th.float32)).unbind():
        for unit_TO in units:
            share_T1 = (left_TO * unit_TO).sum(-1, keepdim=True)
            left_TO = th.addcmul(left_TO, share_T1, unit_TO, value=-1)
        # Not `norm`, whose backward pass looks for zeros in every row.
        squares_T1 = (left_TO * left_TO).sum(-1, keepdim=True).clamp_min(TINY**2)
        units.append(left_TO * squares_T1.rsqrt())
    return th.stack(units)


def check_orthogonal(num_experts: int, out_features: int) -> None:
    """Raise ValueError if there are more experts than orthogonal directions."""
    if num_experts > out_features:
        raise ValueError(
            "`combine`='orthogonal' needs experts with at least as many outputs as there are "
            f"experts, {num_experts}, got {out_features}: use fewer experts, or wider "
            "layers (`net_arch`)"
        )
