"""What a study asks of an algorithm: its class, policies, rollouts, and what it is built with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.extras import require
from sb3_moe.learning_rates import LinearPerBlock
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.registration import TABLE
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.study.spec.components import normalizer_class
from sb3_moe.study.spec.entries import hint
from sb3_moe.study.spec.named import arguments_for, imported, parameters_of, resolved
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

if TYPE_CHECKING:
    from sb3_moe.study.spec.config import CellConfig

#: Values by name. "none" are SB3's own.
PRESETS: dict[str, Mapping[str, Any]] = {"minatar": MINATAR_PPO, "none": {}}
# What a run gives the algorithm itself.
_OWN = ("policy", "env", "policy_kwargs", "seed", "device")


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Give the class of an algorithm that there are policies for.

    :raises ValueError: if there are none
    :raises ImportError: if it needs a package that is not installed
    """
    if name not in TABLE:
        raise ValueError(
            f"`algorithm` must be one that there are policies for, got {name!r}{hint(name, TABLE)}"
        )
    reference = TABLE[name].algorithm
    if reference.startswith("sb3_contrib"):
        require(f"`algorithm: {name}`", "sb3_contrib")
    return cast(type[BaseAlgorithm], imported(reference, "algorithm"))


def declared(name: str, arguments: Mapping[str, Any], where: str = "arguments") -> dict[str, Any]:
    """Give arguments as an algorithm takes them.

    :param name: of the algorithm
    :param where: the entry that holds them
    :raises ValueError: naming what it doesn't take
    """
    return arguments_for(algorithm_class(name), arguments, where, _OWN)


def default_of(name: str, argument: str) -> Any:
    """Give SB3's own value of an argument; None if the algorithm has no such argument."""
    parameter = parameters_of(algorithm_class(name)).get(argument)
    return None if parameter is None else parameter.default


def is_off_policy(name: str) -> bool:
    """Say whether an algorithm learns from a replay buffer."""
    return issubclass(algorithm_class(name), OffPolicyAlgorithm)


def rollout_of(cell: CellConfig) -> int:
    """Give the steps between two updates, over all parallel environments.

    :raises ValueError: if rollouts are not counted in steps
    """
    name = "n_steps"
    if not issubclass(algorithm_class(cell.algorithm), OnPolicyAlgorithm):
        name = "train_freq"
    length = given(cell).get(name, default_of(cell.algorithm, name))
    count, unit = length if isinstance(length, list | tuple) else (length, "step")
    if unit != "step" or count < 1:
        # Runs would be evaluated, and end, at steps of their own: a report has them at the same.
        raise ValueError(f"`{name}` must be a number of steps, at least 1, got {length}")
    return cell.n_envs * int(count)


def towers_of(name: str) -> tuple[str, ...]:
    """Name the networks of an algorithm's policies that options can tell apart."""
    algorithm_class(name)  # which refuses a misspelled one
    policies = import_module(TABLE[name].policies)
    return cast(tuple[str, ...], getattr(policies, TABLE[name].aliases[0]).towers)


def default_policy(name: str, task_id: str) -> str:
    """Give the alias of the policy that sees tasks as they are shown.

    :param name: of the algorithm
    :param task_id: see :func:`sb3_moe.make_multitask_vec_env`
    :raises ValueError: if no policy of the algorithm sees tasks so
    """
    kind = "MultiInput" if task_id == "dict" else "Mlp"
    found = next((alias for alias in TABLE[name].aliases if kind in alias), None)
    if found is None:
        raise ValueError(
            f"`env` must have a `task_id` other than 'dict' with {name}, which has no policy for "
            "Dict observations, as in `env: {task_id: onehot}`"
        )
    return found


def policy_of(policy: str, algorithm: str = "PPO") -> type[BasePolicy]:
    """Give the class of an alias that an algorithm knows, or of ``package.module:Class``.

    :raises ValueError: if there is no such alias, module or class, or it is no policy of the
        algorithm's
    """
    aliases = algorithm_class(algorithm).policy_aliases
    if ":" not in policy and policy not in aliases:
        raise ValueError(
            f"`policy` must be an alias that {algorithm} knows, or `package.module:Class`, got "
            f"{policy!r}{hint(policy, aliases)}"
        )
    base = next(found for alias, found in aliases.items() if alias.startswith("Mlp"))
    found: Any = imported(policy, "policy") if ":" in policy else aliases[policy]
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"`policy` must be a class of SB3's {base.__name__}, got {policy!r}")
    return found


def given(cell: CellConfig) -> dict[str, Any]:
    """Give the plain arguments that aren't SB3's own: architecture over study over preset."""
    preset = {k: v for k, v in PRESETS[cell.preset or "none"].items() if k != "policy_kwargs"}
    return {**preset, **cell.arguments, **cell.architecture.arguments}


def arguments_of(cell: CellConfig) -> dict[str, Any]:
    """Give all arguments of a run's algorithm but policy, environment, seed and device."""
    arguments = declared(cell.algorithm, given(cell))
    per_task = cell.normalize is not None and issubclass(
        normalizer_class(cell.normalize), PerTaskVecNormalize
    )
    if per_task and is_off_policy(cell.algorithm) and "replay_buffer_class" not in arguments:
        # To normalize a reward that is replayed, the buffer must know whose it was.
        from sb3_moe.vec_env.replay_buffers import MultiTaskReplayBuffer

        arguments["replay_buffer_class"] = MultiTaskReplayBuffer
    arguments["policy_kwargs"] = _policy_kwargs(cell)
    if cell.annealing != "none":
        rate = arguments.get("learning_rate", default_of(cell.algorithm, "learning_rate"))
        if not isinstance(rate, int | float):
            raise ValueError(f"`annealing` needs a `learning_rate` that is a number, got {rate!r}")
        blocks = len(cell.order or (0,)) * cell.cycles
        whole = cell.annealing == "run"
        annealed = LinearSchedule(rate, 0.0, 1.0) if whole else LinearPerBlock(rate, blocks)
        arguments["learning_rate"] = annealed
    return arguments


def _policy_kwargs(cell: CellConfig) -> dict[str, Any]:
    """Lay an architecture's options over the preset's, and over what its observations need."""
    architecture = cell.architecture
    policy = policy_of(str(architecture.policy), cell.algorithm)
    preset = dict(PRESETS[cell.preset or "none"].get("policy_kwargs", {}))
    own = resolved(architecture.policy_kwargs, f"architectures.{architecture.name}")
    encoder = preset.pop("features_extractor_kwargs", {})
    if not issubclass(policy, MoEPolicy):
        # SB3's extractors have no encoder to choose: they flatten MinAtar's observations as ours.
        extractor = signature(policy).parameters.get("features_extractor_class")
        # Observations have the task id beside them: MlpPolicy sees them as MultiInputPolicy does.
        if cell.task_id == "dict" and extractor and extractor.default is FlattenExtractor:
            preset["features_extractor_class"] = CombinedExtractor
        return {**preset, **own}
    # An extractor of the user's own may know neither of tasks nor of a preset's encoder.
    takes = parameters_of(own.get("features_extractor_class") or TaskExtractor)
    number = {"num_tasks": len(cell.games)} if cell.task_id in ("onehot", "channels") else {}
    number = {name: value for name, value in number.items() if name in takes}
    encoder = {name: value for name, value in encoder.items() if name in takes}
    extra = number | (own.get("features_extractor_kwargs") or encoder)
    return {**preset, **own, **({"features_extractor_kwargs": extra} if extra else {})}


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
    inside = getattr(value, "__dict__", {})
    return f"{type(value).__name__}({described(inside)})" if inside else repr(value)
