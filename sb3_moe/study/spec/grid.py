"""A study as a YAML file: which cells there are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from sb3_moe.study.spec.about import About, read_about
from sb3_moe.study.spec.algorithms import algorithm_class
from sb3_moe.study.spec.architectures import check_policy, named_architecture
from sb3_moe.study.spec.config import Architecture, CellConfig, Regime, plain, spelled
from sb3_moe.study.spec.entries import read_yaml, typed
from sb3_moe.study.spec.named import named
from sb3_moe.study.spec.setup import Setup, check_name, settle
from sb3_moe.study.spec.start import with_starts
from sb3_moe.study.spec.tasks import as_entries, task_names

# More is a slip: the grid is laid out before anything runs.
MOST_SEEDS = 10_000
PRESETS = ("smoke", "paper-small", "paper-full")
Orders = Literal["given", "rotations", "all"]


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Setup):
    """A grid of cells: every regime and order, with every architecture, for every seed.

    :param name: of the study, and of its folder under ``runs``
    :param games: see :class:`~sb3_moe.study.spec.setup.Setup`; in the order in which ``"crl"``
        plays them unless ``orders`` says more
    :param architectures: the columns
    :param regimes: see :class:`~sb3_moe.study.spec.config.CellConfig`
    :param orders: of ``"crl"``: the one given, its rotations (each game comes first, second, ...
        once), all permutations, or a list of orders
    :param seeds: a number of seeds, or the seeds
    :param random_episodes: episodes of each game that measure the random policy's level
    :param claims: the file of claims that the report tests, None for none
    :param about: what the report says that the configuration can't tell
    :raises ValueError: if a value is out of its range, or two entries would be one cell
    """

    name: str
    architectures: tuple[Architecture, ...]
    regimes: tuple[Regime, ...] = ("mtrl", "crl")
    orders: Orders | tuple[tuple[str, ...], ...] = "given"
    seeds: tuple[int, ...] = (0,)
    random_episodes: int = 64
    claims: Path | None = None
    about: About = field(default_factory=About)
    # Not of the file: see `only`.
    _only: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        check_name("a study", self.name)
        super().__post_init__()
        settle(self, architectures=tuple(each.fitted(self) for each in self.architectures))
        _check_unique("architectures", [a.name for a in self.architectures])
        _check_unique("seeds", self.seeds)
        _check_unique("regimes", self.regimes)
        if isinstance(self.orders, str) and self.orders not in get_args(Orders):
            raise ValueError(
                f"`orders` must be {', '.join(get_args(Orders))} or a list, got {self.orders!r}"
            )
        if not isinstance(self.orders, str):
            _check_unique("orders", self.orders)
            for game in itertools.chain.from_iterable(self.orders):
                if game not in self.games:
                    raise ValueError(
                        f"`orders` must be of the games {', '.join(self.games)}, got {game!r}"
                    )
        for regime in self.regimes:
            if regime not in get_args(Regime):
                raise ValueError(
                    f"`regimes` must be among {', '.join(get_args(Regime))}, got {regime!r}"
                )
        if self.random_episodes < 1:
            raise ValueError(f"`random_episodes` must be at least 1, got {self.random_episodes}")
        for architecture in self.architectures:
            check_policy(architecture, self.algorithm)
        if self.schedule is not None and "schedule" not in self.regimes:
            raise ValueError(
                f'`regimes` must have "schedule" where there is a `schedule`, got {self.regimes}'
            )
        self.cells()  # which checks that there are such

    def cells(self) -> list[CellConfig]:
        """List the cells, whole seeds first: what is finished can be compared at any time.

        A cell that another begins with comes before it, and is added where the grid lacks it.
        """
        wanted = [c for c in self._grid() if not self._only or c.architecture.name in self._only]
        return with_starts(wanted, self.architectures, self.schedule)

    def only(self, names: Sequence[str]) -> StudyConfig:
        """Give the same study with the cells of some networks, and those that they begin with.

        :param names: of the networks; none for all
        """
        study = replace(self)
        settle(study, _only=tuple(names))
        return study

    def _grid(self) -> list[CellConfig]:
        grid = [
            CellConfig(
                regime=regime,
                order=order,
                architecture=architecture,
                seed=seed,
                **self._shared | ({} if regime == "schedule" else {"schedule": None}),
            )
            for seed in self.seeds
            for regime in self.regimes
            for order in self.sequences(regime)
            for architecture in self.architectures
        ]
        _check_folders([cell.name for cell in grid])
        return grid

    @property
    def _shared(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(Setup)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``study.json`` holds them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        values["claims"] = None if self.claims is None else self.claims.name
        columns = [spelled(plain(each), self.algorithm) for each in self.architectures]
        values["architectures"] = columns
        return spelled({name: plain(value) for name, value in values.items()}, self.algorithm)

    def sequences(self, regime: Regime) -> list[tuple[str, ...]]:
        """List the orders of games that a regime has cells for."""
        if regime in ("mtrl", "schedule"):
            return [()]
        if regime == "scratch":
            return [(game,) for game in self.games]
        if self.orders == "rotations":
            return [self.games[k:] + self.games[:k] for k in range(len(self.games))]
        if self.orders == "all":
            return list(itertools.permutations(self.games))
        return [self.games] if isinstance(self.orders, str) else list(self.orders)


def _check_unique(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ValueError(f"`{name}` must have at least one entry, got none")
    if len(set(values)) < len(values):
        raise ValueError(f"`{name}` must be different from each other, got {list(values)}")


def _check_folders(names: Sequence[str]) -> None:
    """Raise if two cells would share a folder: names of games and architectures may have dashes."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            "cells must have different names: rename an architecture, since there are two "
            f"{twice[0]!r}"
        )


def load_study(name_or_path: str) -> StudyConfig:
    """Read a preset of this package, or a YAML file.

    :param name_or_path: ``smoke``, ``paper-small``, ``paper-full`` or a path
    :raises ValueError: naming the entry that is unknown or out of range
    """
    if name_or_path in PRESETS:
        folder = Path(str(resources.files("sb3_moe.study") / "presets"))
        return read_study((folder / f"{name_or_path}.yaml").read_text(encoding="utf-8"), folder)
    path = Path(name_or_path)
    if not path.is_file():
        why = "is no file" if path.exists() else "doesn't exist"
        raise ValueError(
            f"a study must be one of {', '.join(PRESETS)} or a YAML file, got {name_or_path!r}, "
            f"which {why}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"a study must be text, got {name_or_path!r}: {error}") from error
    return read_study(text, path.parent)


def read_study(text: str, folder: Path) -> StudyConfig:
    """Read a study from YAML.

    :param text: the file's
    :param folder: against which the path of the claims is resolved
    :raises ValueError: if it is no mapping, or an entry is missing, unknown, or not what it must be
    """
    values = read_yaml(text)
    if not isinstance(values, dict):
        raise ValueError(f"a study must be a YAML mapping, got {values!r}")
    study = typed(StudyConfig, _spelled_out(values, folder))
    if study.claims is not None and not study.claims.is_file():
        raise ValueError(f"`claims` must be a file, got {str(study.claims)!r}")
    return study


def _spelled_out(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write as the fields have it what a file may say in short."""
    long = dict(values)
    if "architectures" in values:
        algorithm = values.get("algorithm", "PPO")
        if not isinstance(algorithm, str):
            raise ValueError(f"`algorithm` must be text, got {algorithm!r}")
        algorithm_class(algorithm)  # before the networks' names are read by its towers
        columns = _architectures(values["architectures"], algorithm, folder)
        long["architectures"] = [asdict(column) for column in columns]
    if "tasks" in values and "games" not in values:
        if not values["tasks"]:
            raise ValueError(
                f"`tasks` must be a suite's name or a list of tasks, got {values['tasks']!r}"
            )
        long["games"] = task_names(as_entries(values["tasks"]))
    for name in ("schedule", "normalize"):
        if values.get(name) is not None:
            long[name] = asdict(named(values[name], name))
    if isinstance(values.get("callbacks"), list):
        long["callbacks"] = [asdict(named(each, "callbacks")) for each in values["callbacks"]]
    if values.get("schedule") is not None:
        long.setdefault("regimes", ["schedule"])
    if "seeds" in values:
        long["seeds"] = _seeds(values["seeds"])
    if isinstance(values.get("claims"), str):
        long["claims"] = str(folder / values["claims"])
    if "about" in values:
        long["about"] = read_about(values["about"], folder)
    return long


def _seeds(value: Any) -> list[Any]:
    """Count from 0 up to a number of seeds, or take the seeds."""
    if isinstance(value, list):
        return value
    if type(value) is int and 1 <= value <= MOST_SEEDS:
        return list(range(value))
    raise ValueError(
        f"`seeds` must be a number of seeds, 1 to {MOST_SEEDS:,}, or a list, got {value!r}"
    )


def _architectures(value: Any, algorithm: str, folder: Path) -> Iterator[Architecture]:
    """Read names, or names with their options."""
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, Mapping):
            yield from (
                named_architecture(name, options, algorithm, folder)
                for name, options in entry.items()
            )
        elif isinstance(entry, str) and isinstance(value, list):
            yield named_architecture(entry, algorithm=algorithm)
        else:
            raise ValueError(
                f"`architectures` must be names, or names with their options, got {entry!r}"
            )
