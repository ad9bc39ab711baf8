"""What a study's file asks for: its YAML read, and what that names found and built.

These are tasks, algorithm, policy, schedule, normalizer and callbacks.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.callbacks import MultiTaskEvalCallback, SnapshotCallback
from sb3_moe.layers.classes import did_you_mean
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.learning_rates import LinearPerBlock
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, per_network
from sb3_moe.policies.registration import TABLE
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.vec_env.observations import VecHistory
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize, box_keys
from sb3_moe.vec_env.replay_buffers import MultiTaskReplayBuffer
from sb3_moe_envs import Cycle, Interleave
from sb3_moe_envs.schedules import Schedule, Slots
from sb3_moe_envs.suites import SUITES, tasks_of
from sb3_moe_envs.tasks import Task

if TYPE_CHECKING:
    from sb3_moe.study.config import RunConfig

T = TypeVar("T")

#: Of every dataclass into which a study's file is read.
STRICT = ConfigDict(extra="forbid")
#: What an entry may be that names something or says more of it, for the schema.
WORD_OR_MAPPING = WithJsonSchema({"type": ["string", "object"]})
_FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, but a key stands once, and ``1e6`` is a whole number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is there twice: PyYAML would drop the first without a word."""
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
    """Build a dataclass, and those within it, from what YAML gave.

    :param kind: the dataclass
    :param values: of its fields
    :param context: what its validators are told
    :param where: the entry that holds the values
    :raises ValueError: naming every entry that is missing, unknown or of another type
    """
    # From JSON, strictly: lists may become tuples and mappings dataclasses, but 1 not true.
    text = json.dumps(values, default=str)
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid", context=context)
    except ValidationError as error:
        known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # it is a dataclass
        raise ValueError(in_words(error, where, known)) from error


def in_words(error: ValidationError, where: str = "", known: Iterable[str] = ()) -> str:
    """Say what pydantic found, a line for each entry.

    :param error: what it raised
    :param where: the entry that holds what was refused
    :param known: the entries that there are, for hints at misspelled ones
    """
    lines = []
    for each in error.errors(include_url=False):
        if each["type"] == "too_short" and each["ctx"]["actual_length"] < len(each["input"]):
            continue  # its items are wrong, of which others tell
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
    """Say which known name was meant, or which there are."""
    return did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested mappings as one, with dots between keys; empty entries are left out."""
    if not isinstance(values, Mapping):
        text = ", ".join(map(str, values)) if isinstance(values, list | tuple) else values
        return {} if text in (None, "") else {prefix: text}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Named:
    """A class by its name, and what it is built with.

    :param name: of this package or SB3, or ``package.module:Class``
    :param arguments: of its constructor, plain values; see :func:`resolved`
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def class_of(self, base: type, where: str, *modules: str) -> type[Any]:
        """Give the class.

        :param base: what it must be a class of
        :param where: the entry that names it
        :param modules: whose classes need no module before their names
        :raises ValueError: if there is none, or it is another kind of class
        """
        everything = {k: v for module in modules for k, v in vars(import_module(module)).items()}
        kinds = {k: v for k, v in everything.items() if isinstance(v, type) and issubclass(v, base)}
        found = imported(self.name, where) if ":" in self.name else kinds.get(self.name)
        if not (isinstance(found, type) and issubclass(found, base)):
            rule = f"`{where}` must be a {base.__name__} by its name or `package.module:Class`"
            raise ValueError(f"{rule}, got {self.name!r}{hint(self.name, kinds)}")
        return found


def _in_full(value: Any) -> Any:
    """Read ``Cycle`` or ``{Cycle: {num_cycles: 2}}``."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
        ((name, arguments),) = value.items()
        return {"name": name, "arguments": arguments or {}}
    return value


#: An entry of a study that names a class.
NamedEntry = Annotated[Named, BeforeValidator(_in_full), WORD_OR_MAPPING]


def imported(reference: str, where: str) -> Any:
    """Import what ``package.module:name`` stands for.

    :param where: the entry that holds it
    :raises ValueError: if there is no such module or name in it
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything while it is imported
        rule = f"`{where}` must be `package.module:name`, got {reference!r}"
        raise ValueError(f"{rule}: {error}") from error


def resolved(value: Any, where: str, name: str = "") -> Any:
    """Give an argument of a file, or a mapping of them, as code takes it.

    ``package.module:Class`` becomes that class where SB3 calls the argument ``..._class`` or
    ``..._fn``; a mapping of one ``package.module:Class`` to its arguments becomes an instance.

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
    except Exception as error:  # as its constructor likes
        raise ValueError(f"`{where}` can't be built from {value!r}: {error}") from error


def arguments_for(call: Callable[..., Any], values: Any, where: str) -> dict[str, Any]:
    """Give arguments of a file as a function or class takes them.

    :param where: the entry that holds them
    :raises ValueError: if one is unknown
    """
    found: dict[str, Any] = resolved(values, where)
    try:
        signature(call).bind_partial(**found)
    except TypeError as error:
        known = ", ".join(signature(call).parameters)
        raise ValueError(f"`{where}`: {error}; there are {known}") from error
    return found


#: An entry of ``tasks``.
Entry = str | tuple[str, Mapping[str, Any]]
#: What ``tasks`` may be: a suite's name, or entries; none where ``games`` names them.
Entries = str | tuple[Entry, ...]
#: Games that a file can name without an id.
MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
#: Values by name. "none" are SB3's own.
PRESETS: dict[str, Mapping[str, Any]] = {"minatar": MINATAR_PPO, "none": {}}
# What a run gives the algorithm itself.
_OF_RUNS = {"policy", "env", "policy_kwargs", "seed", "device"}
# Where the normalizers lie that can be named without their module.
_NORMALIZERS = ("stable_baselines3.common.vec_env", PerTaskVecNormalize.__module__)


def game_id(game: str) -> str:
    """Give the Gymnasium id of a game."""
    return f"SB3MoE/MinAtar-{game}-v1" if game in MINATAR else game


def read_tasks(games: Sequence[str], tasks: Entries = (), no_op_max: int = 0) -> list[Any]:
    """Give the tasks of a study, with their names.

    :param games: by their short names or ids; not looked at where there are ``tasks``
    :param tasks: a suite's name, or entries
    :param no_op_max: most no-ops at the start of an episode of MinAtar's games by short names
    :return: :class:`sb3_moe_envs.Task` objects
    :raises ValueError: if there is no such suite, id, module or callable
    """
    if not tasks:
        options = {game: {"no_op_max": no_op_max} for game in MINATAR}
        return [Task(game, entry_of(game, "games"), options.get(game, {})) for game in games]
    if isinstance(tasks, str):
        return tasks_of(tasks)
    return tasks_of([entry_of(each, f"tasks[{i}]") for i, each in enumerate(tasks)])


def entry_of(entry: Any, where: str) -> Any:
    """Give an id, an id with arguments, or the callable that ``module:callable`` stands for.

    :param entry: of a file; MinAtar's games by their short names too
    :param where: what holds the entry
    :raises ValueError: if there is no such id, module or callable
    """
    name, arguments = (entry, None) if isinstance(entry, str) else entry
    name = game_id(name)
    module, _, rest = name.rpartition(":")
    try:
        found = getattr(import_module(module), rest, None) if module else None
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"`{where}` can't be imported, got {name!r}: {error}") from error
    if rest in gym.registry:
        return name if arguments is None else (name, dict(arguments))
    if arguments is None and callable(found):
        return found
    raise ValueError(
        f"`{where}` must be a task that is known, got {entry!r}"
        f"{did_you_mean(name, (*SUITES, *MINATAR, *gym.registry))}; there are registered Gymnasium "
        f"ids, ids with their arguments, MinAtar's {', '.join(MINATAR)}, and your own as "
        "`package.module:callable` or `package.module:Id-v0`"
    )


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Give the class of an algorithm that there are policies for.

    :raises ValueError: if there are none, or it needs a package that is not installed
    """
    if name not in TABLE:
        raise ValueError(
            f"`algorithm` must be one with our policies, got {name!r}{hint(name, TABLE)}"
        )
    return cast(type[BaseAlgorithm], imported(TABLE[name].algorithm, "algorithm"))


def is_off_policy(name: str) -> bool:
    """Say whether an algorithm learns from a replay buffer."""
    return issubclass(algorithm_class(name), OffPolicyAlgorithm)


def network_names_of(name: str) -> tuple[str, ...]:
    """Name the networks of an algorithm's policies that options can tell apart."""
    algorithm_class(name)  # which refuses a misspelled one
    policies = import_module(TABLE[name].policies)
    return cast(tuple[str, ...], getattr(policies, TABLE[name].aliases[0]).network_names)


def policy_of(run: RunConfig) -> type[BasePolicy]:
    """Give the class of a run's policy: one named, or ours that sees tasks as they are shown.

    :raises ValueError: if there is no such alias, module or class, or none sees tasks so
    """
    name, aliases = run.architecture.policy, algorithm_class(run.algorithm).policy_aliases
    if name is None:
        kind = "MultiInput" if run.task_id == "dict" or "history" in run.env else "Mlp"
        own = TABLE[run.algorithm].aliases
        name = next((each for each in own if kind in each), own[0])
    if ":" in name:
        return cast(type[BasePolicy], imported(name, "policy"))
    if name not in aliases:
        rule = "`policy` must be an alias that SB3 knows, or `package.module:Class`"
        raise ValueError(f"{rule}, got {name!r}{hint(name, aliases)}")
    return aliases[name]


def value_of_argument(run: RunConfig, name: str) -> Any:
    """Give an argument of a run's algorithm; None if it has no such argument."""
    parameter = signature(algorithm_class(run.algorithm)).parameters.get(name)
    return _given(run).get(name, None if parameter is None else parameter.default)


def rollout_of(run: RunConfig) -> int:
    """Give the steps between two updates, over all parallel environments.

    :raises ValueError: if rollouts are not counted in steps
    """
    on_policy = issubclass(algorithm_class(run.algorithm), OnPolicyAlgorithm)
    name = "n_steps" if on_policy else "train_freq"
    length = value_of_argument(run, name)
    count, unit = length if isinstance(length, list | tuple) else (length, "step")
    if unit != "step" or count < 1:
        # Runs would be evaluated, and end, at steps of their own: a report has them at the same.
        raise ValueError(f"`{name}` must be a number of steps, at least 1, got {length}")
    return run.n_envs * int(count)


def _given(run: RunConfig) -> dict[str, Any]:
    """Give the plain arguments that aren't SB3's own: architecture over study over preset."""
    preset = {k: v for k, v in PRESETS[run.preset or "none"].items() if k != "policy_kwargs"}
    given = {**preset, **run.arguments, **run.architecture.arguments}
    if isinstance(given.get("train_freq"), list):  # SB3 takes a tuple
        given["train_freq"] = tuple(given["train_freq"])
    return given


def arguments_of(run: RunConfig) -> dict[str, Any]:
    """Give all arguments of a run's algorithm but policy, environment, seed and device.

    :raises ValueError: naming what can't be built
    """
    kind = algorithm_class(run.algorithm)
    arguments = arguments_for(kind, _given(run), "arguments")
    normalizer = None if run.normalize is None else _normalizer_class(run.normalize)
    if normalizer is PerTaskVecNormalize and is_off_policy(run.algorithm):
        # To normalize a reward that is replayed, the buffer must know whose it was.
        arguments.setdefault("replay_buffer_class", MultiTaskReplayBuffer)
    if run.annealing != "none":
        rate = value_of_argument(run, "learning_rate")
        if not isinstance(rate, int | float):
            raise ValueError(f"`annealing` needs a `learning_rate` that is a number, got {rate!r}")
        blocks = 1 if run.annealing == "run" else len(run.order or (0,)) * run.cycles
        arguments["learning_rate"] = LinearPerBlock(rate, blocks)
    if given := _OF_RUNS & {*arguments}:
        raise ValueError(f"`arguments` can't have what each run gives itself, got {given}")
    return {**arguments, "policy_kwargs": _policy_kwargs(run)}


def _policy_kwargs(run: RunConfig) -> dict[str, Any]:
    """Lay an architecture's options over the preset's, and over what its observations need."""
    policy = policy_of(run)
    preset = dict(PRESETS[run.preset or "none"].get("policy_kwargs", {}))
    own = dict(resolved(run.architecture.policy_kwargs, f"architectures.{run.architecture.name}"))
    encoder = preset.pop("features_extractor_kwargs", {})
    if not issubclass(policy, MoEPolicy):
        # SB3's extractors have no encoder to choose: they flatten MinAtar's observations as ours.
        extractor = signature(policy).parameters.get("features_extractor_class")
        # Observations have the task id beside them: MlpPolicy sees them as MultiInputPolicy does.
        if run.task_id == "dict" and extractor and extractor.default is FlattenExtractor:
            preset["features_extractor_class"] = CombinedExtractor
        return {**preset, **own}
    options = {k: v for k, v in own.items() if k in DEFAULTS}
    per_network(options, policy.network_names)  # which checks them
    # An extractor of the user's own may know neither of tasks nor of a preset's encoder.
    number = {"num_tasks": len(run.games)} if run.task_id in ("onehot", "channels") else {}
    takes = signature(own.get("features_extractor_class") or TaskExtractor).parameters
    extra = {k: v for k, v in number.items() if k in takes} | (
        own.get("features_extractor_kwargs") or {k: v for k, v in encoder.items() if k in takes}
    )
    return {**preset, **own, **({"features_extractor_kwargs": extra} if extra else {})}


def _normalizer_class(named: Named) -> type[Any]:
    return named.class_of(VecNormalize, "normalize", *_NORMALIZERS)


def callback_class(named: Named) -> type[Any]:
    """Give the class of callbacks that a file names.

    :raises ValueError: if there is none, or it would write into the files of every run's own
    """
    kind = named.class_of(BaseCallback, "callbacks", "sb3_moe.callbacks")
    of_every_run = issubclass(kind, MultiTaskEvalCallback | SnapshotCallback)
    if of_every_run and "log_path" not in named.arguments:
        raise ValueError(
            f"`callbacks` can't have {named.name}: every run has `evaluation` and `checkpoints`"
        )
    return kind


def build_callbacks(callbacks: Sequence[Named], folder: Path) -> list[BaseCallback]:
    """Build what a file names.

    :param folder: where those write that have a ``log_path`` and aren't given one
    """
    built = []
    for each in callbacks:
        kind = callback_class(each)
        where = {"log_path": folder} if "log_path" in signature(kind).parameters else {}
        arguments = arguments_for(kind, each.arguments, f"callbacks.{each.name}")
        built.append(kind(**{**where, **arguments}))
    return built


def schedule_of(run: RunConfig) -> Any:
    """Say which task is played when.

    :raises ValueError: naming the entry, or what the schedule says against the run's tasks
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
    """Spread seeds out: parallel environment ``i`` of a seed ``s`` has the seed ``s + i``.

    Neighboring seeds of a study would otherwise share most of their environments' randomness.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def plain_env(run: RunConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a run: all tasks, and a schedule that says which is played."""
    tasks = read_tasks(run.games, run.tasks, run.no_op_max)
    return make_multitask_vec_env(tasks, n_envs, seed, schedule=schedule, **run.env)


def build_env(run: RunConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a run, in the normalizer that it asks for.

    :raises ValueError: if that can't be built
    """
    env = plain_env(run, n_envs, seed, schedule)
    if run.normalize is None:
        return env
    if isinstance(env, VecHistory) and not is_off_policy(run.algorithm):
        return VecHistory(_normalized(run.normalize, env.venv), env.length)
    return _normalized(run.normalize, env)


def _normalized(normalize: Named, env: VecEnv) -> VecEnv:
    kind = _normalizer_class(normalize)
    arguments = arguments_for(kind, normalize.arguments, "normalize")
    takes_keys = "norm_obs_keys" in signature(kind).parameters and kind is not PerTaskVecNormalize
    if takes_keys and isinstance(env.observation_space, spaces.Dict):
        # SB3's own takes all keys, and the task's id is none that it could normalize.
        arguments.setdefault("norm_obs_keys", box_keys(env.observation_space))
    try:
        normalized: VecEnv = kind(env, **arguments)
    except Exception as error:  # SB3 looks up keys, and a user's class may do anything
        env.close()
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`normalize`: {normalize.name} can't be built: {reason}") from error
    return normalized


def build_model(run: RunConfig, env: VecEnv, **arguments: Any) -> BaseAlgorithm:
    """Build a run's algorithm with its policy."""
    return algorithm_class(run.algorithm)(policy_of(run), env, **arguments)


def build(run: RunConfig) -> tuple[BaseAlgorithm, VecEnv]:
    """Build a run's model and its environment, before the first step."""
    seed = stream(run.seed)
    env = build_env(run, run.n_envs, seed, schedule_of(run))
    return build_model(run, env, seed=seed, device=run.device, **arguments_of(run)), env
