"""A policy's mixtures by name, single experts, and what routers decide."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_moe.layers import MoELayer, Routing
from sb3_moe.layers.checks import numbers_below
from sb3_moe.layers.evaluating import evaluating, recording
from sb3_moe.policies.networks import kind_of, network_of, networks_of
from sb3_moe.policies.options import MoEOptions
from sb3_moe.vec_env.observations import map_observation

Array = np.ndarray
# An actor's output layers: the mean of its actions, and the log of their standard deviation.
HEADS = ("mu", "log_std")


class LooksInside(BaseModel):
    """The part of a policy that gives access to its mixtures, experts and routing."""

    moe: dict[str, MoEOptions]

    def moe_layers(self) -> dict[str, MoELayer]:
        """Return every MoE layer by network and place.

        Names are, for example, ``"pi.middle"`` or ``"qf0.all.1"``; of output layers ``"vf.head"``,
        or ``"pi.mu"`` and ``"pi.log_std"`` where an actor has both.
        """
        found: dict[str, MoELayer] = {}
        for network, modules in networks_of(self).modules().items():
            options = self.moe[kind_of(network)]
            layers = [m for each in modules for m in each.modules() if isinstance(m, MoELayer)]
            heads: tuple[str, ...] = ()
            if options.routes_head:
                heads = HEADS if len(modules) == 3 else ("head",)
            names = [f"{options.place.name}.{i}" for i in range(len(layers) - len(heads))]
            names = [options.place.name] if len(names) == 1 else names
            if heads == ("head",) and not names and options.place.has_experts:
                heads = (options.place.name,)
            pairs = zip((*names, *heads), layers, strict=True)
            found |= {f"{network}.{name}": layer for name, layer in pairs}
        return found

    def mixtures(self, network: str | None) -> dict[str, MoELayer]:
        """Return a network's mixtures by name.

        :param network: ``"pi"``, ``"vf"``, ``"qf"`` (all critics), ``"qf0"``, or a mixture's name,
            such as ``"pi.middle"``; None: every network
        :return: all, but a head with an expert for each task only if its network has no others,
            since its experts' numbers are those of tasks
        :raises ValueError: if there is no such mixture
        """
        layers = self.moe_layers()
        if not layers:
            raise ValueError(
                "the policy has no mixture of experts: choose another `placement` than 'none'"
            )
        found = {
            name: each
            for name, each in layers.items()
            if network in (None, name, network_of(name), kind_of(name))
        }
        if not found:
            networks = sorted({network_of(name) for name in layers})
            raise ValueError(
                f"`network` must be one of {networks}, which have experts, got {network!r}"
            )
        others = {kind_of(name) for name, each in found.items() if not each.needs_tasks}
        return {n: m for n, m in found.items() if not (m.needs_tasks and kind_of(n) in others)}

    def get_expert(self, network: str, k: int) -> nn.Sequential:
        """Return one expert as plain modules with copied weights.

        :param network: ``"pi"``, ``"vf"``, ``"qf"`` (of several critics the first), ``"qf1"``,
            ..., of which the last mixture counts, or a mixture's name, such as ``"pi.all.0"``
        :param k: which expert
        :raises TypeError: if ``k`` is no int
        :raises ValueError: if there is no such mixture or expert
        """
        found = self.mixtures(network)
        critic = network_of(next(iter(found)))
        name = [each for each in found if network_of(each) == critic][-1]
        numbers_below("k", [k], found[name].num_experts, name)
        return found[name].experts.expert(k)

    @th.no_grad()
    def routing(
        self, obs: Array | dict[str, Array] | PyTorchObs, actions: Array | Tensor | None = None
    ) -> dict[str, Routing]:
        """Return what every router decides for a batch of observations, by network and layer.

        :param obs: observations as the environment gives them, with or without a batch axis. An
            LSTM sees each as the first step of an episode, as in all measures on a batch;
            :func:`sb3_moe.watch` plays episodes, with the LSTM's memory
        :param actions: for critics of Box actions, as the environment takes them and ``predict``
            gives them, with or without a batch axis, as many as observations; None: the actor's own
        :raises ValueError: if the actions have another shape
        """
        tensors, _ = self.obs_to_tensor(map_observation(_as_array, obs))
        given = None if actions is None else self._as_tensor(actions)
        with evaluating(self), recording(self.moe_layers()) as calls:
            networks_of(self).run(tensors, given)
        return {name: each[-1].output[1] for name, each in calls.items()}

    def _as_tensor(self: Any, given: Array | Tensor) -> Tensor:
        shape = self.action_space.shape or ()
        actions = _as_array(given)
        if actions.shape[actions.ndim - len(shape) :] != shape:
            raise ValueError(
                f"`actions` must have the shape {shape}, alone or in rows, got {actions.shape}"
            )
        if self.squash_output:  # critics see actions scaled to [-1, 1]
            actions = self.scale_action(actions)
        tensor = th.as_tensor(actions, dtype=th.float32, device=self.device)
        return tensor.reshape(-1, int(np.prod(shape)))  # as critics see them


def _as_array(given: Any) -> Array:
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
