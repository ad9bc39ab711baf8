"""Fill in the templates; every name and sentence of a study's own is escaped for where it stands.

``*.html.j2`` are escaped by Jinja, ``*.md.j2`` by the filter ``md``; ``*.txt.j2`` are plain
sentences that the other two share, and escape.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_moe.study.report.headline import as_written
from sb3_moe.study.report.page import columns_of_numbers, field, ground, number, percent


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("sb3_moe.study.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "columns_of_numbers": columns_of_numbers,
        "field": field,
        "ground": ground,
        "md": as_written,
        "number": number,
        "percent": percent,
    }
    return found


def render(template: str, **context: Any) -> str:
    """Fill in a template."""
    return _environment().get_template(template).render(context)


def sentences(template: str, **context: Any) -> list[str]:
    """Fill in a plain template, and give its paragraphs, a line each."""
    paragraphs = render(template, **context).split("\n\n")
    return [" ".join(part.split()) for part in paragraphs if part.strip()]
