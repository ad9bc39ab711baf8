"""The headline of a report as Markdown tables, from the report's CSV files alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from sb3_moe.study.architectures import title
from sb3_moe.study.page import interval
from sb3_moe.study.tables import Text, read_csv


def claims_table(folder: Path) -> str:
    """Tabulate each claim with its verdict and the primary differences that it rests on.

    :param folder: a report's, with ``verdicts.csv``
    """
    claims: dict[str, list[Text]] = {}
    for row in read_csv(folder / "verdicts.csv"):
        if row["primary"] == "True":
            claims.setdefault(row["text"], []).append(row)
    return markdown(
        ["Claim", "Difference, with its 95% bootstrap interval", "Verdict", "By t intervals"],
        [
            [
                text,
                "<br>".join(_differences(rows)),
                f"**{rows[0]['claim_verdict']}**",
                rows[0]["claim_verdict_by_t"],
            ]
            for text, rows in claims.items()
        ],
    )


def returns_table(folder: Path) -> str:
    """Tabulate what each network reached on games interleaved, and first and last in a sequence.

    :param folder: a report's, with ``summary.csv``
    """
    networks: dict[str, dict[str, str]] = {}
    for row in read_csv(folder / "summary.csv"):
        order = row["order"].split()
        if row["regime"] == "mtrl":
            column = f"{row['game']}, interleaved"
        elif row["regime"] == "crl" and row["game"] == order[0]:
            column = f"{row['game']} first"
        elif row["regime"] == "crl" and row["game"] == order[-1]:
            column = f"{row['game']} after {', '.join(order[:-1])}"
        else:
            continue
        mean, low, high = (float(row[name]) for name in ("return", "low", "high"))
        networks.setdefault(row["architecture"], {})[column] = interval(mean, low, high)
    columns = list(dict.fromkeys(column for row in networks.values() for column in row))
    return markdown(
        ["Network", *columns],
        [
            [title(name), *(row.get(column, "-") for column in columns)]
            for name, row in networks.items()
        ],
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _differences(rows: Sequence[Text]) -> Iterator[str]:
    """Say which runs are compared, on what, and the difference on each game."""
    for (contrast, measure), games in groupby(rows, itemgetter("contrast", "measure")):
        yield f"{contrast}, {measure.replace('_', ' ')}:"
        for row in games:
            mean, low, high = (float(row[name]) for name in ("difference", "low", "high"))
            yield f"{row['game']} {interval(mean, low, high)}"
