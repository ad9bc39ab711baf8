"""What every hidden layer of a policy computes, read with forward hooks that are taken off again.

Shapes: E experts (1 for a dense layer), T rows, H units (feature maps of a convolution), P
positions (1 without a convolution), I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from sb3_moe.layers import ExpertChoiceMoE, Experts, MoELayer, Routing, SoftMoE
from sb3_moe.layers.evaluating import Call, evaluating, recording
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.measures.weights import ACTIVATIONS, HiddenLayer, hidden_layers
from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.observations import Obs


class Activations(NamedTuple):
    """The post-activation values of one hidden layer on one batch.

    :param values_ETHP: one row per sample, token or slot that reached the layer
    :param gates_TE: how much each expert's row counts in the layer's output; None for a layer
        that is not in a mixture, or where rows and gates don't line up
    :param reached_E: whether any row was sent to each expert; None where all see rows
    """

    values_ETHP: th.Tensor
    gates_TE: th.Tensor | None = None
    reached_E: th.Tensor | None = None

    @property
    def activity_EH(self) -> th.Tensor:
        """Mean absolute activation of each unit, over rows and positions (0 without rows)."""
        return _mean(self.values_ETHP.abs())

    @property
    def gated_activity_EH(self) -> th.Tensor:
        """The same with each row weighted by its gate's size; the plain one without gates."""
        if self.gates_TE is None:
            return self.activity_EH
        return _mean(self.values_ETHP.abs() * self.gates_TE.abs().T[:, :, None, None])

    @property
    def features_TF(self) -> th.Tensor:
        """One row per sample with the units of all experts side by side."""
        return self.values_ETHP.transpose(0, 1).flatten(1)


def _mean(values_ETHP: th.Tensor) -> th.Tensor:
    rows = values_ETHP.shape[1] * values_ETHP.shape[3]
    return values_ETHP.sum(dim=(1, 3)) / max(rows, 1)


def as_ETHP(values: th.Tensor, num_experts: int = 1) -> th.Tensor:
    """Bring what an activation module returned into one shape.

    :param values: (T, H) or (T, C, height, width) of a dense layer, (E, T, H) or
        (E, T, C, height, width) of a stacked one, or (T, E*C, height, width) of grouped
        convolutions
    :param num_experts: E of the stacked network that the module belongs to, 1 for a dense layer
    :raises ValueError: if the shape is none of these
    """
    if values.dim() == 4:
        values = values.reshape(len(values), num_experts, -1, *values.shape[2:]).transpose(0, 1)
    elif values.dim() == 2 and num_experts == 1:
        values = values.unsqueeze(0)
    if values.dim() not in (3, 5) or values.shape[0] != num_experts:
        raise ValueError(
            f"activations must be (T, H), (T, C, h, w), or lead with num_experts={num_experts}, "
            f"got shape {tuple(values.shape)}"
        )
    return values.flatten(3) if values.dim() == 5 else values.unsqueeze(-1)


def online_parameters(policy: BasePolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of every network, without those of target networks and temperatures.

    :param policy: of any algorithm
    """
    temperatures = temperatures_in(policy)
    owners = networks_of(policy).owners()
    found: dict[str, list[nn.Parameter]] = {}
    for parameter in policy.parameters():
        if parameter in owners and parameter not in temperatures:
            found.setdefault(owners[parameter], []).append(parameter)
    return found


@th.no_grad()
def policy_activations(policy: BasePolicy, obs: Obs) -> dict[str, Activations]:
    """Return what each hidden layer computes on a batch, by ``<network>.<index>``.

    A token that a sparse router did not send to an expert counts there as zeros. Layers of the
    user's own whose values have three axes are left out: which of them are units isn't known.

    :param policy: of any algorithm; its mode is left as it was
    :param obs: a batch of observations, as the environment gives them
    :raises ValueError: if the policy has no hidden layer with a known activation
    """
    layers = some_hidden_layers(policy)
    watched = {layer.name: layer.module for layer in layers}
    watched |= {f"{la.name} mixture": la.mixture for la in layers if la.mixture is not None}
    with evaluating(policy), every_row_in_every_expert(policy), recording(watched) as calls:
        networks_of(policy).run(policy.obs_to_tensor(obs)[0])
    found = {layer.name: _activations(layer, calls) for layer in layers}
    return {name: each for name, each in found.items() if each is not None}


def some_hidden_layers(policy: BasePolicy) -> list[HiddenLayer]:
    """List the hidden layers of a policy that must have some.

    :param policy: of any algorithm
    :raises ValueError: if the policy has no hidden layer with a known activation
    """
    layers = hidden_layers(policy)
    if not layers:
        raise ValueError(
            "`policy` must have a hidden layer whose activation is one of "
            f"{', '.join(kind.__name__ for kind in ACTIVATIONS)}, got none"
        )
    return layers


@contextmanager
def every_row_in_every_expert(policy: BasePolicy) -> Iterator[None]:
    """Make sparse layers run every expert on every row, so that hooks see one tensor per layer."""
    networks = [module for module in policy.modules() if isinstance(module, Experts)]
    before = [network.needs_all_rows for network in networks]
    for network in networks:
        network.needs_all_rows = True
    try:
        yield
    finally:
        for network, value in zip(networks, before, strict=True):
            network.needs_all_rows = value


def _activations(layer: HiddenLayer, calls: Mapping[str, list[Call]]) -> Activations | None:
    """Return what a layer computed, if it ran, and if it is known which axis its units are on.

    Of three axes it isn't: a convolution over time has them before positions, a layer that is
    applied to each of several things behind.
    """
    try:
        values_ETHP = as_ETHP(calls[layer.name][-1].output, layer.num_experts)
    except (IndexError, ValueError):
        return None
    if layer.mixture is None:
        return Activations(values_ETHP)
    routing: Routing = calls[f"{layer.name} mixture"][-1].output[1]
    # An expert that is not stacked with the others has layers of its own.
    mine = slice(None) if layer.expert is None else slice(layer.expert, layer.expert + 1)
    gates_TE = row_gates(layer.mixture, routing)
    if routing.experts_BNk is not None:
        chosen_TE = th.zeros_like(gates_TE).scatter(-1, routing.experts_BNk.flatten(0, 1), 1.0)
    elif layer.mixture.edit_gates is not None:  # where all experts run, those that are off too
        chosen_TE = (gates_TE != 0).to(gates_TE.dtype)
    else:
        return Activations(values_ETHP, gates_TE[:, mine])
    chosen_TE = chosen_TE[:, mine]
    values_ETHP = values_ETHP * chosen_TE.T[:, :, None, None]
    return Activations(values_ETHP, gates_TE[:, mine], chosen_TE.any(0))


def row_gates(layer: MoELayer, routing: Routing) -> th.Tensor:
    """Return how much each row of each expert counts in the output, (T, E).

    :param layer: of any router
    :param routing: what it decided, with rows in the order in which the experts saw them
    """
    gates_BNE, logits = routing.gates_BNE, routing.logits_BNE
    if isinstance(layer, ExpertChoiceMoE):  # the tokens that each expert took
        taken_BEC = gates_BNE.transpose(1, 2).topk(layer.capacity(gates_BNE.shape[1])).values
        return taken_BEC.transpose(1, 2).flatten(0, 1)
    if isinstance(layer, SoftMoE) and logits is not None and logits.shape[1] > 1:
        # Each slot's mean weight over the tokens it is mixed back into.
        combine_BK = logits.flatten(2).softmax(-1).mean(1)
        combine_BES = combine_BK.unflatten(1, (layer.num_experts, layer.num_slots))
        return combine_BES.transpose(1, 2).flatten(0, 1)
    return gates_BNE.flatten(0, 1)


@th.no_grad()
def expert_outputs(policy: Any, obs: Obs) -> dict[str, th.Tensor]:
    """Return the output of every expert for every token, (E, T, O), by mixture.

    :param policy: one of ours
    :param obs: a batch of observations
    """
    layers = policy.moe_layers()
    with evaluating(policy), recording(layers) as calls:
        networks_of(policy).run(policy.obs_to_tensor(obs)[0])
        seen = {name: each[-1].args[0].flatten(0, -2) for name, each in calls.items() if each}
        return {name: layers[name].experts.every(x_TI) for name, x_TI in seen.items()}
