"""From a dense model to the same algorithm with experts that begin by doing what it did.

Shapes: B batch, N tasks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.growing.building import build_like, carry_the_rest, dress, moe_class
from sb3_moe.growing.copying import carried_states, steps_by_expert, write_targets, write_weights
from sb3_moe.growing.dense_map import DenseMap, dense_leaves
from sb3_moe.growing.densifying import check_sb3s
from sb3_moe.growing.experts_from_dense import (
    Divide,
    ExpertsFromDense,
    by_firing,
    columns_in_new,
    evenly,
)
from sb3_moe.growing.numbers import Leaf, Numbers
from sb3_moe.growing.outputs import check_same, raw_outputs, sampled
from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers import LinearExpert, MLPExpert
from sb3_moe.layers.checks import not_negative, one_of
from sb3_moe.networks import kind_of, networks_of
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.option_checks import called
from sb3_moe.policies.options import ARGUMENTS, DEFAULT_NUM_EXPERTS, DEFAULTS, MoEOptions, per_tower
from sb3_moe.saving.generators import undone_on_failure
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key

HOW = ("copy", "split")
# Observations on which both models must do the same.
ROWS = 16
# Options whose function no dense layer of SB3's has.
_NOT_DENSE = ("tokens", "combine", "block", "task_embedding", "match_scale", "action_dims")


def upcycle(
    model: BaseAlgorithm,
    *,
    how: Literal["copy", "split"] = "copy",
    env: Any = None,
    num_tasks: int | None = None,
    probe: Any = None,
    perturb: float = 0.1,
    **options: Any,
) -> Any:
    """Return a model with experts that does what a dense one does, to go on training.

    With ``"copy"`` each expert begins as the dense layers it stands for, and experts part as their
    gates differ by row; under gates that are the same for all rows their last layers start apart,
    so that it cancels. With ``"split"`` each has a share of the units, and the gates begin as 1/E.
    Arguments, counts, target networks, the optimizers' averages (times the gate, or its square)
    and, where the space stays, the replay buffer go along. The given model stays as it is.

    >>> from stable_baselines3 import PPO
    >>> dense = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
    >>> model = upcycle(dense, placement="middle", num_experts=4)
    >>> sorted(model.policy.moe_layers())
    ['pi.middle', 'vf.middle']

    :param model: dense, SB3's or ours, of any algorithm with MoE policies
    :param how: ``"copy"`` or ``"split"``
    :param env: of the new model; None: the old one's. Its observations may hold a task id that
        those of the old one don't: nothing but routers looks at it at first
    :param num_tasks: length of a one-hot task id at the end of observations that are no dicts
    :param probe: observations; the units that fire together on them come into one share
    :param perturb: how far experts under constant gates start apart, relative to last weights
    :param options: of :class:`sb3_moe.policies.options.MoEOptions`, each a value or a dict by tower
    :raises TypeError: if the policy is of no known class, or an option is unknown
    :raises ValueError: if a value is not valid, spaces differ, or the function can't be kept
    """
    one_of("how", how, HOW)
    not_negative("perturb", perturb)
    if probe is not None and how != "split":
        raise ValueError(f"`probe` needs `how`='split', whose units it divides, got {how!r}")
    old = _dense_policy(model)
    venv = model.get_env() if env is None else model._wrap_env(env, 0)
    _check_env(model, venv, num_tasks)
    with undone_on_failure():
        space = (model if venv is None else venv).observation_space
        policy_class, numbers = moe_class(model, space), Numbers(old)
        towers = per_tower(options, policy_class.towers)
        for each in towers.values():
            _check_options(each)
        kwargs = _policy_kwargs(model, old, num_tasks) | options
        if how == "split" and "expert_width" not in options:
            kwargs |= _widths(towers, old, numbers)
        new = build_like(model, policy_class, kwargs, venv)
        map_ = DenseMap(Numbers(new.policy), numbers)
        divide = None if how == "copy" else _division(old, probe, numbers)
        _map(map_, new.policy, old, divide, perturb)
        _carry_over(map_, new, model)
        obs = sampled(model.observation_space, ROWS)
        joined = join_task(obs, model.observation_space, new.observation_space)
        check_same(new.policy, old, joined, obs)
        return dress(new, model, venv)


def _map(map_: DenseMap, new: Any, old: Any, divide: Divide | None, perturb: float) -> None:
    """Say where all that a dense policy has goes in one with experts."""
    ours, theirs = networks_of(new), networks_of(old)
    for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
        place = new.moe[kind_of(mine.tower)].place
        at = columns_in_new(new, mine, old, other, map_)
        map_.extractor(mine.extractor, other.extractor)
        experts = ExpertsFromDense(map=map_, place=place, divide=divide, perturb=perturb)
        experts.network(mine, other, None if mine.memory is not None else at)
        map_.memory(mine.memory, other.memory, at)
    if (misfit := map_.loose(ours, theirs)) is not None:
        raise ValueError(
            f"gSDE's noise, {misfit}, is for a latent of another width than the dense "
            "model has: let the head stay dense (`placement`, `head_router`)"
        )


def _carry_over(map_: DenseMap, new: Any, model: Any) -> None:
    """Write weights, targets, running averages, and what an algorithm learns beside its policy."""
    rows = (map_.entries, map_.new, map_.old)
    ours, theirs = networks_of(new.policy), networks_of(model.policy)
    write_weights(*rows)
    write_targets(*rows, ours, theirs)
    pairs = [*zip(ours.every_optimizer(), theirs.every_optimizer(), strict=True)]
    # One that knows experts is of a class made from the one that doesn't.
    if all(isinstance(a, type(b)) or isinstance(b, type(a)) for a, b in pairs):
        states = {p: s for _, each in pairs for p, s in each.state.items() if s}
        layers = new.policy.moe_layers().values()
        shares = [share for layer in layers for share in layer.experts.shares()]
        for mine, _ in pairs:
            own = [p for group in mine.param_groups for p in group["params"]]
            experts = steps_by_expert(mine, shares)
            mine.state.update(carried_states(*rows, states, mine, own, experts))
    carry_the_rest(new, model)
    if new.use_sde:
        new.policy.reset_noise()


def _check_options(options: MoEOptions) -> None:
    """Refuse what a dense layer can't become."""
    place, kind = options.place, options.expert_class
    for name in _NOT_DENSE:
        if getattr(options, name) != DEFAULTS[name]:
            raise ValueError(
                f"`{name}` must be {DEFAULTS[name]!r}: a dense model has nothing that could begin "
                f"as that, got {getattr(options, name)!r}"
            )
    copies = issubclass(kind, MLPExpert | LinearExpert) or getattr(kind, "copies_dense", False)
    by_layer = place.hidden == "each" or isinstance(place.hidden, int)
    if by_layer and not copies:
        raise ValueError(
            f"`expert`={called(kind)!r} must say `copies_dense`: that it does what a dense layer "
            "does once its first linear layer has the weights and another hands on what it gets"
        )


def _dense_policy(model: BaseAlgorithm) -> Any:
    """Return a model's policy, which must be without experts."""
    model_of_sb3(model)
    policy = model.policy
    if isinstance(policy, MoEPolicy):
        if layers := sorted(policy.moe_layers()):
            raise ValueError(f"`model` must be dense, got one with experts: {layers}")
        check_sb3s(policy)
    return policy


def _policy_kwargs(model: BaseAlgorithm, old: Any, num_tasks: int | None) -> dict[str, Any]:
    """Return the arguments of the dense policy, with an extractor that tells the task id apart."""
    found = {k: copy.deepcopy(v) for k, v in model.policy_kwargs.items() if k not in ARGUMENTS}
    kind, kwargs = old.features_extractor_class, dict(old.features_extractor_kwargs)
    if _is_flat(old):
        kind, kwargs = TaskExtractor, {"encoder": "flat"}
    kwargs.pop("raw", None)
    if num_tasks is not None:
        if not issubclass(kind, TaskExtractor):
            raise ValueError(
                f"`num_tasks`={num_tasks} needs a features extractor that tells the task id apart, "
                f"got {kind.__name__}"
            )
        kwargs["num_tasks"] = num_tasks
    return found | {
        "net_arch": old.net_arch,
        "features_extractor_class": kind,
        "features_extractor_kwargs": kwargs,
    }


def _is_flat(policy: Any) -> bool:
    """Say whether observations are flattened and no more, by an extractor of SB3's."""
    kind = policy.features_extractor_class
    if kind is CombinedExtractor:
        extractor: Any = networks_of(policy).extractors()["features"]
        return all(isinstance(each, nn.Flatten) for each in extractor.extractors.values())
    return kind is FlattenExtractor


def _widths(towers: Mapping[str, MoEOptions], old: Any, numbers: Numbers) -> dict[str, Any]:
    """Return how wide experts are that have a share of the units each, if they have a width."""
    widths: dict[str, int] = {}
    for network in networks_of(old).networks():
        name = kind_of(network.tower)
        tower, (hidden, heads) = towers[name], dense_leaves(numbers, network)
        layers = [len(leaf.places["weight"]) for leaf in hidden if leaf.is_linear]
        layers = layers if heads else layers[:-1]
        taken = [h for i, h in enumerate(layers) if tower.place.takes(i, len(layers))]
        if taken and getattr(tower.expert_class, "uses_width", True):
            shares = tower.num_experts or DEFAULT_NUM_EXPERTS
            widths[name] = math.ceil(max(taken) / shares)
    return {"expert_width": widths} if widths else {}


def _division(policy: Any, probe: Any, numbers: Numbers) -> Divide:
    """Return what divides units: by what fires together on a probe, or else evenly."""
    if probe is None:
        return lambda reader, shares: evenly(reader.places["weight"].shape[1], shares)
    inputs: dict[int, th.Tensor] = {}

    def keep(module: nn.Module, args: tuple[th.Tensor, ...], output: th.Tensor) -> None:
        assert isinstance(module, nn.Linear)
        inputs[numbers.starts[module.weight]] = args[0].flatten(0, -2).cpu()

    linears = [module for module in policy.modules() if isinstance(module, nn.Linear)]
    handles = [module.register_forward_hook(keep) for module in linears]
    try:
        with th.no_grad():
            raw_outputs(policy, policy.obs_to_tensor(probe)[0])
    finally:
        for handle in handles:
            handle.remove()

    def divide(reader: Leaf, shares: int) -> list[th.Tensor]:
        return by_firing(inputs[int(reader.places["weight"].min())], shares)

    return divide


# A task id that joins.


def _check_env(model: BaseAlgorithm, env: Any, num_tasks: int | None) -> None:
    """Raise ValueError unless a model can go on in an environment, where a task id may join.

    :param model: the model
    :param env: wrapped; None: none
    :param num_tasks: length of a one-hot at the end of observations that are no dicts
    """
    if env is None:
        return
    old, new = model.observation_space, env.observation_space
    if env.action_space != model.action_space:
        raise ValueError(
            f"`env` must have the model's action space, {model.action_space}, got "
            f"{env.action_space}"
        )
    if new != old and not _joins(old, new, num_tasks):
        raise ValueError(
            f"`env` must have the model's observation space, {old}, or that and a Discrete "
            f"{TASK_KEY!r} (or, with `num_tasks`, a one-hot behind a flat Box), got {new}"
        )


def _joins(old: spaces.Space[Any], new: spaces.Space[Any], num_tasks: int | None) -> bool:
    """Say whether a space is another one with a task id."""
    if has_task_key(new) and not has_task_key(old):
        assert isinstance(new, spaces.Dict)
        rest = {key: each for key, each in new.spaces.items() if key != TASK_KEY}
        return (
            rest == dict(old.spaces) if isinstance(old, spaces.Dict) else [*rest.values()] == [old]
        )
    if not (isinstance(old, spaces.Box) and isinstance(new, spaces.Box) and num_tasks):
        return False
    flat = len(old.shape) == len(new.shape) == 1
    if not flat or new.shape[0] != old.shape[0] + num_tasks or new.dtype != old.dtype:
        return False
    bounds = zip((old.low, old.high), (new.low, new.high), strict=True)
    return all(np.array_equal(a, b[:-num_tasks]) for a, b in bounds)


def join_task(obs: Any, old: spaces.Space[Any], new: spaces.Space[Any]) -> Any:
    """Return observations of one space as those of another, with task ids in turn where they join.

    :param obs: a batch
    :param old: its space
    :param new: the same, or the same with a task id
    """
    if new == old:
        return obs
    rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
    if isinstance(new, spaces.Dict):
        task_space = new[TASK_KEY]
        assert isinstance(task_space, spaces.Discrete)
        parts = (
            obs if isinstance(obs, dict) else {key: obs for key in new.spaces if key != TASK_KEY}
        )
        return {**parts, TASK_KEY: np.arange(rows) % int(task_space.n)}
    assert isinstance(new, spaces.Box)
    num_tasks = new.shape[0] - obs.shape[1]
    one_hot = np.eye(num_tasks, dtype=obs.dtype)[np.arange(rows) % num_tasks]
    return np.concatenate([obs, one_hot], axis=1)
