"""Gradients as measures: of each neuron (GraMa, arXiv 2505.24061), and of what the policy does.

Shapes: E experts (1 for a dense layer), H units, B rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers import Experts, MoELayer, SeparateNetworks
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.layers.stacked import StackedEach
from sb3_moe.measures.activations import hidden_layers, is_activation
from sb3_moe.measures.plasticity import NOT_KEPT, TAUS, dormant_fraction
from sb3_moe.measures.weights import WEIGHTED, incoming, weight_of
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.optimizers import unmasked
from sb3_moe.vec_env.observations import Obs, select

# Whose modules run their parts in the order in which they hold them.
_KNOWN = ("torch", "stable_baselines3", "sb3_contrib", "sb3_moe")


def gradient_activity(
    policy: BasePolicy, gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT
) -> dict[str, th.Tensor]:
    """Return the mean absolute gradient of the weights into each unit, (E, H), by hidden layer.

    It takes the place of activities in ``dormant_scores``. The gradient is
    that of the last update, as in the authors' code: nothing is computed for it. Layers next to a
    normalization and in residual blocks have one too.

    :param policy: of any algorithm; layers without gradient are left out
    :param gradients: of some parameters, in place of what their ``.grad`` holds; see
        :class:`~sb3_moe.measures.gradients.CriticGradients`
    """
    feeders, found = _feeders(policy), {}
    for layer in hidden_layers(policy):
        feeder = feeders.get(layer.module)
        if feeder is None:
            continue
        weight = weight_of(feeder)
        gradient = gradients.get(weight, weight.grad)
        if gradient is not None:
            found[layer.name] = incoming(feeder)(gradient).abs().flatten(2).mean(2)
    return found


def measure_gradients(
    policy: BasePolicy,
    gradients: Mapping[th.Tensor, th.Tensor | None] = NOT_KEPT,
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


def _feeders(policy: BasePolicy) -> dict[nn.Module, nn.Module]:
    """Return the layer whose weights lead into each activation, if one does."""
    feeders: dict[nn.Module, nn.Module] = {}
    for net in networks_of(policy).networks():
        for part in (net.extractor, net.hidden, *net.heads):
            last: nn.Module | None = None
            for leaf in _leaves(part):
                if leaf is not None and is_activation(leaf) and last is not None:
                    feeders.setdefault(leaf, last)
                if leaf is None or isinstance(leaf, WEIGHTED) or is_activation(leaf):
                    last = leaf if isinstance(leaf, WEIGHTED) else None
    return feeders


def _leaves(module: nn.Module) -> Iterator[nn.Module | None]:
    """Yield a network's parts in the order in which they run, and None where one ends.

    Weights within a mixture lead into nothing outside: only its sum does. A class of the user's
    own may run its parts in any order: none of them is known to lead into the next.
    """
    if isinstance(module, MoELayer):
        yield from _leaves(module.experts)
    elif isinstance(module, SeparateNetworks):
        for each in module.each:
            yield from _leaves(each)
            yield None
    elif isinstance(module, (*WEIGHTED, StackedEach)) or not any(True for _ in module.children()):
        yield module
    else:
        in_order = not _is_of_users(module)
        for child in module.children():
            yield from _leaves(child)
            if not in_order:
                yield None
    if isinstance(module, Experts):
        yield None


def _is_of_users(module: nn.Module) -> bool:
    """Say whether nobody but its writer knows how a module runs its parts."""
    return type(module).forward.__module__.partition(".")[0] not in _KNOWN


Gradients = Mapping[th.Tensor, th.Tensor | None]


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
            # Until it steps, nothing is known.
            self._kept = dict.fromkeys(_parameters(optimizer))
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

    def _keep(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        self._kept = {
            parameter: None if parameter.grad is None else parameter.grad.detach().clone()
            for parameter in _parameters(optimizer)
        }


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


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
