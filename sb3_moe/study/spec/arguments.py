"""What a cell's algorithm is built with: a preset, and over it what study and architecture say."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.learning_rates import LinearPerBlock
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, per_tower
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.study.spec.algorithms import (
    algorithm_class,
    declared,
    default_of,
    is_off_policy,
    policy_of,
)
from sb3_moe.study.spec.entries import hint
from sb3_moe.study.spec.named import Named, resolved
from sb3_moe.study.spec.signatures import parameters_of
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

if TYPE_CHECKING:
    from sb3_moe.study.spec.config import CellConfig

#: Values by name. "none" are SB3's own.
PRESETS: dict[str, Mapping[str, Any]] = {"minatar": MINATAR_PPO, "none": {}}

#: The normalisers that a study can name without their module.
NORMALISERS: dict[str, type] = {
    "PerTaskVecNormalize": PerTaskVecNormalize,
    "VecNormalize": VecNormalize,
}


def normaliser_class(named: Named) -> type[Any]:
    """Give the class of normalisers that a file names.

    :raises ValueError: if there is none
    """
    return named.class_of(VecNormalize, NORMALISERS, "normalize")


def preset_for(algorithm: str, preset: str | None) -> str:
    """Give the name of a preset: that of 0.1 for PPO where a file has none, else SB3's values.

    :raises ValueError: if there is no such preset, or it is of another algorithm
    """
    if preset is None:
        return "minatar" if algorithm == "PPO" else "none"
    if preset not in PRESETS:
        raise ValueError(
            f"`preset` must be one that there is, got {preset!r}{hint(preset, PRESETS)}"
        )
    known = {*parameters_of(algorithm_class(algorithm))}
    strange = sorted(set(PRESETS[preset]) - known)
    if strange:
        raise ValueError(
            f"`preset` must be one of {algorithm}'s, got {preset!r}, which has "
            f"{', '.join(strange)}; use 'none' for SB3's own values"
        )
    return preset


def given(cell: CellConfig) -> dict[str, Any]:
    """Give the plain arguments that aren't SB3's own: architecture over study over preset."""
    preset = {k: v for k, v in PRESETS[cell.preset or "none"].items() if k != "policy_kwargs"}
    return {**preset, **cell.arguments, **cell.architecture.arguments}


def arguments_of(cell: CellConfig) -> dict[str, Any]:
    """Give all arguments of a cell's algorithm but policy, environment, seed and device."""
    arguments = declared(cell.algorithm, given(cell))
    if _needs_tasks_of_rewards(cell) and "replay_buffer_class" not in arguments:
        from sb3_moe.vec_env import MultiTaskReplayBuffer

        arguments["replay_buffer_class"] = MultiTaskReplayBuffer
    arguments["policy_kwargs"] = _policy_kwargs(cell)
    if cell.annealing != "none":
        arguments["learning_rate"] = _annealed(cell, arguments)
    return arguments


def described(value: Any) -> Any:
    """Turn arguments into plain values for a file: classes and functions by their names."""
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if not hasattr(value, "__dict__"):
        return repr(value)
    return f"{type(value).__name__}({described(vars(value))})" if vars(value) else repr(value)


def _needs_tasks_of_rewards(cell: CellConfig) -> bool:
    """Say whether a replay buffer must know whose a reward was, to normalise it."""
    if cell.normalize is None or not is_off_policy(cell.algorithm):
        return False
    kind = normaliser_class(cell.normalize)
    return issubclass(kind, PerTaskVecNormalize)


def _annealed(cell: CellConfig, arguments: Mapping[str, Any]) -> Any:
    rate = arguments.get("learning_rate", default_of(cell.algorithm, "learning_rate"))
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise ValueError(f"`annealing` needs a `learning_rate` that is a number, got {rate!r}")
    if cell.annealing == "run":
        return LinearSchedule(rate, 0.0, 1.0)
    return LinearPerBlock(rate, len(cell.order or (0,)) * cell.cycles)


def _policy_kwargs(cell: CellConfig) -> dict[str, Any]:
    """Lay an architecture's options over the preset's, and over what its observations need."""
    architecture = cell.architecture
    assert architecture.policy is not None
    policy = policy_of(architecture.policy, cell.algorithm)
    preset = dict(PRESETS[cell.preset or "none"].get("policy_kwargs", {}))
    own = resolved(architecture.policy_kwargs, f"architectures.{architecture.name}")
    if issubclass(policy, MoEPolicy) and _picked_by_task({**preset, **own}, policy):
        # A file says what it said in 0.1.
        preset.setdefault("freeze_idle", False)
    if not issubclass(policy, MoEPolicy):
        # SB3's extractors have no encoder to choose: they flatten MinAtar's observations as ours.
        preset.pop("features_extractor_kwargs", None)
        # Observations have the task id beside them: MlpPolicy sees them as MultiInputPolicy does.
        if cell.task_id == "dict" and _default_extractor(policy) is FlattenExtractor:
            preset["features_extractor_class"] = CombinedExtractor
    else:
        _give_extractor_what_it_takes(cell, preset, own)
    return {**preset, **own}


def _give_extractor_what_it_takes(
    cell: CellConfig, preset: dict[str, Any], own: dict[str, Any]
) -> None:
    """Tell an extractor how many tasks there are where it can't see it, and leave out the rest.

    One of the user's own may know neither of tasks nor of a preset's encoder.
    """
    takes = parameters_of(own.get("features_extractor_class") or TaskExtractor)
    shown = cell.task_id in ("onehot", "channels") and "num_tasks" in takes
    number = {"num_tasks": len(cell.games)} if shown else {}
    given = preset.pop("features_extractor_kwargs", None) or {}
    given = {**number, **{name: value for name, value in given.items() if name in takes}}
    if given:
        preset["features_extractor_kwargs"] = given
    if "features_extractor_kwargs" in own:
        own["features_extractor_kwargs"] = {**number, **(own["features_extractor_kwargs"] or {})}


def _picked_by_task(policy_kwargs: Mapping[str, Any], policy: type[MoEPolicy]) -> bool:
    """Say whether the task picks any expert, so that idle ones would be held by default."""
    options = {name: value for name, value in policy_kwargs.items() if name in DEFAULTS}
    towers = per_tower(options, policy.towers).values()
    return any(each.is_moe and each.router_class.needs_tasks for each in towers) or any(
        each.head_router is not None for each in towers
    )


def _default_extractor(policy: type[BasePolicy]) -> Any:
    parameter = signature(policy).parameters.get("features_extractor_class")
    return None if parameter is None else parameter.default
