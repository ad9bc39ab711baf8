"""The page's one script, and what keeps all else from running or loading."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

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
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def embedded(values: Any) -> str:
    """Write values as JSON that nothing in them can end."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
