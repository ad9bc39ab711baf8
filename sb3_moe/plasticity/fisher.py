"""How much what a policy does depends on each of its weights.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of
from sb3_moe.observations.batches import Obs, select
from sb3_moe.optimizers import unmasked


def fisher_information(
    policy: BasePolicy,
    obs: Obs,
    actions: npt.NDArray[np.generic],
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the diagonal of the empirical Fisher information, by the parameters' names.

    The mean over rows of the squared gradient of what the policy says of the action taken, see
    :meth:`sb3_moe.networks.Networks.taken` (arXiv 1612.00796, eq. 3).

    :param policy: of any algorithm; its mode is left as it was
    :param obs: a batch of observations, as the policy sees them
    :param actions: taken then, as the algorithm keeps them in its buffer, B of them
    :param parameters: the weights in question
    """
    networks, wanted = networks_of(policy), list(parameters.values())
    sums = [th.zeros_like(each) for each in wanted]
    taken = th.as_tensor(actions, device=policy.device)
    taken = taken.float() if taken.is_floating_point() else taken
    with evaluating(policy), _learned(wanted), unmasked(), th.enable_grad():
        # The square of a row's own gradient: a batch's would be of their sum.
        for i in range(len(actions)):
            seen, _ = policy.obs_to_tensor(select(obs, slice(i, i + 1)))
            for each in networks.taken(seen, taken[i : i + 1]):
                grads = th.autograd.grad(each.sum(), wanted, retain_graph=True, allow_unused=True)
                for total, grad in zip(sums, grads, strict=True):
                    if grad is not None:
                        total += grad.square()
    mean = (total.detach() / len(actions) for total in sums)
    return {name: each.cpu().numpy() for name, each in zip(parameters, mean, strict=True)}


@contextmanager
def _learned(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach parameters that are held still."""
    still = [each for each in parameters if not each.requires_grad]
    for each in still:
        each.requires_grad_(True)
    try:
        yield
    finally:
        for each in still:
            each.requires_grad_(False)
