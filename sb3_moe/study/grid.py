"""A study as a YAML file: which cells there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml

from sb3_moe.study.architectures import named_architecture
from sb3_moe.study.config import (
    Annealing,
    Architecture,
    CellConfig,
    Evaluation,
    Regime,
    plain,
)

PRESETS = ("smoke", "paper-small", "paper-full")
ORDERS = ("given", "rotations", "all")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A grid of cells: every regime and order, with every architecture, for every seed.

    :param name: of the study, and of its folder under ``runs``
    :param games: the tasks, in the order in which ``"crl"`` plays them unless ``orders`` says more
    :param regimes: see :class:`~sb3_moe.study.config.CellConfig`
    :param orders: of ``"crl"``: the one given, its rotations (each game comes first, second, ...
        once), all permutations, or a list of orders
    :param architectures: the columns
    :param seeds: a number of seeds, or the seeds
    :param random_episodes: episodes of each game that measure the random policy's level
    :param claims: the file of claims that the report tests, None for none
    """

    name: str
    games: tuple[str, ...]
    architectures: tuple[Architecture, ...]
    regimes: tuple[Regime, ...] = ("mtrl", "crl")
    orders: str | tuple[tuple[str, ...], ...] = "given"
    seeds: tuple[int, ...] = (0,)
    steps_per_task: int = 262_144
    cycles: int = 1
    n_envs: int = 64
    ppo: Mapping[str, Any] = field(default_factory=dict)
    annealing: Annealing = "none"
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: int = 4
    device: str = "cpu"
    random_episodes: int = 64
    claims: Path | None = None

    def __post_init__(self) -> None:
        _check_unique("architectures", [a.name for a in self.architectures])
        _check_unique("seeds", self.seeds)
        _check_unique("regimes", self.regimes)
        if isinstance(self.orders, str) and self.orders not in ORDERS:
            raise ValueError(f"`orders` must be {', '.join(ORDERS)} or a list, got {self.orders!r}")
        for regime in self.regimes:
            if regime not in get_args(Regime):
                raise ValueError(
                    f"`regimes` must be among {', '.join(get_args(Regime))}, got {regime!r}"
                )
        self.cells()

    def cells(self) -> list[CellConfig]:
        """List the cells, whole seeds first: what is finished can be compared at any time."""
        return [
            CellConfig(
                regime=regime,
                order=order,
                architecture=architecture,
                seed=seed,
                **{name: getattr(self, name) for name in _SHARED},
            )
            for seed in self.seeds
            for regime in self.regimes
            for order in self.sequences(regime)
            for architecture in self.architectures
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``study.json`` holds them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["claims"] = None if self.claims is None else self.claims.name
        return {name: plain(value) for name, value in values.items()}

    def sequences(self, regime: Regime) -> list[tuple[str, ...]]:
        """List the orders of games that a regime has cells for."""
        if regime == "mtrl":
            return [()]
        if regime == "scratch":
            return [(game,) for game in self.games]
        if self.orders == "rotations":
            return [self.games[k:] + self.games[:k] for k in range(len(self.games))]
        if self.orders == "all":
            return list(itertools.permutations(self.games))
        return [self.games] if isinstance(self.orders, str) else list(self.orders)


_SHARED = (
    "games",
    "steps_per_task",
    "cycles",
    "n_envs",
    "ppo",
    "annealing",
    "evaluation",
    "checkpoints",
    "device",
)


def _check_unique(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"`{name}` must have at least one entry, got none")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be different from each other, got {list(values)}")


def load_study(name_or_path: str) -> StudyConfig:
    """Read a preset of this package, or a YAML file.

    :param name_or_path: ``smoke``, ``paper-small``, ``paper-full`` or a path
    :raises ValueError: naming the entry that is unknown or out of range
    """
    if name_or_path in PRESETS:
        folder = Path(str(resources.files("sb3_moe.study") / "presets"))
        return read_study((folder / f"{name_or_path}.yaml").read_text(), folder)
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"a study must be one of {', '.join(PRESETS)} or a YAML file, got {name_or_path!r}"
        )
    return read_study(path.read_text(), path.parent)


def read_study(text: str, folder: Path) -> StudyConfig:
    """Read a study from YAML.

    :param text: the file's
    :param folder: against which the path of the claims is resolved
    :raises ValueError: if it is no mapping, or has an entry that isn't known
    """
    values = yaml.safe_load(text)
    if not isinstance(values, dict):
        raise ValueError(f"a study must be a YAML mapping, got {type(values).__name__}")
    known = [f.name for f in fields(StudyConfig)]
    for key in values:
        if key not in known:
            raise ValueError(f"a study has the entries {', '.join(known)}, got {key!r}")
    return StudyConfig(**dict(_typed(values, folder)))


def _typed(values: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Any]]:
    """Turn YAML's lists and mappings into the types of the fields."""
    for key, value in values.items():
        if key == "architectures":
            yield key, tuple(_architectures(value))
        elif key == "seeds":
            yield key, tuple(range(value)) if isinstance(value, int) else tuple(value)
        elif key == "evaluation":
            yield key, Evaluation(**value)
        elif key == "orders" and not isinstance(value, str):
            yield key, tuple(tuple(order) for order in value)
        elif key == "claims" and value is not None:
            yield key, folder / value
        else:
            yield key, tuple(value) if isinstance(value, list) else value


def _architectures(value: Any) -> Iterator[Architecture]:
    """Read names, or names with their options."""
    if isinstance(value, Mapping):
        yield from (named_architecture(name, options) for name, options in value.items())
        return
    for entry in value:
        if isinstance(entry, Mapping):
            yield from (named_architecture(name, options) for name, options in entry.items())
        else:
            yield named_architecture(entry)
