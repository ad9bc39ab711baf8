"""What may stand in a page of HTML that holds data and a script."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

# What would end the element that holds the data. JSON in ASCII has escaped all others.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def embedded(value: Any) -> str:
    """Write JSON that can stand in a script element, whatever its texts are.

    :raises ValueError: if a number is none, which no browser reads
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign, escape in ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def digest_of(text: str) -> str:
    """Return what a page's policy knows a script or style by: its SHA-256 in base 64."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
