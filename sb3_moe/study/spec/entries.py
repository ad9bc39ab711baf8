"""Read YAML without its surprises, and say in words which entries pydantic refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, but a key may stand only once, and ``1e6`` is a whole number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse a key that is there twice: PyYAML would drop the first without a word."""
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value]
        for position, (key, _) in enumerate(node.value):
            if key.value in keys[:position]:
                problem = f"there are two entries {key.value!r}"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
        return node


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    value = loader.construct_yaml_float(node)
    return int(value) if "e" in node.value.lower() and value.is_integer() else value


_FLOAT = "tag:yaml.org,2002:float"
_Loader.add_constructor(_FLOAT, _number)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Read YAML.

    :raises ValueError: with line and column if it can't be read, or naming the entry whose number
        isn't finite
    """
    try:
        values = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"the YAML can't be read: {where}{error.problem}") from error
    except (yaml.YAMLError, KeyError, ValueError) as error:
        raise ValueError(f"the YAML can't be read: {error}") from error
    _check_finite(values, "")
    return values


def _check_finite(value: Any, where: str) -> None:
    """Refuse ``.nan``, which differs from itself, and ``.inf``: JSON can't hold them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{where}` must be finite, got {value}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{where}.{key}".removeprefix("."))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check_finite(item, f"{where}[{position}]")


def typed(kind: type[T], values: Mapping[str, Any], context: Any = None) -> T:
    """Build a dataclass, and those within it, from what YAML gave.

    :param kind: the dataclass
    :param values: of its fields
    :param context: what its validators are told
    :raises ValueError: naming every entry that is missing, unknown or of another type
    """
    try:
        # From JSON, strictly: lists may become tuples and mappings dataclasses, but 1 not true.
        text = json.dumps(values, default=str)
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid", context=context)
    except ValidationError as error:
        raise ValueError(in_words(error, known=names_of(kind))) from error


def names_of(kind: Any) -> list[str]:
    """List the entries of a dataclass."""
    return [each.name for each in fields(kind)] if is_dataclass(kind) else []


# What pydantic writes into the way to a value that may be of several types.
_TYPES = ("str", "int", "float", "bool", "callable", "literal")
_RULES = {
    "float_parsing": "be a number",
    "float_type": "be a number",
    "int_type": "be a whole number",
    "int_from_float": "be a whole number",
    "bool_type": "be true or false",
    "string_type": "be text",
    "tuple_type": "be a list",
    "dict_type": "be a mapping",
    "dataclass_type": "be a mapping",
}


def in_words(error: ValidationError, where: str = "", known: Iterable[str] = ()) -> str:
    """Say what pydantic found, a line for each entry.

    :param error: what it raised
    :param where: the entry that holds what was refused
    :param known: the entries that there are, for hints at misspelled ones
    """
    lines: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        path = where
        for part in detail["loc"]:
            if isinstance(part, int):
                path += f"[{part}]"
            elif part not in _TYPES and "[" not in part:
                path += f".{part}"
        path = path.removeprefix(".")
        match detail["type"]:
            case "value_error":
                lines[str(detail["ctx"]["error"])] = ""
            case "missing":
                lines[f"`{path}` must be given"] = ""
            case "unexpected_keyword_argument" | "extra_forbidden":
                near = hint(str(detail["loc"][-1]), known) if len(detail["loc"]) == 1 else ""
                lines[f"there is no entry `{path}`{near}"] = ""
            case kind:
                rule = _RULES.get(kind) or re.sub(r"^\w+ should ", "", detail["msg"])
                begun = lines.get(f"`{path}` must ")
                # A union has a rule for each of its types.
                rule = f"{begun.partition(', got ')[0]} or {rule}" if begun else rule
                lines[f"`{path}` must "] = f"{rule}, got {detail['input']!r}"
    return "\n".join(before + after for before, after in lines.items())


def hint(name: str, known: Iterable[str]) -> str:
    """Say which known name was meant, or which there are."""
    known = sorted(known)
    close = get_close_matches(name, known, 1)
    return f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(known)}"
