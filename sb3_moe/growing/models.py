"""Build a model of the same algorithm whose new policy computes what the old one does.

Shapes: B batch, O outputs.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import Tensor

from sb3_moe.layers.classes import of_this_package
from sb3_moe.layers.evaluating import evaluating, recording
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.masks import masks_in
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.options import ARGUMENTS, DEFAULTS, MoEOptions
from sb3_moe.saving.model_parts import (
    PROGRESS,
    SCHEDULES,
    argument_names,
    hindsight_buffer,
    is_hindsight,
    makes_own_buffer,
    optimizers_of,
)
from sb3_moe.saving.values import made_anew
from sb3_moe.vec_env.observations import map_observation
from sb3_moe.vec_env.replay_buffers import end_running_episodes
from sb3_moe.vec_env.tasks import names_on, write_names

# Attributes for logs, beside arguments and counts.
_LOGGED = ("tensorboard_log", "ep_info_buffer", "ep_success_buffer")
# What callbacks remember that doesn't depend on the networks.
_REMEMBERED = ("task_switches", "task_trained", "best_models", "interventions_done", "new_tasks")
# What the names of our policies begin with.
_OURS = "Moe"
# Options outside the layers of experts that SB3's dense networks have no counterpart of.
NO_DENSE_COUNTERPART = ("block", "task_embedding", "action_dims", "ent_coef_per_task")
NO_DENSE_REASON = "SB3's dense models have no counterpart (`distill` fits one)"
# The largest difference between outputs that counts as rounding, relative to their size.
TOLERANCE = 1e-4


def build_like(
    model: BaseAlgorithm, policy: type[Any], policy_kwargs: dict[str, Any], env: Any
) -> Any:
    """Build a model with the arguments, counts and transitions of another, and fresh networks.

    :param model: the other model, which stays as it is
    :param policy: the class of the new policy
    :param policy_kwargs: its arguments
    :param env: the new model's environment, wrapped as SB3 wraps it; None: none
    """
    new: Any = type(model)(  # type: ignore[call-arg]  # as in SB3's load
        policy=policy, env=None, device=model.device, _init_setup_model=False
    )
    found = vars(model)
    source = model if env is None else env
    names = [*argument_names(model), *PROGRESS, *_LOGGED, *_REMEMBERED]
    kept = {name: copy.deepcopy(found[name]) for name in names if name in found}
    kept["n_envs"] = model.n_envs if env is None else env.num_envs
    if noise := kept.get("action_noise"):  # `learn` made it one for as many environments as it had
        kept["action_noise"] = getattr(noise, "base_noise", noise)
    vars(new).update(kept)
    new.policy_kwargs = policy_kwargs
    new.action_space = model.action_space
    new.observation_space = source.observation_space
    _set_buffers(new, model, env)
    new._setup_model()
    lasting = {name: found[name] for name in SCHEDULES if name in found}
    vars(new).update(lasting | {name: kept[name] for name in PROGRESS if name in kept})
    return new


def _set_buffers(new: Any, model: BaseAlgorithm, env: Any) -> None:
    """Copy a replay buffer that still fits, and unset buffer classes that SB3 is to choose anew."""
    old_kind, new_kind = (isinstance(m.observation_space, spaces.Dict) for m in (model, new))
    if makes_own_buffer(model) or (old_kind != new_kind and not is_hindsight(model)):
        _unset_buffers(new, ours=False)  # ours take observations of both kinds
    buffer = getattr(model, "replay_buffer", None)
    same = new.observation_space == model.observation_space and new.n_envs == model.n_envs
    if buffer is not None and same:
        new.replay_buffer = copy.deepcopy(buffer)
        # The new model resets the environments, which ends these episodes.
        end_running_episodes(new.replay_buffer)
        if is_hindsight(new) and env is not None:
            new.replay_buffer.set_env(env)
    elif is_hindsight(new):
        new.replay_buffer = hindsight_buffer(new, env)


def _unset_buffers(model: Any, *, ours: bool) -> None:
    """Unset the buffer classes that are of this package, or those that are not."""
    for name in ("replay_buffer", "rollout_buffer"):
        kind = getattr(model, f"{name}_class", None)
        if kind is not None and of_this_package(kind) == ours:
            setattr(model, f"{name}_class", None)
            if ours:
                setattr(model, f"{name}_kwargs", {})


def carry_the_rest(new: Any, model: BaseAlgorithm) -> None:
    """Copy variables and optimizers outside the policy, such as those of SAC's entropy coefficient.

    :param new: the new model, of the same algorithm
    :param model: the old model
    :raises ValueError: if only the old model learns the entropy coefficient
    """
    for name in model._get_torch_save_params()[1]:
        source = recursive_getattr(model, name)
        if not source.requires_grad:
            continue  # a coefficient that is an argument
        if (into := recursive_getattr(new, name)) is None:
            raise ValueError("`ent_coef` must be learned by both models, or by neither")
        into.data.copy_(source.data)
    policies = networks_of(model.policy).every_optimizer()
    ours = optimizers_of(new)
    for name, optimizer in optimizers_of(model).items():
        if optimizer not in policies:
            ours[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))


def finish(new: Any, model: BaseAlgorithm, env: Any) -> Any:
    """Give a new model, whose policy is complete, everything else that the old one has.

    :param new: the new model, from :func:`build_like`
    :param model: the old model
    :param env: as in :func:`build_like`
    """
    carry_the_rest(new, model)
    if new.use_sde:
        new.policy.reset_noise()
    if env is not None:
        new.set_env(env)
    if vars(model).get("_custom_logger"):
        new.set_logger(model.logger)
    return new


def check_defaults(options: Mapping[str, MoEOptions], names: Sequence[str], why: str) -> None:
    """Raise ValueError unless options have their defaults.

    :param options: the options of each network
    :param names: the options that must have their defaults
    :param why: the reason, for the error
    """
    for each in options.values():
        for name in filter(each.is_given, names):
            given = getattr(each, name)
            raise ValueError(f"`{name}` must be {DEFAULTS[name]!r}: {why}, got {given!r}")


def changed_kwargs(model: BaseAlgorithm, net_arch: Any, kind: type[Any], kwargs: Any) -> Any:
    """Return a model's ``policy_kwargs`` without our options, with new layers and extractor.

    :param model: whose arguments they are
    :param net_arch: hidden layers
    :param kind: class of the features extractor
    :param kwargs: its arguments
    """
    found = {k: copy.deepcopy(v) for k, v in model.policy_kwargs.items() if k not in ARGUMENTS}
    extractor = {"features_extractor_class": kind, "features_extractor_kwargs": kwargs}
    return found | extractor | {"net_arch": net_arch}


# From a dense policy class to the one with experts, and back.


def moe_class(model: BaseAlgorithm, space: spaces.Space) -> type[Any]:
    """Return our policy class for a model's algorithm and observations.

    :param model: a dense model
    :param space: the space of observations
    :raises TypeError: if the model's policy is of no known class
    :raises ValueError: if the algorithm has no policy for such observations
    """
    ours = _OURS + _alias(model).removeprefix(_OURS)
    if isinstance(space, spaces.Dict):
        ours = ours.replace("Mlp", "MultiInput", 1).replace("Cnn", "MultiInput", 1)
    if ours not in model.policy_aliases:
        raise ValueError(
            f"`env` must be built with `task_id`='onehot' for {type(model).__name__}, which has no "
            f"policy for a Dict, got {space}"
        )
    return model.policy_aliases[ours]


def _alias(model: BaseAlgorithm) -> str:
    aliases = model.policy_aliases
    kind = type(model.policy)
    for name, each in aliases.items():
        if each is kind:
            return name
    raise TypeError(
        f"`model` must have one of the policies that {type(model).__name__} has a name for, "
        f"{list(aliases)}, got {kind.__name__}"
    )


def build_dense(model: BaseAlgorithm, old: Any, net_arch: Any) -> Any:
    """Build a dense model of SB3 to replace one with experts; its networks are fresh.

    :param model: the model with experts
    :param old: its policy
    :param net_arch: hidden layers of the new policy
    :raises ValueError: if SB3 has no counterpart of the extractor, or of PopArt
    """
    if getattr(old, "popart", None) is not None:
        raise ValueError("`popart` must be False: SB3's critics don't normalize values, got True")
    kind = old.features_extractor_class
    kwargs = dict(old.features_extractor_kwargs)
    if issubclass(kind, TaskExtractor):
        if (encoder := kwargs.get("encoder")) != "flat":
            raise ValueError(f"`encoder` must be 'flat' in SB3's own model, got {encoder!r}")
        is_dict = isinstance(old.observation_space, spaces.Dict)
        kind = CombinedExtractor if is_dict else FlattenExtractor
        kwargs = {}
    policy_class = model.policy_aliases[_alias(model).removeprefix(_OURS)]
    arguments = changed_kwargs(model, net_arch, kind, kwargs)
    return build_like(model, policy_class, arguments, model.get_env())


def as_sb3s(new: Any, model: BaseAlgorithm) -> Any:
    """Finish a dense model so that its file can be read without this package.

    :param new: the dense model, from :func:`build_dense`
    :param model: the old model
    """
    finish(new, model, model.get_env())
    with suppress(ValueError):  # for a space of the user's own class
        space = made_anew(new.observation_space)
        names = names_on(new.observation_space)
        if names is not None:
            write_names(space, names)
        new.observation_space = space
    _unset_buffers(new, ours=True)
    return new


def refuse_masks(policy: Any) -> None:
    """Raise ValueError if a policy's weights are sparse, which new layers would not be."""
    if any(masks_in(optimizer) for optimizer in networks_of(policy).every_optimizer()):
        raise ValueError("`model` must not train sparsely: growing.drop_masks(model) ends that")


# Raw outputs of networks: logits, means, values.


def raw_outputs(policy: Any, obs: Any, actions: Tensor | None = None) -> dict[str, Tensor]:
    """Return every network's raw outputs, (B, O), by network and number of the head: ``"pi.0"``.

    :param policy: of any algorithm
    :param obs: a batch of observations as tensors on the policy's device
    :param actions: for critics of actions; None: the actor's own
    """
    networks = networks_of(policy)
    heads = {
        f"{network.name}.{i}": module
        for network in networks.networks()
        for i, module in enumerate(network.heads or (network.hidden,))
    }
    with evaluating(policy), recording(heads) as calls:
        networks.run(obs, actions)
    return {name: each[-1].output for name, each in calls.items()}


@th.no_grad()
def check_same(new: Any, old: Any, obs: Any, old_obs: Any) -> None:
    """Raise ValueError unless the networks of two policies return the same, up to rounding.

    :param new: the new policy
    :param old: the old policy
    :param obs: a batch of observations for the new policy, as environments give them
    :param old_obs: the same observations for the old policy
    """
    pairs = ((new, obs), (old, old_obs))
    found, known = (raw_outputs(policy, policy.obs_to_tensor(each)[0]) for policy, each in pairs)
    for name, wanted in known.items():
        size = max(wanted.abs().max().item(), 1.0)
        apart = (found[name] - wanted).abs().max().item() / size
        if not apart <= TOLERANCE:
            raise ValueError(
                "`router` and `expert` must be of kinds that can compute the same as the old "
                f"layers, but outputs {name!r} differ by {apart:.3g} of their size"
            )


def sampled(space: spaces.Space, rows: int = 16) -> Any:
    """Draw observations from a space, the same in every call, with floats clipped to [-10, 10].

    :param space: the space of observations
    :param rows: how many observations
    """
    batch = batch_space(space, rows)
    batch.seed(0)
    return map_observation(
        lambda drawn: np.clip(drawn, -10, 10) if drawn.dtype.kind == "f" else drawn, batch.sample()
    )
