"""What a study did, as plain facts for the templates: the one place that reads its configuration.

Nothing else in the report knows which algorithm, environments or preset a study can have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_moe.policies.options import DEFAULTS, MoEOptions
from sb3_moe.policies.registration import TABLE
from sb3_moe.study.report.runs import Array
from sb3_moe.study.spec.algorithms import (
    PRESETS,
    algorithm_class,
    arguments_of,
    declared,
    default_of,
    described,
    given,
    towers_of,
)
from sb3_moe.study.spec.architectures import CALLED, options_by_tower, titles
from sb3_moe.study.spec.components import build_schedule, normalizer_class, takes_all_tasks
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation
from sb3_moe.study.spec.grid import About, StudyConfig
from sb3_moe.study.spec.named import parameters_of
from sb3_moe.study.spec.tasks import MINATAR
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize

LIBRARIES = {"stable_baselines3": "Stable-Baselines3", "sb3_contrib": "sb3-contrib"}
# How the package calls the presets that files name.
PRESET_NAMES = {"minatar": "MINATAR_PPO", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A column of the study.

    :param title: as readers know it
    :param meaning: what it is, its layers and experts included
    :param rate: its learning rate
    :param constant: whether that is a number, and no schedule
    :param own_rate: whether that was given with it
    :param has_experts: whether it has any
    """

    title: str
    meaning: str
    rate: str
    constant: bool
    own_rate: bool
    has_experts: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A study in plain values.

    :param algorithm: the class's name
    :param library: that it is from
    :param samples: whether training samples actions from the policy, as evaluations can
    :param tasks: names
    :param in_turn: whether any run plays several tasks one after the other
    :param has_orders: whether any run's tasks have an order that was given
    :param changed: arguments of the algorithm that are not the preset's, for all networks
    :param preset: its name, empty for the algorithm's own defaults
    :param looks: evaluations per task and visit: one that is due waits for the rollout's end
    :param shares: copies of each interleaved task, empty where none are interleaved
    :param schedule: what says which task is played in the regime of that name, empty for nothing
    :param env: arguments of the environment
    :param no_op_max: most no-ops at the start of an episode, 0 where no game takes them
    :param normalize: what normalises observations or rewards, empty for nothing
    :param callbacks: what else ran while agents were trained, with every network
    """

    name: str
    algorithm: str
    library: str
    samples: bool
    tasks: tuple[str, ...]
    regimes: tuple[str, ...]
    in_turn: bool
    has_orders: bool
    networks: tuple[Network, ...]
    seeds: tuple[int, ...]
    steps_per_task: int
    cycles: int
    n_envs: int
    changed: Mapping[str, Any]
    preset: str
    annealing: str
    evaluation: Evaluation
    looks: int
    shares: Mapping[str, int] = field(default_factory=dict)
    schedule: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)
    no_op_max: int = 0
    normalize: str = ""
    callbacks: tuple[str, ...] = ()
    about: About = field(default_factory=About)

    @property
    def stretch(self) -> str:
        """Say what the last tenth is of, over which a return is averaged."""
        if "schedule" not in self.regimes:
            return "the task's training"
        if len(self.regimes) == 1:
            return "the run"
        return "the task's training, of the whole run where a schedule says what is played"


def facts(study: StudyConfig) -> Facts:
    """Read a study's configuration."""
    cells = {cell.architecture.name: cell for cell in study.cells()}
    called = titles(cells)
    algorithm = algorithm_class(study.algorithm)
    orders = _orders(study)
    return Facts(
        name=study.name,
        algorithm=study.algorithm,
        library=_library(algorithm),
        samples=issubclass(algorithm, OnPolicyAlgorithm),
        tasks=study.games,
        regimes=study.regimes,
        in_turn=any(len(set(order)) > 1 for order in orders) or _takes_turns(study),
        has_orders=any(orders),
        networks=tuple(_network(cell, called[name]) for name, cell in cells.items()),
        seeds=study.seeds,
        steps_per_task=study.steps_per_task,
        cycles=study.cycles,
        n_envs=study.n_envs,
        changed=_changed(study, next(iter(cells.values()))),
        preset=PRESET_NAMES[study.preset or "none"],
        annealing=study.annealing,
        evaluation=study.evaluation,
        looks=min(_looks(cell) for cell in cells.values()),
        shares=_shares(study),
        schedule=str(study.schedule or ""),
        env=study.env,
        no_op_max=study.no_op_max if set(study.games) & set(MINATAR) else 0,
        normalize=_normalised(study),
        callbacks=tuple(map(str, study.callbacks)),
        about=study.about,
    )


def shared_arguments(study: StudyConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the algorithm's arguments that all runs share.

    :param config: what the folder of one run says of it
    """
    own = {"policy_kwargs"}.union(*(each.arguments for each in study.architectures))
    values = config.get("arguments", {})
    return {name: value for name, value in values.items() if name not in own}


def learned(
    architecture: Architecture, tower: str, gates_KNE: Array, algorithm: str = "PPO"
) -> bool:
    """Say whether a router of a tower learns: what the others do is known beforehand.

    :param gates_KNE: of the K evaluations that measured them, by which a head's own router is told
        from the tower's
    """
    options = _options(architecture, algorithm).get(tower)
    if options is None:
        return True
    head = options.head_router_class
    if head is None:
        return options.router_class.learns
    is_still = not np.ptp(gates_KNE, axis=0).any()  # an expert that joined isn't
    return head.learns or (options.router_class.learns and not is_still)


def _library(algorithm: type) -> str:
    root = algorithm.__module__.partition(".")[0]
    return LIBRARIES.get(root, root)


def _orders(study: StudyConfig) -> list[tuple[str, ...]]:
    return [order for regime in study.regimes for order in study.sequences(regime)]


def _takes_turns(study: StudyConfig) -> bool:
    """Say whether a schedule plays one of several tasks at a time in all copies."""
    from sb3_moe_envs.schedules import Slots

    if study.schedule is None or len(study.games) == 1:
        return False
    return bool(build_schedule(study.schedule).slots is Slots.TOGETHER)


def _changed(study: StudyConfig, cell: CellConfig) -> dict[str, Any]:
    """Give the study's own arguments that are neither the preset's nor the algorithm's own.

    :param cell: any of the study's, whose arguments may have some that a file doesn't name
    """
    known = parameters_of(algorithm_class(study.algorithm))
    usual = {name: parameter.default for name, parameter in known.items()}
    usual |= PRESETS[study.preset or "none"]
    named = {"policy_kwargs", *given(cell)}
    constant = arguments_of(replace(cell, annealing="none"))
    added = {name: value for name, value in constant.items() if name not in named}
    return {
        name: described(value)
        for name, value in (declared(study.algorithm, study.arguments) | added).items()
        if described(value) != described(usual[name])
    }


def _shares(study: StudyConfig) -> dict[str, int]:
    """Count the copies that each interleaved task has."""
    from sb3_moe_envs.schedules.interleave import Interleave, slot_counts

    schedule = Interleave() if "mtrl" in study.regimes else None
    if schedule is None and study.schedule is not None:
        schedule = build_schedule(study.schedule)
    if not isinstance(schedule, Interleave) or not takes_all_tasks(schedule):
        return {}
    counts = slot_counts(schedule.shares(len(study.games)), study.n_envs)
    return dict(zip(study.games, counts, strict=True))


def _looks(cell: CellConfig) -> int:
    """Count the evaluations of a task's visit, of which a rollout's end has one at most."""
    return min(cell.evaluation.points, cell.steps_per_task // cell.rollout)


def _normalised(study: StudyConfig) -> str:
    """Say what is normalised, by whose statistics, and by what."""
    if study.normalize is None:
        return ""
    kind = normalizer_class(study.normalize)
    usual = {name: parameter.default for name, parameter in parameters_of(kind).items()}
    values = {**usual, **study.normalize.arguments}
    what = [word for word in ("obs", "reward") if values.get(f"norm_{word}", True)]
    words = [" and ".join({"obs": "observations", "reward": "rewards"}[each] for each in what)]
    if len(study.games) > 1 and issubclass(kind, PerTaskVecNormalize):
        words.append("each task's by statistics of its own")
    elif len(study.games) > 1:
        words.append("by the same statistics for all tasks")
    return ", ".join([*words, str(study.normalize)] if what else [str(study.normalize)])


def _network(cell: CellConfig, title: str) -> Network:
    """Resolve what a network has from the preset and from defaults."""
    architecture = cell.architecture
    arguments = arguments_of(replace(cell, annealing="none"))
    rate = arguments.get("learning_rate", default_of(cell.algorithm, "learning_rate"))
    layers = arguments["policy_kwargs"].get("net_arch")
    resolved = dict(architecture.policy_kwargs)
    options = _options(architecture, cell.algorithm)
    if layers is not None:
        resolved["net_arch"] = layers
    counts = {
        tower: moe.resolve_num_experts(len(cell.games))
        for tower, moe in options.items()
        if moe.is_moe
    }
    if counts:
        resolved["num_experts"] = counts
    return Network(
        title=title,
        meaning=meaning(replace(architecture, policy_kwargs=resolved), cell.algorithm),
        rate=str(described(rate)),
        constant=isinstance(rate, int | float),
        own_rate="learning_rate" in architecture.arguments,
        has_experts=bool(counts),
    )


def _options(architecture: Architecture, algorithm: str) -> dict[str, MoEOptions]:
    """Give each tower its experts' options; nothing for a policy that is not ours."""
    if not is_ours(architecture, algorithm):
        return {}
    return options_by_tower(architecture.policy_kwargs, towers_of(algorithm))


# What a reader is told in other words than the option's own.
_TOLD = ("placement", "router", "num_experts", "net_arch", "head_router")
# Options that mean something without experts.
_OF_DENSE = ("task_input", "block", "task_embedding")


def is_ours(architecture: Architecture, algorithm: str) -> bool:
    """Say whether the policy is one of this package's, by its alias or by default."""
    return architecture.policy is None or architecture.policy in TABLE[algorithm].aliases


def meaning(architecture: Architecture, algorithm: str = "PPO") -> str:
    """Say what an architecture is, to someone who doesn't know the options' names."""
    if is_ours(architecture, algorithm):
        words = _towers(architecture.policy_kwargs, towers_of(algorithm))
    else:
        words = [f"the policy {architecture.policy}", *_as_they_are(architecture.policy_kwargs)]
    words += _as_they_are(architecture.arguments)
    if architecture.callbacks:
        words.append(f"trained with {', '.join(map(str, architecture.callbacks))}")
    if architecture.start_from is not None:
        words.append(f"begins with {architecture.start_from}")
    return "; ".join(words)


def _as_they_are(options: Mapping[str, Any]) -> list[str]:
    return [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]


def _towers(policy_kwargs: Mapping[str, Any], towers: Sequence[str]) -> list[str]:
    """Say once what all towers share."""
    options = options_by_tower(policy_kwargs, towers)
    networks = {tower: _network_in_words(tower, options[tower], policy_kwargs) for tower in towers}
    first, *others = networks.values()
    if all(other == first for other in others):
        return first
    return [f"{CALLED[tower]}: {'; '.join(words)}" for tower, words in networks.items()]


def _network_in_words(tower: str, moe: MoEOptions, policy_kwargs: Mapping[str, Any]) -> list[str]:
    words = [moe.place.meaning]
    if moe.place.has_experts:
        words[0] += f", {moe.num_experts} of them" if moe.num_experts else ""
        words.append(moe.router_class.meaning)
    if moe.head_router_class is not None:
        words.append(f"a head for each task: {moe.head_router_class.meaning}")
    if "net_arch" in policy_kwargs:
        layers = policy_kwargs["net_arch"]
        words.append(f"hidden layers of {_of_tower(layers, tower)}")
    # A dense tower has none of the experts' options but these.
    further = {
        name: getattr(moe, name, value)
        for name, value in policy_kwargs.items()
        if name not in _TOLD and (moe.is_moe or name not in DEFAULTS or name in _OF_DENSE)
    }
    return [*words, *_as_they_are(further)]


def _of_tower(layers: Any, tower: str) -> Any:
    """Give a tower its hidden layers: SB3 takes a dict that leaves one out."""
    return layers.get(tower, []) if isinstance(layers, Mapping) else layers
