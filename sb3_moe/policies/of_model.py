"""A model's policy, and what its routers decide."""

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs
from torch import Tensor

from sb3_moe.layers import Routing
from sb3_moe.policies.looks_inside import Array
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import uncompiled


def policy_of(model: BaseAlgorithm | BaseModel) -> MoEPolicy:
    """Return a model's policy, which must be one of this package's.

    :param model: an SB3 model, or the policy of one
    :raises TypeError: if the policy is not one of this package's
    """
    policy = uncompiled(model.policy if isinstance(model, BaseAlgorithm) else model)
    if not isinstance(policy, MoEPolicy):
        raise TypeError(
            f"`model` must have one of this package's policies, got {type(policy).__name__}; "
            "build it with policy='MoeMlpPolicy', or give a trained one experts by sb3_moe.upcycle"
        )
    return policy


def routing(
    model: BaseAlgorithm | BaseModel,
    obs: VecEnvObs | PyTorchObs,
    actions: Array | Tensor | None = None,
) -> dict[str, Routing]:
    """Return what every router of a model decides for a batch of observations.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 3})
    >>> decided = routing(model, model.get_env().reset())
    >>> sorted(decided)
    ['pi.middle', 'vf.middle']
    >>> tuple(decided["pi.middle"].gates_BNE.shape)  # observations, tokens, experts
    (1, 1, 3)

    :param model: an SB3 model, or the policy of one
    :param obs: as the environment gives them, with or without a batch axis
    :param actions: for critics of Box actions, likewise; None: the actor's own
    :return: the routing by network and place, such as ``"pi.middle"``
    :raises TypeError: if the policy is not one of this package's
    """
    return policy_of(model).routing(obs, actions)  # type: ignore[arg-type]  # no policy takes a tuple
