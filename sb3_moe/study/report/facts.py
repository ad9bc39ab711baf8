"""What a study did, as plain facts for the templates: the one place that reads its configuration.

Nothing else in the report knows which algorithm, environments or preset a study can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.registration import TABLE
from sb3_moe.presets import MINATAR_PPO
from sb3_moe.study.run.learner import described, ppo_arguments
from sb3_moe.study.spec.about import About
from sb3_moe.study.spec.algorithms import towers_of
from sb3_moe.study.spec.architectures import meaning, options_by_tower, title
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation
from sb3_moe.study.spec.grid import StudyConfig

LIBRARIES = {"stable_baselines3": "Stable-Baselines3", "sb3_contrib": "sb3-contrib"}


@dataclass(frozen=True, kw_only=True)
class Network:
    """A column of the study.

    :param title: as readers know it
    :param meaning: what it is, its layers and experts included
    :param rate: its learning rate
    :param own_rate: whether that was given with it
    :param has_experts: whether it has any
    """

    title: str
    meaning: str
    rate: str
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
    :param changed: arguments of the algorithm that are not the preset's, for all networks
    :param preset: its name, empty for the algorithm's own defaults
    :param shares: copies of each interleaved task, empty where none are interleaved
    :param normalize: what normalises observations or rewards, empty for nothing
    :param callbacks: what else ran while agents were trained
    """

    name: str
    algorithm: str
    library: str
    samples: bool
    tasks: tuple[str, ...]
    regimes: tuple[str, ...]
    in_turn: bool
    networks: tuple[Network, ...]
    seeds: tuple[int, ...]
    steps_per_task: int
    cycles: int
    n_envs: int
    changed: Mapping[str, Any]
    preset: str
    annealing: str
    evaluation: Evaluation
    shares: Mapping[str, int] = field(default_factory=dict)
    normalize: str = ""
    callbacks: tuple[str, ...] = ()
    about: About = field(default_factory=About)


def facts(study: StudyConfig) -> Facts:
    """Read a study's configuration."""
    cells = {cell.architecture.name: cell for cell in study.cells()}
    algorithm = _algorithm(study)
    return Facts(
        name=study.name,
        algorithm=algorithm.__name__,
        library=_library(algorithm),
        samples=issubclass(algorithm, OnPolicyAlgorithm),
        tasks=study.games,
        regimes=study.regimes,
        in_turn=any(len(set(order)) > 1 for order in _orders(study)),
        networks=tuple(_network(cell) for cell in cells.values()),
        seeds=study.seeds,
        steps_per_task=study.steps_per_task,
        cycles=study.cycles,
        n_envs=study.n_envs,
        changed=_changed(study),
        preset="MINATAR_PPO",
        annealing=study.annealing,
        evaluation=study.evaluation,
        shares=_shares(study),
        about=study.about,
    )


def shared_arguments(study: StudyConfig, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the algorithm's arguments that all runs share.

    :param config: what the folder of one run says of it
    """
    own = {"policy_kwargs"}.union(*(architecture.ppo for architecture in study.architectures))
    return {name: value for name, value in config.get("ppo", {}).items() if name not in own}


def learned(architecture: Architecture, tower: str, algorithm: str) -> bool:
    """Say whether the router of a tower learns: what the others do is known beforehand."""
    options = _options(architecture, algorithm).get(tower)
    return options is None or options.router_class.learns


def _algorithm(study: StudyConfig) -> type[BaseAlgorithm]:
    return PPO


def _library(algorithm: type) -> str:
    root = algorithm.__module__.partition(".")[0]
    return LIBRARIES.get(root, root)


def _orders(study: StudyConfig) -> list[tuple[str, ...]]:
    return [order for regime in study.regimes for order in study.sequences(regime)]


def _changed(study: StudyConfig) -> dict[str, Any]:
    return {
        name: described(value)
        for name, value in study.ppo.items()
        if name not in MINATAR_PPO or MINATAR_PPO[name] != value
    }


def _shares(study: StudyConfig) -> dict[str, int]:
    """Count the copies that each interleaved task has."""
    from sb3_moe_envs.schedules.interleave import Interleave, slot_counts

    if "mtrl" not in study.regimes:
        return {}
    counts = slot_counts(Interleave().shares(len(study.games)), study.n_envs)
    return dict(zip(study.games, counts, strict=True))


def _network(cell: CellConfig) -> Network:
    """Resolve what a network has from the preset and from defaults."""
    architecture = cell.architecture
    arguments = ppo_arguments(replace(cell, annealing="none"))
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
        title=title(architecture.name),
        meaning=meaning(replace(architecture, policy_kwargs=resolved), cell.algorithm),
        rate=str(described(arguments["learning_rate"])),
        own_rate="learning_rate" in architecture.ppo,
        has_experts=bool(counts),
    )


def _options(architecture: Architecture, algorithm: str) -> dict[str, MoEOptions]:
    """Give each tower its experts' options; nothing for a policy that is not ours."""
    if architecture.policy not in TABLE[algorithm].aliases:
        return {}
    return options_by_tower(architecture.policy_kwargs, towers_of(algorithm))
