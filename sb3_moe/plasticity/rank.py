"""How many directions a representation uses.

Shapes: T rows, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch as th


def effective_rank(features_TF: th.Tensor) -> float:
    """Return exp(entropy) of the singular values, scaled to sum to 1 (Roy and Vetterli 2007).

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    values = _singular_values(features_TF)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(th.special.entr(shares).sum().exp())


def stable_rank(features_TF: th.Tensor) -> float:
    """Return the squared Frobenius norm over the squared spectral norm.

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    squares = _singular_values(features_TF).square()
    return 0.0 if squares.max() == 0 else float(squares.sum() / squares.max())


def _singular_values(features_TF: th.Tensor) -> th.Tensor:
    """Return them as doubles; NaN of what is not finite, at which LAPACK fails."""
    if features_TF.dim() != 2 or 0 in features_TF.shape:
        raise ValueError(
            "`features_TF` must be a matrix with at least one row and one column, got shape "
            f"{tuple(features_TF.shape)}"
        )
    matrix_TF = features_TF.detach().double()
    values = th.linalg.svdvals(matrix_TF.nan_to_num(0.0, 0.0, 0.0))
    return values.masked_fill(~matrix_TF.isfinite().all(), float("nan"))


def empirical_ntk(outputs_T: th.Tensor, parameters: Sequence[th.Tensor]) -> th.Tensor:
    """Return the inner products of the gradients of each output.

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by; those without influence count as zero
    :return: (T, T), double
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    rows = [
        th.cat(
            [
                gradient.flatten()
                for gradient in th.autograd.grad(
                    output, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for output in outputs_T
    ]
    jacobian = th.stack(rows).double()
    return jacobian @ jacobian.T


def ntk_rank(outputs_T: th.Tensor, parameters: Sequence[th.Tensor]) -> float:
    """Return the effective rank of the empirical neural tangent kernel on a batch.

    It falls when samples can no longer be told apart by a gradient step (Lyle et al. 2023,
    arXiv 2303.01486).

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by
    :return: as of :func:`effective_rank`
    """
    return effective_rank(empirical_ntk(outputs_T, parameters))
