"""The page of a report, and its headline as Markdown: tables and figures, no composed sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_moe.study.claims import Claims
from sb3_moe.study.report.figures import CURVES, REGIMES
from sb3_moe.study.report.measures import MEASURES, WHOLE
from sb3_moe.study.report.results import Results


def number(value: float) -> str:
    """Write a number with two or three significant digits, a dash for none."""
    if value != value:
        return "-"
    if 0 < abs(value) < 0.1:
        return f"{value:#.2g}"
    decimals = 2 - int(abs(value) >= 10) - int(abs(value) >= 100)
    return f"{value:,.{decimals}f}"


def interval(mean: float, low: float, high: float) -> str:
    """Write a number and its interval; the number alone where there is none.

    Beside one that is 0.1 or more, nobody needs more than the hundredths of the others.
    """
    if low != low:
        return number(mean)
    values = (mean, low, high)
    small = max(map(abs, values)) >= 0.1
    texts = [f"{v:.2f}" if small and 0.005 <= abs(v) < 0.1 else number(v) for v in values]
    return "{} [{}, {}]".format(*texts)


def build_pages(
    results: Results, claims: Claims, verdicts: pd.DataFrame, summary: pd.DataFrame, **context: Any
) -> tuple[str, str]:
    """Write the page as HTML, and its headline as Markdown for those who browse the folder.

    :param verdicts: see :func:`~sb3_moe.study.report.judging.judge`
    :param summary: see :func:`~sb3_moe.study.report.judging.summarize`
    :param context: ``figures`` by name, as SVG in base 64; ``files`` that lie beside the page;
        ``replays``, addresses of networks at play by their names
    """
    study = results.study
    by_claim = verdicts.groupby("claim", sort=False) if len(verdicts) else ()
    configuration = study.to_dict()
    del configuration["about"]
    context |= {
        "results": results,
        "study": study,
        "title": study.about.title or f"{study.name}: {study.algorithm}, {', '.join(study.games)}",
        "rule": claims.rule,
        "coverage": f"{100 * claims.rule.interval:g}%",
        "units": claims.units,
        "claims": [rows.to_dict("records") for _, rows in by_claim],
        "tables": list(_tables(results, summary)),
        "curves": CURVES,
        "protocol": study.claims.read_text(encoding="utf-8") if study.claims else "",
        "networks": _side_by_side({a["name"]: a for a in configuration.pop("architectures")}),
        "configuration": _flat(configuration),
        "arguments": _side_by_side(results.arguments),
    }
    names = ("page.html.j2", "README.md.j2")
    page, readme = (_environment().get_template(name).render(context) for name in names)
    return page, readme


def _tables(results: Results, summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give a table of networks by tasks for each measure and regime."""
    groups: Any = summary.groupby(["measure", "regime"], sort=False)
    for (measure, regime), rows in groups:
        networks: dict[str, dict[str, Any]] = {}
        for row in rows.to_dict("records"):
            networks.setdefault(row["architecture"], {})[row["task"]] = row
        yield {
            "measure": measure,
            "meaning": MEASURES[measure].meaning,
            "regime": REGIMES[regime],
            # What answers a study's question at a glance; the others are further down the page.
            "is_first": measure in ("block_end", "success")
            or (measure == "final" and regime in ("crl", "schedule")),
            "tasks": [t for t in (WHOLE, *results.study.games) if t in set(rows["task"])],
            "networks": networks,
            "random": results.random if measure in ("block_end", "final", "area") else {},
        }


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested mappings as one, with dots between keys; empty entries are left out."""
    if not isinstance(values, Mapping):
        text = ", ".join(map(str, values)) if isinstance(values, list) else values
        return {} if text in (None, "") else {prefix: text}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _side_by_side(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give each entry that any network has, with its value by network."""
    columns = {name: _flat(values) for name, values in networks.items()}
    entries = dict.fromkeys(key for column in columns.values() for key in column)
    return {key: {name: column.get(key, "") for name, column in columns.items()} for key in entries}


def _as_markdown(text: Any) -> str:
    """Keep a reader of Markdown from taking a text's characters or lines for its own marks."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", " ".join(str(text).split()))


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("sb3_moe.study.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    percent = "{:g}%".format
    found.filters |= {
        "flat": _flat,
        "number": number,
        "md": _as_markdown,
        "percent": lambda x: percent(100 * x),
    }
    found.globals["interval"] = interval
    return found
