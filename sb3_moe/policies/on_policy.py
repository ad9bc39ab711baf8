"""MoE policies for PPO, A2C and sb3-contrib's TRPO."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import network_of
from sb3_moe.policies.own_actions import OwnGaussian, TaskActionDims
from sb3_moe.policies.plain_distributions import plain
from sb3_moe.policies.popart import PopArt
from sb3_moe.policies.task_gradients import TaskGradients
from sb3_moe.vec_env.task_ids import TaskIds, one_hot_length

HEAD_GAIN = {"pi": 0.01, "vf": 1.0}
# The attributes in which SB3 keeps hidden layers (in `mlp_extractor`) and heads (in the policy).
HIDDEN = {"pi": "policy_net", "vf": "value_net"}
HEADS = {"pi": "action_net", "vf": "value_net"}


if TYPE_CHECKING:

    class _Policy(MoEPolicy, ActorCriticPolicy):
        """For type checkers: SB3's policy, or sb3-contrib's counterpart, is behind the mixin."""

else:
    _Policy = MoEPolicy


class MoEActorCritic(_Policy):
    """Give an actor-critic policy's ``mlp_extractor`` and heads experts.

    :param args: as for :class:`~sb3_moe.policies.moe_policy.MoEPolicy`
    :param popart: let the critic, which needs a head for each task, learn values that are
        normalized for each task; this needs :class:`~sb3_moe.callbacks.PopArtCallback`
    :param kwargs: as for MoEPolicy
    """

    # The same as SB3's policy sets for Adam.
    optimizer_defaults: ClassVar[dict[Any, Any]] = {th.optim.Adam: {"eps": 1e-5}}
    task_dims: TaskActionDims | None
    _has_BA: Tensor | None = None

    def __init__(self, *args: Any, popart: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        seen = self.observation_space, self.pi_features_extractor
        self.task_gradients = {
            network: TaskGradients(options.task_gradients, *seen)
            for network, options in self.moe.items()
        }
        self.popart: PopArt | None = None
        if popart:
            num_tasks = one_hot_length(self.vf_features_extractor) or None
            task_ids = TaskIds(self.observation_space, num_tasks, "`popart`")
            critic = [m for name, m in self.moe_layers().items() if network_of(name) == "vf"]
            self.popart = PopArt(task_ids, critic[-1] if critic else None).to(self.device)

    def _build_mlp_extractor(self) -> None:
        """Build SB3's hidden layers and put experts into them, before SB3 builds the heads."""
        super()._build_mlp_extractor()
        self._architects = self._make_architects()
        for network, architect in self._architects.items():
            name = HIDDEN[network]
            net, width = architect.hidden_network(getattr(self.mlp_extractor, name))
            setattr(self.mlp_extractor, name, net)
            setattr(self.mlp_extractor, f"latent_dim_{network}", width)

    @staticmethod
    def init_weights(module: nn.Module, gain: float = 1.0) -> None:
        """Initialize a layer as SB3 does, except in a user's router, which initializes itself."""
        if not getattr(module, "keeps_start", False):
            ActorCriticPolicy.init_weights(module, gain)

    def _make_architects(self) -> dict[str, Architect]:
        """Return a builder for each network that is not SB3's own."""
        extractors = {"pi": self.pi_features_extractor, "vf": self.vf_features_extractor}
        layouts = {network: self.layout(each) for network, each in extractors.items()}
        return {
            network: self._make_architect(network, layout)
            for network, layout in layouts.items()
            if not self.uses_sb3_network(network, layout)
        }

    def _make_architect(self, network: str, layout: Layout, **kwargs: Any) -> Architect:
        def orthogonal(gain: float, module: nn.Module) -> None:
            module.apply(partial(self.init_weights, gain=gain))

        if self.ortho_init:
            kwargs["init_hidden"] = partial(orthogonal, np.sqrt(2))
            kwargs["init_head"] = partial(orthogonal, HEAD_GAIN[network])
        return Architect(self.moe[network], layout, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        """Build as SB3 does, then the heads with experts, then the optimizer of all parameters."""
        if any(options.is_moe for options in self.moe.values()):
            self.action_dist: Any = plain(self.action_dist)
        super()._build(lr_schedule)
        dims = self.moe["pi"].action_dims
        extractor = self.pi_features_extractor
        self.task_dims = None if dims is None else TaskActionDims(dims, self, extractor)
        for network, architect in self._architects.items():
            name = HEADS[network]
            setattr(self, name, architect.head(getattr(self, name)))
            # Only now that SB3 has initialized its layers: the scale depends on their outputs.
            architect.match(getattr(self.mlp_extractor, HIDDEN[network]), getattr(self, name))
        if self._architects:
            self.optimizer = self.optimizer_class(
                self.parameters(),
                lr=lr_schedule(1),  # type: ignore[call-arg]  # as in SB3
                **self.optimizer_kwargs,
            )
        del self._architects

    def extract_features(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Any:
        """Extract features as SB3's policy does, and remember each task's own action dimensions.

        SB3 doesn't pass observations on to ``_get_action_dist_from_latent``, which needs these.
        """
        if self.task_dims is not None:
            self._has_BA = self.task_dims(obs)
        return super().extract_features(obs, *args, **kwargs)

    def forward(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Any:
        """Choose actions as SB3's policy does; values are on the scale of the rewards."""
        found = super().forward(obs, *args, **kwargs)  # type: ignore[arg-type]  # SB3's says less
        if self.popart is None:
            return found
        self.popart.is_up_to_date = False
        actions, outputs, *rest = found
        return actions, self.popart.values(outputs, obs), *rest

    def predict_values(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Tensor:
        """Return the values, on the scale of the rewards, (B, 1)."""
        outputs = super().predict_values(obs, *args, **kwargs)
        return outputs if self.popart is None else self.popart.values(outputs, obs)

    def evaluate_actions(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as SB3's policy does; with ``popart``, return the critic's normalized values.

        :raises RuntimeError: with ``popart``, if no PopArtCallback has processed the latest rollout
        """
        if self.popart is not None and not self.popart.is_up_to_date:
            raise RuntimeError(
                "`popart`=True needs learn(..., callback=PopArtCallback()), in a list before "
                "callbacks that use advantages"
            )
        values, *of_actor = super().evaluate_actions(obs, *args, **kwargs)
        of_pi = self.task_gradients["pi"](self, obs, of_actor)
        (values,) = self.task_gradients["vf"](self, obs, [values])
        return values, *of_pi

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what ``load`` needs."""
        return super()._get_constructor_parameters() | {"popart": self.popart is not None}

    def get_distribution(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Any:
        """Return SB3's distribution, with ``action_dims`` over each task's own dimensions."""
        if self.task_dims is not None:  # SB3's method calls its own `extract_features`, not ours
            self._has_BA = self.task_dims(obs)
        return super().get_distribution(obs, *args, **kwargs)

    def _get_action_dist_from_latent(self, latent_pi: Tensor, *args: Any) -> Any:
        own_BA = self._has_BA
        self._has_BA = None
        if own_BA is None:
            return super()._get_action_dist_from_latent(latent_pi, *args)
        distribution = OwnGaussian(self.action_dist.action_dim).of(own_BA)
        return distribution.proba_distribution(self.action_net(latent_pi), self.log_std)


class MoeMlpPolicy(MoEActorCritic, ActorCriticPolicy):
    """MoE policy for flat observations (PPO, A2C, TRPO)."""


class MoeCnnPolicy(MoEActorCritic, ActorCriticCnnPolicy):
    """MoE policy for images (PPO, A2C, TRPO)."""


class MoeMultiInputPolicy(MoEActorCritic, MultiInputActorCriticPolicy):
    """MoE policy for Dict observations (PPO, A2C, TRPO)."""


__all__ = ["MoeCnnPolicy", "MoeMlpPolicy", "MoeMultiInputPolicy"]
