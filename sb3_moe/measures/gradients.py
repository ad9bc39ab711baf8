"""Gradients as measures: of each neuron (GraMa, arXiv 2505.24061), and of what the policy does.

Shapes: E experts (1 for a dense layer), H units, B rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import online_parameters
from sb3_moe.measures.plasticity import TAUS, dormant_fraction
from sb3_moe.measures.weights import hidden_layers, incoming, weight_of
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.optimizers import unmasked
from sb3_moe.vec_env.observations import Obs, select

Gradients = Mapping[th.Tensor, th.Tensor | None]
#: No gradient takes the place of what a parameter's ``.grad`` holds.
NOT_KEPT: Gradients = MappingProxyType({})


def gradient_activity(policy: BasePolicy, gradients: Gradients = NOT_KEPT) -> dict[str, th.Tensor]:
    """Return the mean absolute gradient of the weights into each unit, (E, H), by hidden layer.

    It takes the place of activities in ``dormant_scores``. The gradient is
    that of the last update, as in the authors' code: nothing is computed for it. Layers next to a
    normalization and in residual blocks have an entry too.

    :param policy: of any algorithm; layers without gradient are left out
    :param gradients: of some parameters, in place of what their ``.grad`` holds; see
        :class:`~sb3_moe.measures.gradients.CriticGradients`
    """
    found = {}
    for name, feeder in ((layer.name, layer.feeder) for layer in hidden_layers(policy)):
        if feeder is None:
            continue
        weight = weight_of(feeder)
        gradient = gradients.get(weight, weight.grad)
        if gradient is not None:
            found[name] = incoming(feeder)(gradient).abs().flatten(2).mean(2)
    return found


def measure_gradients(
    policy: BasePolicy,
    gradients: Gradients = NOT_KEPT,
    taus: Sequence[float] = TAUS,
) -> dict[str, float]:
    """Measure the share of units of each hidden layer that hardly any gradient reaches.

    ``inactive/<layer>`` is at the first tau, ``inactive@<tau>/<layer>`` at the others; all units of
    all experts count as one layer.

    :param policy: of any algorithm
    :param gradients: as in :func:`gradient_activity`
    :param taus: thresholds; the first is the primary one
    :raises ValueError: if a threshold is negative
    """
    names = ["inactive", *(f"inactive@{tau}" for tau in taus[1:])]
    return {
        f"{name}/{layer}": dormant_fraction(activity_EH, tau)
        for layer, activity_EH in gradient_activity(policy, gradients).items()
        for name, tau in zip(names, taus, strict=True)
    }


def measure_weights(policy: BasePolicy, gradients: Gradients = NOT_KEPT) -> dict[str, float]:
    """Measure the size of the weights of every network, and of their gradients if there are any.

    Gradients are those of the last update, after clipping. Where a critic has an optimizer of its
    own, its ``.grad`` holds what the actor's loss left there too: give what
    :class:`~sb3_moe.measures.gradients.CriticGradients` kept.

    :param policy: of any algorithm
    :param gradients: of some parameters, in place of what their ``.grad`` holds
    """
    measures = {}
    for network, parameters in online_parameters(policy).items():
        measures[f"weight_norm/{network}"] = joint_norm(parameters)
        given = [gradients.get(each, each.grad) for each in parameters]
        if found := [each for each in given if each is not None]:
            number = sum(each.numel() for each in parameters)
            zeros = number - sum(int(each.count_nonzero()) for each in found)
            measures[f"gradient_norm/{network}"] = joint_norm(found)
            measures[f"zero_gradients/{network}"] = zeros / number
    return measures


def joint_norm(tensors: Iterable[th.Tensor]) -> float:
    """Return the L2 norm of all numbers of some tensors together."""
    norms = [th.linalg.vector_norm(each.detach()) for each in tensors]
    return float(th.linalg.vector_norm(th.stack(norms)))


class CriticGradients:
    """Keep the critic's gradient as its optimizer saw it (SAC, TD3, DDPG, TQC, CrossQ).

    The actor's loss goes through the critic after the critic's own step, and adds to what is in
    ``.grad`` there; SB3 clears that only before the critic's next step.
    """

    def __init__(self) -> None:
        self._kept: dict[th.Tensor, th.Tensor | None] = {}
        self._handle: RemovableHandle | None = None

    def attach(self, policy: BasePolicy) -> None:
        """Follow a policy's critic from now on.

        :param policy: of any algorithm; where one optimizer has all weights, there is nothing to do
        """
        self.detach()
        optimizer = networks_of(policy).critic_optimizer()
        if optimizer is not None:
            groups = [group["params"] for group in optimizer.param_groups]
            # Until it steps, nothing is known.
            self._kept = {parameter: None for group in groups for parameter in group}
            self._handle = optimizer.register_step_post_hook(self._keep)

    def detach(self) -> None:
        """Follow it no longer, and forget."""
        self._kept = {}
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def of_last_step(self) -> Gradients:
        """Return the gradient of each of the critic's weights, None where there was none."""
        return self._kept

    def _keep(self, *args: Any) -> None:
        self._kept = {p: None if p.grad is None else p.grad.clone() for p in self._kept}


def fisher_information(
    policy: BasePolicy,
    obs: Obs,
    actions: npt.NDArray[np.generic],
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the diagonal of the empirical Fisher information, by the parameters' names.

    The mean over rows of the squared gradient of what the policy says of the action taken, see
    :meth:`sb3_moe.policies.networks.Networks.taken` (arXiv 1612.00796, eq. 3).

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
                grads = th.autograd.grad(
                    each.sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for total, grad in zip(sums, grads, strict=True):
                    total += grad.square()
    pairs = zip(parameters, sums, strict=True)
    return {name: (total.detach() / len(actions)).cpu().numpy() for name, total in pairs}


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
