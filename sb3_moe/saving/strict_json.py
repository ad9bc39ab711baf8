"""JSON that is checked while it is read: no NaN, no huge numbers, no key twice, not deep."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from sb3_moe.saving.errors import UnsafeFileError

MAX_DEPTH = 64
MAX_INT = 2**63


def dumps(value: Any) -> bytes:
    """Write plain values; NaN and infinity are no JSON.

    :param value: dicts, lists, texts, numbers, bools and None
    """
    return json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1).encode()


def loads(data: bytes, what: str) -> Any:
    """Read plain values.

    :param data: UTF-8
    :param what: the part of the file, for errors
    :raises UnsafeFileError: if it isn't JSON as :func:`dumps` writes it
    """
    try:
        value = json.loads(
            data.decode(),
            parse_float=_finite,
            parse_int=_bounded,
            parse_constant=_no_constant,
            object_pairs_hook=_unique,
        )
        if b"\\u" in data:
            dumps(value)  # an escape may be half a character, which no UTF-8 has
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{what} {error}") from error
    except RecursionError as error:
        raise UnsafeFileError(f"{what} is nested deeper than {MAX_DEPTH}") from error
    except ValueError as error:
        raise UnsafeFileError(f"{what} is not JSON ({error})") from error
    _check_depth(value, what)
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise UnsafeFileError(f"holds a number that is too large, {text[:20]}")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= MAX_INT:
        raise UnsafeFileError(f"holds a number that is too large, {text[:20]}")
    return value


def _no_constant(text: str) -> NoReturn:
    raise UnsafeFileError(f"holds {text}, which is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnsafeFileError("holds a key twice")
    return found


def _check_depth(value: Any, what: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    raise UnsafeFileError(f"{what} is nested deeper than {MAX_DEPTH}")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
