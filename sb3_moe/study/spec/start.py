"""The trained model that a network of a study begins with, in place of new weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_moe.growing.upcycling import HOW
from sb3_moe.study.spec.entries import hint

if TYPE_CHECKING:
    from sb3_moe.study.spec.config import Architecture, CellConfig

# Files of models, by how their names end.
MODELS = (".moe", ".zip")


@dataclass(frozen=True, kw_only=True)
class StartFrom:
    """Whose weights a network begins with: a file's, or those of another network of the study.

    :param model: path of a model, ``.moe`` or, only from those you trust, SB3's ``.zip``
    :param architecture: a network of the study, whose model of the same seed it is
    :param regime: of that network's run; None: the same as that of the run that begins
    :param order: likewise
    :param how: as in :func:`sb3_moe.upcycle`, which a dense model goes through where the network
        has experts
    :raises ValueError: if it names none or both of model and architecture, or a value is unknown
    """

    model: str | None = None
    architecture: str | None = None
    regime: str | None = None
    order: tuple[str, ...] | None = None
    how: str = "copy"

    def __post_init__(self) -> None:
        if (self.model is None) == (self.architecture is None):
            raise ValueError(
                "`start_from` must have one of `model` and `architecture`, got "
                f"{self.model!r} and {self.architecture!r}"
            )
        if self.model is not None and not self.model.endswith(MODELS):
            raise ValueError(
                f"`start_from.model` must end in {' or '.join(MODELS)}, got {self.model!r}"
            )
        if self.model is not None and (self.regime, self.order) != (None, None):
            raise ValueError(
                "`start_from` must have `regime` and `order` only with an `architecture`, got "
                f"{self.regime!r} and {self.order!r} with the model {self.model!r}"
            )
        if self.how not in HOW:
            raise ValueError(f"`start_from.how` must be one of {', '.join(HOW)}, got {self.how!r}")

    def __str__(self) -> str:
        """Say it as a reader would."""
        if self.model is not None:
            return f"the model {Path(self.model).name}"
        order = f" after {', then '.join(self.order)}" if self.order else ""
        regime = f" ({self.regime})" if self.regime else ""
        return f"the trained {self.architecture}{order}{regime}"


def read_start(value: Any, where: str, folder: Path | None = None) -> StartFrom:
    """Read a file's name, a network's name, or a mapping of either with more.

    :param value: as the study's file has it
    :param where: the entry that holds it
    :param folder: against which a relative path is resolved
    :raises ValueError: if it is none of these
    """
    if isinstance(value, str):
        value = {"model" if value.endswith(MODELS) else "architecture": value}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"`{where}` must be the name of a network or of a model's file, or a mapping, got "
            f"{value!r}"
        )
    known = [each.name for each in fields(StartFrom)]
    for name in value:
        if name not in known:
            raise ValueError(f"there is no entry `{where}.{name}`{hint(name, known)}")
    found = dict(value)
    for name in ("model", "architecture", "regime", "how"):
        if found.get(name) is not None and not isinstance(found[name], str):
            raise ValueError(f"`{where}.{name}` must be text, got {found[name]!r}")
    order = found.get("order")
    if order is not None:
        if not isinstance(order, list | tuple) or not all(isinstance(g, str) for g in order):
            raise ValueError(f"`{where}.order` must be a list of tasks, got {order!r}")
        found["order"] = tuple(order)
    try:
        start = StartFrom(**found)
    except ValueError as error:
        raise ValueError(str(error).replace("`start_from", f"`{where}", 1)) from error
    if folder is None or start.model is None:
        return start
    # Absolute: a study may be run from another folder the next time.
    return replace(start, model=str((folder / start.model).absolute()))


def with_starts(
    cells: Iterable[CellConfig], architectures: Iterable[Architecture], schedule: Any
) -> list[CellConfig]:
    """Give cells, each behind the one that it begins with, which joins them if it isn't there.

    :param cells: of a study's grid
    :param architectures: of the study
    :param schedule: of the regime ``"schedule"``
    :raises ValueError: if a network starts from one that there isn't, or in the end from itself
    """
    columns = {each.name: each for each in architectures}
    found: dict[str, CellConfig] = {}
    for cell in cells:
        chain = [cell]
        while (start := _start_of(chain[-1], columns, schedule)) is not None:
            if start.name in [each.name for each in chain]:
                raise ValueError(
                    f"`architectures.{cell.architecture.name}.start_from` must not lead back to "
                    f"itself, got {' from '.join(each.name for each in chain)}"
                )
            chain.append(start)
        for each in reversed(chain):
            found.setdefault(each.name, each)
    return list(found.values())


def _start_of(
    cell: CellConfig, columns: Mapping[str, Architecture], schedule: Any
) -> CellConfig | None:
    start = cell.architecture.start_from
    if start is None or start.architecture is None:
        return None
    where = f"architectures.{cell.architecture.name}.start_from"
    if start.architecture not in columns:
        raise ValueError(
            f"`{where}` must be a network of the study, or a file that ends in "
            f"{' or '.join(MODELS)}, got {start.architecture!r}{hint(start.architecture, columns)}"
        )
    regime: Any = start.regime or cell.regime
    order = cell.order if start.order is None else start.order
    try:
        return replace(
            cell,
            regime=regime,
            order=order,
            architecture=columns[start.architecture],
            schedule=schedule if regime == "schedule" else None,
        )
    except ValueError as error:
        raise ValueError(f"`{where}`: {error}") from error
