"""What a study asks of an algorithm: its class, arguments, policies, towers and rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.extras import require
from sb3_moe.policies.registration import TABLE
from sb3_moe.study.spec.entries import hint
from sb3_moe.study.spec.named import resolved
from sb3_moe.study.spec.signatures import as_declared, check_arguments, parameters_of

# What a cell gives the algorithm itself.
OWN = ("policy", "env", "policy_kwargs", "seed", "device", "_init_setup_model")


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Give the class of an algorithm that there are policies for.

    :raises ValueError: if there are none
    :raises ImportError: if it needs a package that is not installed
    """
    if name not in TABLE:
        raise ValueError(
            f"`algorithm` must be one that there are policies for, got {name!r}{hint(name, TABLE)}"
        )
    module, _, attribute = TABLE[name].algorithm.partition(":")
    if module == "sb3_contrib":
        require(f"`algorithm: {name}`", module)
    return cast(type[BaseAlgorithm], getattr(import_module(module), attribute))


def check_algorithm_arguments(name: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raise unless values can be laid over the preset's.

    :param name: of the algorithm
    :param where: the entry that holds them
    :raises ValueError: naming what the algorithm doesn't take
    """
    if isinstance(arguments, Mapping) and "policy_kwargs" in arguments:
        raise ValueError(
            f"`{where}.policy_kwargs` can't be given: options of the policy belong to an "
            "architecture, as in `architectures: {wide: {net_arch: [128, 128]}}`"
        )
    is_mapping = isinstance(arguments, Mapping)
    values = resolved(arguments, where) if is_mapping else arguments
    check_arguments(algorithm_class(name), values, where, OWN)
    for argument in ("n_steps", "train_freq"):
        length = arguments.get(argument, 1)
        count = length[0] if isinstance(length, list | tuple) else length
        if count < 1:
            raise ValueError(f"`{where}.{argument}` must be at least 1, got {length}")


def declared(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give arguments as an algorithm takes them."""
    parameters = parameters_of(algorithm_class(name))
    return {
        key: as_declared(parameters[key], value) if isinstance(value, list) else value
        for key, value in resolved(arguments).items()
    }


def default_of(name: str, argument: str) -> Any:
    """Give SB3's own value of an argument; None if the algorithm has no such argument."""
    parameter = parameters_of(algorithm_class(name)).get(argument)
    return None if parameter is None else parameter.default


def is_off_policy(name: str) -> bool:
    """Say whether an algorithm learns from a replay buffer."""
    return issubclass(algorithm_class(name), OffPolicyAlgorithm)


def rollout_of(name: str, arguments: Mapping[str, Any], n_envs: int) -> int:
    """Give the environment steps between two updates, over all copies.

    :param arguments: those that are not SB3's own
    :raises ValueError: if they differ
    """
    if issubclass(algorithm_class(name), OnPolicyAlgorithm):
        return n_envs * int(arguments.get("n_steps", default_of(name, "n_steps")))
    frequency = arguments.get("train_freq", default_of(name, "train_freq"))
    count, unit = frequency if isinstance(frequency, list | tuple) else (frequency, "step")
    if unit != "step":
        # Runs would be evaluated, and end, at steps of their own: a report has them at the same.
        raise ValueError(f"`train_freq` must count steps in a study, got {frequency}")
    return n_envs * int(count)


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


def towers_of(name: str) -> tuple[str, ...]:
    """Name the networks of an algorithm's policies that options can tell apart."""
    policies = import_module(TABLE[name].policies)
    return cast(tuple[str, ...], getattr(policies, TABLE[name].aliases[0]).towers)


def policy_base(name: str) -> type[BasePolicy]:
    """Give the class of SB3's that every policy of an algorithm is one of."""
    aliases = algorithm_class(name).policy_aliases
    return next(found for alias, found in aliases.items() if alias.startswith("Mlp"))


def policy_of(policy: str, algorithm: str = "PPO") -> type[BasePolicy]:
    """Give the class of an alias that an algorithm knows, or of ``package.module:Class``.

    :raises ValueError: if there is no such alias, module or class, or it is no policy of the
        algorithm's
    """
    aliases, base = algorithm_class(algorithm).policy_aliases, policy_base(algorithm)
    rule = f"`policy` must be an alias that {algorithm} knows, or `package.module:Class`"
    module, colon, attribute = policy.partition(":")
    if not colon and policy not in aliases:
        raise ValueError(f"{rule}, got {policy!r}{hint(policy, aliases)}")
    try:
        found: Any = getattr(import_module(module), attribute) if colon else aliases[policy]
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"{rule}, got {policy!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"`policy` must be a class of SB3's {base.__name__}, got {policy!r}")
    return found
