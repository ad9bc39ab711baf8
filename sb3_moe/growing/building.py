"""A model of the same algorithm with another policy, gone as far as the old one."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr

from sb3_moe.growing.links import Links
from sb3_moe.growing.powers import can_carry
from sb3_moe.networks import networks_of
from sb3_moe.saving.model_parts import PROGRESS, SCHEDULES, argument_names, makes_own_buffer
from sb3_moe.saving.replay_rows import hindsight_buffer, is_hindsight
from sb3_moe.saving.values import made_anew
from sb3_moe.vec_env.replay_buffers import end_running_episodes
from sb3_moe.vec_env.tasks import names_on, write_names

# What a log shows, beside arguments and counts.
_LOGGED = ("tensorboard_log", "ep_info_buffer", "ep_success_buffer")
_BUFFER_CLASSES = ("replay_buffer_class", "rollout_buffer_class")


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


def carry_over(new: Any, model: Any, links: Links) -> None:
    """Write weights, targets, running averages, and what an algorithm learns beside its policy.

    :param new: of :func:`build_like`
    :param model: the old one
    :param links: between their policies
    """
    ours, theirs = networks_of(new.policy), networks_of(model.policy)
    links.write_weights()
    links.write_targets(ours, theirs)
    mine, other = (each.every_optimizer() for each in (ours, theirs))
    # One that knows experts is of the class that doesn't.
    pairs = list(zip(mine, other, strict=True))
    alike = all(isinstance(a, type(b)) or isinstance(b, type(a)) for a, b in pairs)
    if alike and all(can_carry(each) for each in other):
        links.write_moments(mine, other)
    carry_the_rest(new, model)
    if new.use_sde:
        new.policy.reset_noise()


def carry_the_rest(new: Any, model: Any) -> None:
    """Carry over variables and optimisers beside the policy, such as SAC's of its entropy.

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
