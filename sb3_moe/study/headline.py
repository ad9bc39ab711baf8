"""The headline of a report as Markdown tables, from the report's CSV files alone."""

from __future__ import annotations

from collections.abc import Sequence
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
                "<br>".join(map(_difference, rows)),
                f"**{rows[0]['claim_verdict']}**",
                rows[0]["claim_verdict_by_t"],
            ]
            for text, rows in claims.items()
        ],
    )


def returns_table(folder: Path) -> str:
    """Tabulate what each network reached on games interleaved, and on the last of a sequence.

    :param folder: a report's, with ``summary.csv``
    """
    networks: dict[str, dict[str, str]] = {}
    for row in read_csv(folder / "summary.csv"):
        order = row["order"].split()
        if row["regime"] == "mtrl":
            column = f"{row['game']}, interleaved"
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


def _difference(row: Text) -> str:
    mean, low, high = (float(row[name]) for name in ("difference", "low", "high"))
    measure = row["measure"].replace("_", " ")
    return f"{measure}, {row['game']}: {interval(mean, low, high)}"
