"""A page in one file: sections of text, tables and pictures, readable on a phone and in print."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0; }
main { max-width: 68rem; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.6rem; font-size: 1.3rem; }
p, li { max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .8rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: left; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
td.short { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #444; max-width: 44rem; }
.verdict { font-weight: 600; white-space: nowrap; }
.supported { color: #00664a; } .contradicted { color: #a33c00; } .undecided { color: #555; }
code, pre { font-size: .85rem; background: #f4f4f4; }
pre { padding: .8rem; overflow-x: auto; }
@media (max-width: 30rem) { body { font-size: 15px; } main { padding: .8rem .7rem 3rem; } }
"""

VERDICTS = ("supported", "contradicted", "undecided")


class Page:
    """Collect a page's parts in order.

    :param title: shown at the top and in the browser's tab
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = [f"<h1>{escape(title)}</h1>"]

    def section(self, heading: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")

    def text(self, *paragraphs: str) -> None:
        """Add paragraphs of plain text."""
        self._parts += [f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs]

    def items(self, items: Sequence[str]) -> None:
        """Add a list."""
        self._parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")

    def code(self, text: str) -> None:
        """Add preformatted text."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, rows: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> None:
        """Add a table.

        :param rows: what to show
        :param headings: which entries of a row become columns, and what they are called
        """
        head = "".join(f"<th>{escape(text)}</th>" for text in headings.values())
        body = "".join(
            "<tr>" + "".join(_field(row[key]) for key in headings) + "</tr>" for row in rows
        )
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def picture(self, png: bytes, caption: str) -> None:
        """Add a picture, inside the page, with a caption that also serves those who can't see."""
        data = base64.b64encode(png).decode()
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """Give the page."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            # An icon inside the page: a browser would ask for a file that isn't there.
            '<link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head>\n"
            "<body><main>\n" + "\n".join(self._parts) + "\n</main></body></html>\n"
        )


def _field(value: Any) -> str:
    if value in VERDICTS:
        return f'<td class="verdict {value}">{value}</td>'
    if isinstance(value, float):
        return f'<td class="number">{number(value)}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    text = str(value)
    if text[:1] in tuple("-0123456789") and "[" in text:
        return f'<td class="number">{escape(text)}</td>'
    # Names stay on one line; sentences may break.
    short = ' class="short"' if len(text) < 25 else ""
    return f"<td{short}>{escape(text)}</td>"


def number(value: float) -> str:
    """Write a number with up to three significant digits, a dash for none."""
    # As the CSV files have it, so that both round alike.
    value = float(f"{value:.6g}")
    if value != value:
        return "-"
    if 0 < abs(value) < 0.005:
        return f"{value:.1g}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def interval(mean: float, low: float, high: float) -> str:
    """Write a number and its interval; the number alone where there is none."""
    return number(mean) if low != low else f"{number(mean)} [{number(low)}, {number(high)}]"


def png_of(figure: Figure, dpi: int = 130) -> bytes:
    """Draw a figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
