"""The headline of a report as Markdown tables, from the report's CSV files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType

from sb3_moe.study.report.measures import shown
from sb3_moe.study.report.page import interval, percent
from sb3_moe.study.report.tables import Text, order_of, read_csv
from sb3_moe.study.report.verdict import Rule
from sb3_moe.study.spec.architectures import titles

#: By the name and the text of a claim, which of its comparisons have no value.
Untested = Mapping[tuple[str, str], Sequence[str]]
#: The rule of a study that says nothing of it.
USUAL = Rule()
#: In place of a verdict.
UNTESTED = "not tested in this study"
#: The longest sequence whose games a heading names.
NAMED = 3


def claims_table(
    folder: Path, rule: Rule = USUAL, untested: Untested = MappingProxyType({})
) -> str:
    """Tabulate each claim with its verdict and the primary differences that it rests on.

    Where seeds are paired, also with its verdict by t intervals, since bootstrap ones are narrow.

    :param folder: a report's, with ``verdicts.csv``
    :param rule: that the verdicts there follow
    :param untested: comparisons without a value, by the name and the text of their claim
    """
    claims: dict[tuple[str, str], list[Text]] = {}
    path = folder / "verdicts.csv"
    for row in read_csv(path) if path.exists() or not untested else ():
        if row["primary"] == "True":
            claims.setdefault((row["claim"], row["text"]), []).append(row)
    difference = f"Difference, with its {percent(rule.interval)} {rule.kind} interval"
    return markdown(
        ["Claim", difference, "Verdict", *(["By t intervals"] if rule.paired else [])],
        [
            [
                as_written(claim[1]),
                "<br>".join([*_differences(rows), *_not_tested(untested.get(claim, ()))]),
                f"**{rows[0]['claim_verdict']}**",
                *([rows[0]["claim_verdict_by_t"]] if rule.paired else []),
            ]
            for claim, rows in claims.items()
        ]
        + [
            [as_written(claim[1]), "-", UNTESTED, *(["-"] if rule.paired else [])]
            for claim in untested
            if claim not in claims
        ],
    )


def returns_table(folder: Path, cycles: int = 1) -> str:
    """Tabulate what each network reached on each game, by what came before it.

    Of several orders with the same before it, the one with the most seeds counts, or the first.
    Where networks, or their returns, are of different numbers of seeds the last column has these.

    :param folder: a report's, with ``summary.csv``
    :param cycles: how often each sequence of games was played through
    """
    networks: dict[str, dict[str, tuple[int, str]]] = {}
    summary = read_csv(folder / "summary.csv")
    orders = list(dict.fromkeys(row["order"] for row in summary if row["regime"] == "crl"))
    for row in summary:
        column = as_written(_column(row, cycles, orders))
        mean, low, high = (float(row[name]) for name in ("return", "low", "high"))
        reached = networks.setdefault(row["architecture"], {})
        seeds = int(row["seeds"])
        if column not in reached or seeds > reached[column][0]:
            reached[column] = seeds, interval(mean, low, high)
    columns = list(dict.fromkeys(column for row in networks.values() for column in row))
    called = titles(networks)
    counts = {name: [seeds for seeds, _ in row.values()] for name, row in networks.items()}
    uneven = len(set().union(*counts.values())) > 1
    return markdown(
        ["Network", *columns, *(["Seeds"] if uneven else [])],
        [
            [
                as_written(called[name]),
                *(row.get(column, (0, "-"))[1] for column in columns),
                *([_range(counts[name])] if uneven else []),
            ]
            for name, row in networks.items()
        ],
    )


def _range(counts: Sequence[int]) -> str:
    """Write how many there are: one number, or the least and the most."""
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _column(row: Text, cycles: int, orders: Sequence[str]) -> str:
    """Say which training a return is from: the last of a game that is played several times.

    In a short sequence by what came before, in a longer one by its place.
    """
    game = row["game"]
    if row["regime"] != "crl":
        return game + {"mtrl": ", interleaved", "scratch": " alone", "schedule": ""}[row["regime"]]
    sequence = order_of(row["order"]) * cycles
    last = max(k for k, played in enumerate(sequence) if played == game)
    if len(sequence) > NAMED:
        which = f" of order {orders.index(row['order']) + 1}" if len(orders) > 1 else ""
        return f"{game}, block {last + 1} of {len(sequence)}{which}"
    return f"{game} after {', '.join(sequence[:last])}" if last else f"{game} first"


def as_written(text: str) -> str:
    """Keep a reader of Markdown from taking a text's characters or lines for marks of its own."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", " ".join(text.split()))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _not_tested(comparisons: Sequence[str]) -> list[str]:
    return [f"{as_written(each)}: not tested" for each in comparisons]


def _differences(rows: Sequence[Text]) -> Iterator[str]:
    """Say which runs are compared, on what, and the difference on each game."""
    for (contrast, measure), games in groupby(rows, itemgetter("contrast", "measure")):
        yield f"{as_written(contrast)}, {measure.replace('_', ' ')}:"
        for row in games:
            mean, low, high = (float(row[name]) for name in ("difference", "low", "high"))
            yield f"{as_written(shown(row['game']))} {interval(mean, low, high)}"
