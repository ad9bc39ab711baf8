"""Read a study's YAML file, and find and build the objects that it names.

These are tasks, algorithm, policy, schedule, normalizer and callbacks.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from importlib import import_module
from inspect import getmembers, isclass, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    RoutingCallback,
    SnapshotCallback,
)
from sb3_moe.layers.classes import did_you_mean, imported
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.learning_rates import LinearPerBlock
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, per_network
from sb3_moe.policies.presets import MINATAR_PPO
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.vec_env.past import wrap_inside
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize, box_keys
from sb3_moe.vec_env.replay_buffers import MultiTaskReplayBuffer
from sb3_moe_envs import Cycle, Interleave
from sb3_moe_envs.schedules import Schedule, Slots
from sb3_moe_envs.suites import SUITES, tasks_of
from sb3_moe_envs.tasks import Task

if TYPE_CHECKING:
    from sb3_moe.study.config import RunConfig

T = TypeVar("T")

#: Pydantic's configuration of every dataclass into which a study's file is read.
STRICT = ConfigDict(extra="forbid")
#: The JSON schema of an entry that is a name, or a mapping with details.
WORD_OR_MAPPING = WithJsonSchema({"type": ["string", "object"]})
_FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, except that duplicate keys are errors and ``1e6`` is an integer."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse duplicate keys, of which PyYAML would silently keep the last."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                problem = f"there are two entries {key.value!r}"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
        return node


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    return int(value) if "e" in node.value.lower() and value.is_integer() else value


_Loader.add_constructor(_FLOAT, _number)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Read YAML.

    :raises ValueError: with line and column if it can't be read
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the YAML can't be read: {' '.join(str(error).split())}") from error


def typed(kind: type[T], values: Any, context: Any = None, where: str = "") -> T:
    """Build a dataclass, and the dataclasses within it, from the values of a YAML file.

    :param kind: the dataclass
    :param values: of its fields
    :param context: passed on to its validators: the folder of the study's file
    :param where: the entry that holds the values
    :raises ValueError: naming every entry that is missing, unknown or of another type
    """
    # JSON in strict mode: lists may become tuples and mappings dataclasses, but 1 not True.
    text = json.dumps(values, default=str)
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid", context=context)
    except ValidationError as error:
        known = signature(kind).parameters
        raise ValueError(in_words(error, where, known)) from error


def in_words(error: ValidationError, where: str, known: Iterable[str]) -> str:
    """Describe the errors that pydantic found, a line for each entry.

    :param error: the error that pydantic raised
    :param where: the entry that holds the refused values
    :param known: the names of all entries, for hints at misspelled ones
    """
    lines = []
    for each in error.errors(include_url=False):
        if each["type"] == "too_short" and each["ctx"]["actual_length"] < len(each["input"]):
            continue  # too short only without its wrong items, which have lines of their own
        path = ".".join(map(str, (where, *each["loc"]) if where else each["loc"]))
        if each["type"] == "value_error":
            lines.append(str(each["ctx"]["error"]))
        elif each["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            near = hint(str(each["loc"][-1]), known) if len(each["loc"]) == 1 else ""
            lines.append(f"there is no entry `{path}`{near}")
        elif each["type"] == "missing":
            lines.append(f"`{path}` must be given")
        else:
            rule = each["msg"].replace("Input should", "must")
            lines.append(f"`{path}` {rule}, got {each['input']!r}")
    return "\n".join(dict.fromkeys(lines))


def hint(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or list all of them."""
    return did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Named:
    """The name of a class, and the arguments that it is built with.

    :param name: a class of this package or SB3, or ``package.module:Class``
    :param arguments: of its constructor, plain values; see :func:`resolved`
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def class_of(self, base: type, where: str, *modules: str) -> type[Any]:
        """Give the class.

        :param base: the class that it must derive from
        :param where: the entry that names it
        :param modules: modules whose classes can be named without their module
        :raises ValueError: if there is no such class, or it does not derive from ``base``
        """
        kinds = {
            name: kind
            for module in modules
            for name, kind in getmembers(import_module(module), isclass)
            if issubclass(kind, base)
        }
        found = imported(self.name, where) if ":" in self.name else kinds.get(self.name)
        if not (isclass(found) and issubclass(found, base)):
            rule = f"`{where}` must be a {base.__name__} by its name or `package.module:Class`"
            raise ValueError(f"{rule}, got {self.name!r}{hint(self.name, kinds)}")
        return found


def _in_full(value: Any) -> Any:
    """Turn ``Cycle`` or ``{Cycle: {num_cycles: 2}}`` into the fields of :class:`Named`."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
        ((name, arguments),) = value.items()
        return {"name": name, "arguments": arguments or {}}
    return value


#: An entry of a study that names a class.
NamedEntry = Annotated[Named, BeforeValidator(_in_full), WORD_OR_MAPPING]


def resolved(value: Any, where: str, name: str = "") -> Any:
    """Replace the names of classes in an argument of a file, or in a mapping of arguments.

    ``package.module:Class`` becomes that class if the argument's name ends in ``_class`` or
    ``_fn``; a mapping of one ``package.module:Class`` to its arguments becomes an instance.

    :param where: the entry that holds it
    :param name: of the argument
    :raises ValueError: if there is no such class, or it can't be built
    """
    if isinstance(value, str) and ":" in value and name.endswith(("_class", "_fn")):
        return imported(value, where)
    if not isinstance(value, Mapping):
        return value
    reference = str(next(iter(value), ""))
    if len(value) != 1 or ":" not in reference:
        return {key: resolved(each, f"{where}.{key}", key) for key, each in value.items()}
    kind = imported(reference, where)
    try:
        return kind(**resolved(value[reference] or {}, where))
    except Exception as error:  # a constructor may raise anything
        raise ValueError(f"`{where}` can't be built from {value!r}: {error}") from error


def arguments_for(call: Callable[..., Any], values: Any, where: str) -> dict[str, Any]:
    """Resolve the arguments in a file for a function or class, and check their names.

    :param where: the entry that holds them
    :raises ValueError: if one is unknown
    """
    found = resolved(values, where)
    try:
        signature(call).bind_partial(**found)
    except TypeError as error:
        known = ", ".join(signature(call).parameters)
        raise ValueError(f"`{where}`: {error}; there are {known}") from error
    return found


#: An entry of ``tasks``.
Entry = str | tuple[str, Mapping[str, Any]]
#: The type of ``tasks``: a suite's name, or entries; empty where ``games`` names the tasks.
Entries = str | tuple[Entry, ...]
#: MinAtar's games, which a file can name by these words instead of their ids.
MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
#: Arguments of the algorithm, by the name of the preset; "none" leaves SB3's own values.
PRESETS: dict[str, Mapping[str, Any]] = {"minatar": MINATAR_PPO, "none": {}}
# Arguments of the algorithm that every run sets itself.
_OF_RUNS = {"policy", "env", "policy_kwargs", "seed", "device"}
# The modules of the normalizers that can be named without their module.
_NORMALIZERS = ("stable_baselines3.common.vec_env", PerTaskVecNormalize.__module__)


def read_tasks(games: Sequence[str], tasks: Entries, no_op_max: int = 0) -> list[Any]:
    """Give the tasks of a study, with their names.

    :param games: short names or ids; ignored if there are ``tasks``
    :param tasks: a suite's name, or entries
    :param no_op_max: largest number of no-ops at the start of an episode, in MinAtar's games that
        are given by short names
    :return: :class:`sb3_moe_envs.Task` objects
    :raises ValueError: if there is no such suite, id, module or callable
    """
    if not tasks:
        options = {game: {"no_op_max": no_op_max} for game in MINATAR}
        return [Task(game, resolve_task(game, "games"), options.get(game, {})) for game in games]
    if isinstance(tasks, str):
        return tasks_of(tasks)
    return tasks_of([resolve_task(each, f"tasks[{i}]") for i, each in enumerate(tasks)])


def resolve_task(entry: Any, where: str) -> Any:
    """Give the id, id with arguments, or callable that an entry of a file stands for.

    :param entry: an id, a short name of MinAtar's or ``module:callable``; or a list of that and its
        arguments
    :param where: the entry's place in the file
    :raises ValueError: if there is no such id, module or callable
    """
    name, arguments = (entry, None) if isinstance(entry, str) else entry
    name = f"SB3MoE/MinAtar-{name}-v1" if name in MINATAR else name
    module, _, rest = name.rpartition(":")
    try:
        found = getattr(import_module(module), rest, None) if module else None
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"`{where}` can't be imported, got {name!r}: {error}") from error
    if rest in gym.registry:
        return name if arguments is None else (name, arguments)
    if callable(found):
        if not arguments:
            return found
        said = ",".join(f"{key}={value}" for key, value in arguments.items())
        return Task(f"{rest}({said})", env_fn=partial(found, **arguments))
    raise ValueError(
        f"`{where}` must be a task that is known, got {entry!r}"
        f"{did_you_mean(name, (*SUITES, *MINATAR, *gym.registry))}; there are registered Gymnasium "
        f"ids, ids with their arguments, MinAtar's {', '.join(MINATAR)}, and your own as "
        "`package.module:callable` or `package.module:Id-v0`"
    )


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Give the class of an algorithm that this package has policies for.

    :raises ValueError: if it has none, or the algorithm's package is not installed
    """
    if name not in TABLE:
        raise ValueError(
            f"`algorithm` must be one that has MoE policies, got {name!r}{hint(name, TABLE)}"
        )
    return imported(TABLE[name].algorithm, "algorithm")


def is_off_policy(name: str) -> bool:
    """Say whether an algorithm learns from a replay buffer."""
    return issubclass(algorithm_class(name), OffPolicyAlgorithm)


def policy_of(run: RunConfig) -> type[BasePolicy]:
    """Give the class of a run's policy: the named one, or ours that suits the observations.

    :raises ValueError: if there is no such alias, module or class
    """
    name = run.architecture.policy
    aliases = algorithm_class(run.algorithm).policy_aliases
    if name is None:
        kind = "MultiInput" if run.shows_dict else "Mlp"
        own = TABLE[run.algorithm].aliases
        name = next((each for each in own if kind in each), own[0])
    if ":" in name:
        return imported(name, "policy")
    if name not in aliases:
        rule = "`policy` must be an alias that SB3 knows, or `package.module:Class`"
        raise ValueError(f"{rule}, got {name!r}{hint(name, aliases)}")
    return aliases[name]


def value_of_argument(run: RunConfig, name: str) -> Any:
    """Give the value of an argument of a run's algorithm; None if it has no such argument."""
    parameter = signature(algorithm_class(run.algorithm)).parameters.get(name)
    return _given(run).get(name, None if parameter is None else parameter.default)


def _given(run: RunConfig) -> dict[str, Any]:
    """Merge the algorithm's arguments, as files have them: architecture over study over preset."""
    preset = {k: v for k, v in PRESETS[run.preset or "none"].items() if k != "policy_kwargs"}
    return {**preset, **run.arguments, **run.architecture.arguments}


def arguments_of(run: RunConfig) -> dict[str, Any]:
    """Give all arguments of a run's algorithm, except policy, environment, seed and device.

    :raises ValueError: naming what can't be built
    """
    kind = algorithm_class(run.algorithm)
    arguments = arguments_for(kind, _given(run), "arguments")
    normalizer = None if run.normalize is None else _normalizer_class(run.normalize)
    if normalizer is PerTaskVecNormalize and is_off_policy(run.algorithm):
        # To normalize a replayed reward, the buffer must know which task it is from.
        arguments.setdefault("replay_buffer_class", MultiTaskReplayBuffer)
    if run.annealing != "none":
        rate = value_of_argument(run, "learning_rate")
        if not isinstance(rate, int | float):
            raise ValueError(f"`annealing` needs a `learning_rate` that is a number, got {rate!r}")
        blocks = 1 if run.annealing == "run" else len(run.order or (0,)) * run.cycles
        arguments["learning_rate"] = LinearPerBlock(rate, blocks)
    if given := _OF_RUNS & {*arguments}:
        raise ValueError(f"`arguments` can't have what every run sets itself, got {given}")
    return {**arguments, "policy_kwargs": _policy_kwargs(run)}


def _policy_kwargs(run: RunConfig) -> dict[str, Any]:
    """Merge ``policy_kwargs``: architecture over preset, and what the observations need."""
    policy = policy_of(run)
    preset = dict(PRESETS[run.preset or "none"].get("policy_kwargs", {}))
    own = dict(resolved(run.architecture.policy_kwargs, f"architectures.{run.architecture.name}"))
    encoder = preset.pop("features_extractor_kwargs", {})
    if not issubclass(policy, MoEPolicy):
        # SB3's extractors take no `encoder`: they flatten MinAtar's observations, as "flat" does.
        extractor = signature(policy).parameters.get("features_extractor_class")
        # Observations are a Dict: MlpPolicy needs MultiInputPolicy's extractor.
        if run.shows_dict and extractor and extractor.default is FlattenExtractor:
            preset["features_extractor_class"] = CombinedExtractor
        return {**preset, **own}
    options = {k: v for k, v in own.items() if k in DEFAULTS}
    per_network(options, policy.network_names)  # raises if an option is wrong
    # A user's own extractor may take neither `num_tasks` nor the preset's `encoder`.
    number = {"num_tasks": len(run.games)} if run.task_id in ("onehot", "channels") else {}
    takes = signature(own.get("features_extractor_class") or TaskExtractor).parameters
    extra = {k: v for k, v in number.items() if k in takes} | (
        own.get("features_extractor_kwargs") or {k: v for k, v in encoder.items() if k in takes}
    )
    return {**preset, **own, **({"features_extractor_kwargs": extra} if extra else {})}


def _normalizer_class(named: Named) -> type[Any]:
    return named.class_of(VecNormalize, "normalize", *_NORMALIZERS)


def callback_class(named: Named) -> type[Any]:
    """Give the class of a callback that a file names.

    :raises ValueError: if there is none, or it would write the files that every run's own
        evaluation and snapshots write
    """
    kind = named.class_of(BaseCallback, "callbacks", "sb3_moe.callbacks")
    of_every_run = issubclass(kind, MultiTaskEvalCallback | SnapshotCallback)
    if of_every_run and "log_path" not in named.arguments:
        raise ValueError(
            f"`callbacks` can't have {named.name}: every run has `evaluation` and `checkpoints`"
        )
    return kind


def build_callbacks(
    callbacks: Sequence[Named], folder: Path, **measuring: int
) -> list[BaseCallback]:
    """Build the callbacks that a file names.

    :param folder: the ``log_path`` of callbacks that take one and aren't given one
    :param measuring: in the same way ``every`` and ``probe_size`` of those that take the place of a
        study's own, which would measure so
    """
    built = []
    for each in callbacks:
        kind = callback_class(each)
        known: dict[str, Any] = {"log_path": folder}
        if issubclass(kind, PlasticityCallback | RoutingCallback):
            known |= measuring
        known = {name: value for name, value in known.items() if name in signature(kind).parameters}
        arguments = arguments_for(kind, each.arguments, f"callbacks.{each.name}")
        built.append(kind(**{**known, **arguments}))
    return built


def schedule_of(run: RunConfig) -> Any:
    """Build the schedule, which decides when each task is played.

    :raises ValueError: naming the wrong entry, or why the schedule doesn't fit the run's tasks
    """
    try:
        if run.schedule is not None:
            kind = run.schedule.class_of(Schedule, "schedule", "sb3_moe_envs")
            where = f"schedule.{run.schedule.name}"
            schedule = kind(**arguments_for(kind, run.schedule.arguments, where))
        elif run.regime == "mtrl":
            schedule = Interleave()
        else:
            schedule = Cycle(run.steps_per_task, order=list(run.order), num_cycles=run.cycles)
        if schedule.slots is Slots.SHARED and run.n_envs < len(run.games):
            raise ValueError(f"`n_envs` must be at least {len(run.games)}, one for each task")
        copy.deepcopy(schedule).start(run.games)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`schedule`: {error}") from error
    return schedule


def stream(seed: int) -> int:
    """Turn a study's seed into one that is far from those of neighboring seeds.

    Parallel environment ``i`` of a run with seed ``s`` gets seed ``s + i``: runs with neighboring
    seeds would otherwise share most of their environments' seeds.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def plain_env(run: RunConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a run without normalizer: all tasks, and the schedule."""
    tasks = read_tasks(run.games, run.tasks, run.no_op_max)
    return make_multitask_vec_env(tasks, n_envs, seed, schedule=schedule, **run.env)


def build_env(run: RunConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a run, wrapped in its normalizer if it has one.

    :raises ValueError: if the normalizer can't be built
    """
    env = plain_env(run, n_envs, seed, schedule)
    if run.normalize is None:
        return env
    normalize = partial(_normalized, run.normalize)
    return normalize(env) if is_off_policy(run.algorithm) else wrap_inside(env, normalize)


def _normalized(normalize: Named, env: VecEnv) -> VecEnv:
    kind = _normalizer_class(normalize)
    arguments = arguments_for(kind, normalize.arguments, "normalize")
    takes_keys = "norm_obs_keys" in signature(kind).parameters and kind is not PerTaskVecNormalize
    if takes_keys and isinstance(env.observation_space, spaces.Dict):
        # By default SB3's takes all keys, but it can't normalize the task id, which is Discrete.
        arguments.setdefault("norm_obs_keys", box_keys(env.observation_space))
    try:
        return kind(env, **arguments)
    except Exception as error:  # wrong keys raise in SB3, and a user's class may raise anything
        env.close()
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`normalize`: {normalize.name} can't be built: {reason}") from error


def build_model(run: RunConfig, env: VecEnv, **arguments: Any) -> BaseAlgorithm:
    """Build a run's algorithm with its policy."""
    return algorithm_class(run.algorithm)(policy_of(run), env, **arguments)


def build(run: RunConfig) -> tuple[BaseAlgorithm, VecEnv]:
    """Build a run's model and its environment, before the first step."""
    seed = stream(run.seed)
    env = build_env(run, run.n_envs, seed, schedule_of(run))
    return build_model(run, env, seed=seed, device=run.device, **arguments_of(run)), env
