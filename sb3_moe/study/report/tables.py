"""The numbers of a report, as rows; each table is a CSV file and part of the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.measures import bootstrap_interval
from sb3_moe.saving.files import atomic
from sb3_moe.study.report.judging import Finding
from sb3_moe.study.report.measures import MEASURES, block_area, block_end, dormant, final, measure
from sb3_moe.study.report.page import interval
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Array, Run, on_shared_steps
from sb3_moe.study.spec.architectures import heading, titles

Rows = list[dict[str, Any]]
Text = dict[str, str]
Group = tuple[str, tuple[str, ...], str]


def order_as_text(order: Sequence[str]) -> str:
    """Write an order of games as a field of a table: names with a space stand in quotes."""
    return _line(order, delimiter=" ")


def order_of(text: str) -> list[str]:
    """Read what :func:`order_as_text` wrote."""
    return next(csv.reader([text], delimiter=" "), [])


def _line(fields: Iterable[Any], delimiter: str = ",") -> str:
    """Write fields as a line of CSV, without its end."""
    text = io.StringIO()
    # Before Python 3.13 csv puts those characters of a line's end in quotes that it writes itself.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    return text.getvalue().removesuffix("\r\n")


def grouped(runs: Sequence[Run]) -> dict[Group, list[Run]]:
    """Put runs that differ only in their seed together: by regime, order and architecture."""
    groups: dict[Group, list[Run]] = {}
    for run in runs:
        cell = run.cell
        groups.setdefault((cell.regime, cell.order, cell.architecture.name), []).append(run)
    return groups


def summary(runs: Sequence[Run], random: Mapping[str, float], confidence: float = 0.95) -> Rows:
    """Say what each architecture reached on each game, with an interval over seeds."""
    return [
        _summary_row(group, members, game, random[game], confidence)
        for group, members in grouped(runs).items()
        for game in members[0].cell.games
        if members[0].blocks(game)
    ]


def _summary_row(
    group: Group, runs: Sequence[Run], game: str, random: float, confidence: float
) -> dict[str, Any]:
    regime, order, architecture = group
    ends = np.array([block_end(run, game) for run in runs])
    low, high = _interval(ends, confidence)
    return {
        "regime": regime,
        "order": order_as_text(order),
        "architecture": architecture,
        "game": game,
        "seeds": len(runs),
        "random": random,
        "return": float(np.mean(ends)),
        "low": low,
        "high": high,
        # Of a return at or below 0 more would be worse, or nothing.
        "ratio": float(np.mean(ends)) / random if random > 0 else float("nan"),
        "while_trained": float(np.mean([block_area(run, game) for run in runs])),
        "at_the_end": float(np.mean([final(run, game) for run in runs])),
        "dormant": float(np.mean([dormant(run) for run in runs])),
    }


def by_setting(summary: Rows) -> dict[str, Rows]:
    """Put the games of a summary side by side: for each setting a table, a row per network."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    called = titles(row["architecture"] for row in summary)
    for row in summary:
        networks = tables.setdefault(heading(row["regime"], order_of(row["order"])), {})
        wide = networks.setdefault(
            row["architecture"],
            {
                "network": called[row["architecture"]],
                "dormant": row["dormant"],
                "seeds": row["seeds"],
            },
        )
        game = row["game"]
        wide[f"return {game}"] = interval(row["return"], row["low"], row["high"])
        wide[f"ratio {game}"] = row["ratio"]
        wide[f"at_the_end {game}"] = row["at_the_end"]
    return {setting: list(networks.values()) for setting, networks in tables.items()}


def _interval(values: Array, confidence: float) -> tuple[float, float]:
    """Give no interval where a run was stopped before its last evaluation."""
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    return bootstrap_interval(values, confidence=confidence, seed=0)


def verdicts(findings: Sequence[Finding]) -> Rows:
    """List every contrast on every game, with its estimate and verdict."""
    return [
        {
            "claim": finding.claim.name,
            "text": finding.claim.text,
            "claim_verdict": finding.verdict,
            "claim_verdict_by_t": finding.verdict_by_t,
            "measure": row.contrast.measure,
            "contrast": finding.comparison(row.contrast),
            "primary": row.contrast.primary,
            "game": row.game,
            "difference": row.estimate.mean,
            "low": row.estimate.low,
            "high": row.estimate.high,
            "seeds": row.estimate.seeds,
            "t_low": row.estimate.t_low,
            "t_high": row.estimate.t_high,
            "p": row.estimate.p_value(row.contrast.expects),
            "p_adjusted": row.p_adjusted if row.is_corrected(finding.claim) else float("nan"),
            "expects": row.contrast.expects,
            "smallest_effect": row.contrast.smallest_effect,
            "verdict": row.verdict,
            "verdict_by_t": row.verdict_by_t,
        }
        for finding in findings
        for row in finding.rows
    ]


def measures(runs: Sequence[Run], references: References) -> Rows:
    """List what each run is compared by, seed by seed: all that the verdicts rest on."""
    return [
        {
            "regime": run.cell.regime,
            "order": order_as_text(run.cell.order),
            "architecture": run.cell.architecture.name,
            "seed": run.cell.seed,
            "measure": name,
            "game": game,
            "value": value,
        }
        for name in MEASURES
        for run in runs
        for game, value in measure(name, run, references).items()
        if np.isfinite(value)
    ]


def tensors(runs: Sequence[Run]) -> dict[str, npt.NDArray[Any]]:
    """Stack the return of every episode, for S seeds, K evaluations, N games and E episodes.

    :return: for each regime, order and architecture ``<them>/returns`` (S, K, N, E), ``.../steps``
        (K,) and ``.../seeds`` (S,), of the steps at which all seeds were evaluated; and ``games``
        (N,)
    """
    arrays: dict[str, npt.NDArray[Any]] = {"games": np.array(runs[0].cell.games)}
    for (regime, order, architecture), members in grouped(runs).items():
        name = "/".join(word for word in (regime, ".".join(order), architecture) if word)
        steps, returns = on_shared_steps([(run.steps, run.scores["returns"]) for run in members])
        arrays[f"{name}/returns"], arrays[f"{name}/steps"] = returns, steps
        arrays[f"{name}/seeds"] = np.array([run.cell.seed for run in members])
    return arrays


def scores(runs: Sequence[Run]) -> Rows:
    """List the mean return of every seed, evaluation and game."""
    return [row for run in runs for row in _score_rows(run)]


def _score_rows(run: Run) -> Iterator[dict[str, Any]]:
    cell = run.cell
    for game in cell.games:
        for step, value in zip(run.steps, run.returns(game), strict=True):
            yield {
                "regime": cell.regime,
                "order": order_as_text(cell.order),
                "architecture": cell.architecture.name,
                "seed": cell.seed,
                "game": game,
                "step": int(step),
                "return": float(value),
            }


def to_csv(rows: Rows) -> str:
    """Write rows as CSV, numbers with six significant digits."""
    names = list(rows[0]) if rows else []
    lines = [[_cell(row[name]) for name in names] for row in rows]
    return "".join(f"{_line(fields)}\n" for fields in ([names, *lines] if rows else []))


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(path: Path) -> list[Text]:
    """Read what :func:`write_csv` wrote, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, rows: Rows) -> None:
    """Write a table in one piece."""
    with atomic(path) as temporary:
        temporary.write_text(to_csv(rows), encoding="utf-8")
