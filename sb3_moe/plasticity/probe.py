"""Run a batch through a policy and read every hidden layer, mixtures included.

Shapes: T rows, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_moe.layers import ExpertChoiceMoE, Experts, MoELayer, Routing, SoftMoE
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.networks import networks_of
from sb3_moe.observations.batches import Obs
from sb3_moe.plasticity.activations import ACTIVATIONS, Activations, as_ETHP, recording
from sb3_moe.plasticity.hidden_layers import HiddenLayer, hidden_layers


@th.no_grad()
def policy_activations(policy: BasePolicy, obs: Obs) -> dict[str, Activations]:
    """Return what each hidden layer computes on a batch, by ``<tower>.<index>``.

    A token that a sparse router did not send to an expert counts there as zeros. Layers of the
    user's own whose values have three axes are left out: which of them are units isn't known.

    :param policy: of any algorithm; its mode is left as it was
    :param obs: a batch of observations, as the environment gives them
    :raises ValueError: if the policy has no hidden layer with a known activation
    """
    layers = some_hidden_layers(policy)
    watched = {layer.name: layer.module for layer in layers}
    watched |= {f"{la.name} mixture": la.mixture for la in layers if la.mixture is not None}
    with evaluating(policy), every_row_in_every_expert(policy), recording(watched) as outputs:
        networks_of(policy).run(policy.obs_to_tensor(obs)[0])
    return {la.name: _activations(la, outputs) for la in layers if _is_readable(la, outputs)}


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
    """Keep sparse layers from sorting rows by expert, so that hooks see one tensor per layer."""
    networks = [module for module in policy.modules() if isinstance(module, Experts)]
    before = [network.needs_all_rows for network in networks]
    for network in networks:
        network.needs_all_rows = True
    try:
        yield
    finally:
        for network, value in zip(networks, before, strict=True):
            network.needs_all_rows = value


def _is_readable(layer: HiddenLayer, outputs: Mapping[str, list[Any]]) -> bool:
    """Say whether a layer ran, and which axis its units are on is known.

    Of three axes it isn't: a convolution over time has them before positions, a layer that is
    applied to each of several things behind.
    """
    calls = outputs[layer.name]
    try:
        return bool(calls) and as_ETHP(calls[-1], layer.num_experts) is not None
    except ValueError:
        return False


def _row_gates(layer: MoELayer, routing: Routing) -> th.Tensor:
    """Return the weight of each row of each expert in the output: (T, E)."""
    gates_BNE = routing.gates_BNE
    if isinstance(layer, ExpertChoiceMoE):
        gates_BEC = gates_BNE.transpose(1, 2).topk(layer.capacity(gates_BNE.shape[1]), dim=-1)[0]
        return gates_BEC.transpose(1, 2).flatten(0, 1)
    if isinstance(layer, SoftMoE) and gates_BNE.shape[1] > 1:
        return routing.weights_BNE.mean(1).transpose(1, 2).flatten(0, 1)
    return gates_BNE.flatten(0, 1)


def _activations(layer: HiddenLayer, outputs: Mapping[str, list[Any]]) -> Activations:
    calls = outputs[layer.name]
    if layer.mixture is None:
        return Activations(as_ETHP(calls[-1], layer.num_experts))
    values_ETHP = as_ETHP(calls[-1], layer.num_experts)
    routing: Routing = outputs[f"{layer.name} mixture"][-1][1]
    gates_TE = _row_gates(layer.mixture, routing)
    # An expert that is not stacked with the others has layers of its own.
    mine = slice(None) if layer.expert is None else slice(layer.expert, layer.expert + 1)
    if routing.experts_BNk is None:
        return Activations(values_ETHP, gates_TE[:, mine])
    chosen_TE = th.zeros_like(gates_TE).scatter(-1, routing.experts_BNk.flatten(0, 1), 1.0)
    gates_TE, chosen_TE = gates_TE[:, mine], chosen_TE[:, mine]
    values_ETHP = values_ETHP * chosen_TE.T[:, :, None, None]
    return Activations(values_ETHP, gates_TE, chosen_TE.any(0))
