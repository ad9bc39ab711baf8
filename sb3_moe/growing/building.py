"""A model of the same algorithm with another policy, gone as far as the old one."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor

from sb3_moe.networks import networks_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.options import ARGUMENTS
from sb3_moe.saving.model_parts import PROGRESS, SCHEDULES, argument_names, makes_own_buffer
from sb3_moe.saving.replay_rows import hindsight_buffer, is_hindsight
from sb3_moe.saving.values import made_anew
from sb3_moe.vec_env.replay_buffers import end_running_episodes
from sb3_moe.vec_env.tasks import names_on, write_names

# What a log shows, beside arguments and counts.
_LOGGED = ("tensorboard_log", "ep_info_buffer", "ep_success_buffer")
_BUFFER_CLASSES = ("replay_buffer_class", "rollout_buffer_class")
# What the names of our policies begin with.
_OURS = "Moe"


def build_like(
    model: BaseAlgorithm, policy: type[Any], policy_kwargs: dict[str, Any], env: Any
) -> Any:
    """Build a model with the arguments, counts and transitions of another, and fresh networks.

    :param model: it stays as it is
    :param policy: the class of the new policy
    :param policy_kwargs: its arguments
    :param env: that the new model will have, as it takes it; None: none
    """
    new: Any = type(model)(  # type: ignore[call-arg]  # as in SB3's load
        policy=policy, env=None, device=model.device, _init_setup_model=False
    )
    found = vars(model)
    names = [*argument_names(model), *PROGRESS, *_LOGGED]
    kept = {name: copy.deepcopy(found[name]) for name in names if name in found}
    vars(new).update(kept)
    new.policy_kwargs = policy_kwargs
    new.action_space = model.action_space
    new.observation_space = model.observation_space if env is None else env.observation_space
    new.n_envs = model.n_envs if env is None else env.num_envs
    _set_buffers(new, model, env)
    new._setup_model()
    schedules = {name: found[name] for name in SCHEDULES if name in found}
    vars(new).update(schedules | {name: kept[name] for name in PROGRESS if name in kept})
    new.n_envs = model.n_envs if env is None else env.num_envs
    return new


def _set_buffers(new: Any, model: BaseAlgorithm, env: Any) -> None:
    """Copy the transitions where they still fit, else let SB3 choose the buffer anew."""
    old_kind, new_kind = (isinstance(m.observation_space, spaces.Dict) for m in (model, new))
    for name in _BUFFER_CLASSES:
        chosen = getattr(new, name, None)
        if chosen is not None and old_kind != new_kind and _is_usual(chosen):
            setattr(new, name, None)
    if makes_own_buffer(model):
        new.replay_buffer_class = None
    buffer = getattr(model, "replay_buffer", None)
    same = new.observation_space == model.observation_space and new.n_envs == model.n_envs
    if buffer is not None and same:
        new.replay_buffer = copy.deepcopy(buffer)
        # The environments begin anew with the new model.
        end_running_episodes(new.replay_buffer)
        if is_hindsight(new) and env is not None:
            new.replay_buffer.set_env(env)
    elif is_hindsight(new):
        new.replay_buffer = hindsight_buffer(new, env)


def _is_usual(buffer_class: type[Any]) -> bool:
    """Say whether SB3 might have chosen a class itself, by whether observations are dicts."""
    own = buffer_class.__module__.split(".")[0] in ("stable_baselines3", "sb3_contrib")
    return own and "Her" not in buffer_class.__name__


def carry_the_rest(new: Any, model: Any) -> None:
    """Carry over variables and optimizers beside the policy, such as SAC's of its entropy.

    :param new: of :func:`build_like`
    :param model: the old one
    :raises ValueError: if the new one doesn't learn what the old one does
    """
    names, variables = model._get_torch_save_params()
    for name in variables:
        if (variable := recursive_getattr(model, name)) is not None:
            if (into := recursive_getattr(new, name)) is None:
                raise ValueError(
                    f"`{name}` is learned by the old model and fixed in the new one: give both the "
                    "same `ent_coef`"
                )
            into.data.copy_(variable.data)
    policies = set(networks_of(model.policy).every_optimizer())
    for name in names:
        part = recursive_getattr(model, name)
        if isinstance(part, th.optim.Optimizer) and part not in policies:
            recursive_getattr(new, name).load_state_dict(copy.deepcopy(part.state_dict()))


def dress(new: Any, model: BaseAlgorithm, env: Any) -> Any:
    """Give a model the environment and the logger of another.

    :param new: whole
    :param model: the old one
    :param env: as the new one takes it; None: none
    """
    if env is not None:
        new.set_env(env)
    if vars(model).get("_custom_logger"):
        new.set_logger(model.logger)
    return new


def with_gymnasiums_spaces(model: Any) -> Any:
    """Let SB3's file of a model name no space of ours, which whoever opens it need not have.

    :param model: it is changed, and returned
    """
    with suppress(ValueError):  # of a kind that only its maker knows
        space, names = made_anew(model.observation_space), names_on(model.observation_space)
        if names is not None:
            write_names(space, names)
        model.observation_space = space
    return model


# Which policy class of an algorithm is the same with experts, or without.


def moe_class(model: BaseAlgorithm, space: spaces.Space[Any]) -> type[Any]:
    """Return our policy class for a model's algorithm and observations.

    :param model: dense
    :param space: of observations
    :raises TypeError: if the model's policy is of no known class
    :raises ValueError: if there is none for such observations
    """
    aliases = model.policy_aliases
    ours = _OURS + _alias(model).removeprefix(_OURS)
    if isinstance(space, spaces.Dict):
        ours = ours.replace("Mlp", "MultiInput", 1).replace("Cnn", "MultiInput", 1)
    if ours not in aliases:
        raise ValueError(
            f"`env` must have observations that {type(model).__name__} has an MoE policy for, "
            f"{[name for name in aliases if name.startswith(_OURS)]}, got {space}"
        )
    return aliases[ours]


def dense_class(model: BaseAlgorithm) -> type[Any]:
    """Return SB3's own policy class for a model's algorithm and observations.

    :raises TypeError: if the model's policy is of no known class
    """
    return model.policy_aliases[_alias(model).removeprefix(_OURS)]


def _alias(model: BaseAlgorithm) -> str:
    aliases = model.policy_aliases
    kind = type(model.policy)
    alias = next((name for name, each in aliases.items() if each is kind), None)
    if alias is None:
        raise TypeError(
            f"`model` must have a policy that {type(model).__name__} has a name for, "
            f"{list(aliases)}, got {kind.__name__}"
        )
    return alias


def dense_kwargs(model: BaseAlgorithm, old: Any) -> dict[str, Any]:
    """Return the arguments of a model's policy without ours, with an extractor of SB3's.

    :param model: with experts
    :param old: its policy
    :raises ValueError: if SB3 has no such extractor
    """
    found = {k: copy.deepcopy(v) for k, v in model.policy_kwargs.items() if k not in ARGUMENTS}
    kind, kwargs = old.features_extractor_class, dict(old.features_extractor_kwargs)
    if issubclass(kind, TaskExtractor):
        space = old.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else ()
        told = not model.policy_kwargs.get("normalize_images", True)
        # Other images, such as MinAtar's, SB3 flattens as ours does.
        encoded = [is_image_space(each, normalized_image=told) for each in parts]
        if kwargs.get("encoder") != "flat" or any(encoded):
            raise ValueError(
                "`model` must have the flat encoder, or SB3's extractor, to be SB3's own, got "
                f"`encoder`={kwargs.get('encoder')!r} for {space}"
            )
        kind = CombinedExtractor if isinstance(space, spaces.Dict) else FlattenExtractor
        kwargs = {}
    return found | {"features_extractor_class": kind, "features_extractor_kwargs": kwargs}
