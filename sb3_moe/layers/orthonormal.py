"""Outputs of all experts made orthonormal before they are summed (MOORE, arXiv 2311.11385).

Shapes: E experts, T rows, O outputs.
"""

import torch as th

# The authors add it to every norm, which in single precision is the same: an output of 0 stays 0.
TINY = 1e-8


def gram_schmidt(y_ETO: th.Tensor) -> th.Tensor:
    """Make each row's outputs orthonormal over the experts, by Gram-Schmidt.

    Expert 0 keeps its direction, and each further one what is left of its own.
    """
    units: list[th.Tensor] = []
    # Squares of halves, under autocast, would lose most of their digits. Apart, since autograd
    # makes a zero tensor of all experts for each slice of theirs.
    for left_TO in y_ETO.to(th.promote_types(y_ETO.dtype, th.float32)).unbind():
        for unit_TO in units:
            share_T1 = (left_TO * unit_TO).sum(-1, keepdim=True)
            left_TO = th.addcmul(left_TO, share_T1, unit_TO, value=-1)
        # Not `norm`, whose backward pass looks for zeros in every row.
        squares_T1 = (left_TO * left_TO).sum(-1, keepdim=True).clamp_min(TINY**2)
        units.append(left_TO * squares_T1.rsqrt())
    return th.stack(units)


def check_orthogonal(num_experts: int, out_features: int) -> None:
    """Raise ValueError where there are more experts than directions."""
    if num_experts > out_features:
        raise ValueError(
            "`combine`='orthogonal' needs experts with at least as many outputs as there are "
            f"experts, {num_experts}, got {out_features}: fewer experts, or wider layers "
            "(`net_arch`)"
        )
