"""The page's one script, and what keeps all else from running or loading."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from sb3_moe.saving.files import digest_of

_TEMPLATES = files("sb3_moe.study.report").joinpath("templates")
_PARTS = ("looks", "lines", "dots", "controls")


@cache
def script() -> str:
    """Join uPlot, which draws lines, and our own parts."""
    library = _TEMPLATES.joinpath("uplot", "uPlot.iife.min.js").read_text("utf-8")
    own = "\n".join(_TEMPLATES.joinpath("script", f"{n}.js").read_text("utf-8") for n in _PARTS)
    return f'{library}\n(() => {{\n"use strict";\n{own}\n}})();\n'


def policy() -> str:
    """Let the browser run this script alone, and load nothing from anywhere."""
    return (
        f"default-src 'none'; script-src 'sha256-{digest_of(script())}'; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
