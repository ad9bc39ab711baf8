"""Read YAML into the types that our dataclasses declare, and say in words what doesn't fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T")

# A few lines of references to references can stand for more than fits into memory.
_MOST_ENTRIES = 100_000
_TEXT, _MERGE, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("str", "merge", "float"))


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, but keys are text and stand once, and ``1e6`` is a number (YAML 1.2)."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Refuse keys that PyYAML takes: the last of two would hide the other."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in (_TEXT, _MERGE):
                raise yaml.MarkedYAMLError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                problem = f"there are two entries {key.value!r}"
                raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    """Give 1e6 as a whole number: steps are written so."""
    value = loader.construct_yaml_float(node)
    return int(value) if "e" in node.value.lower() and value.is_integer() else value


_Loader.add_constructor(_FLOAT, _number)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Read YAML that means what it seems to.

    :raises ValueError: saying where and why it can't be read
    """
    values = _loaded(text)
    if (count := _unfolded(values, {})) > _MOST_ENTRIES:
        raise ValueError(
            f"the YAML can't be read: its references unfold to {count:,} entries, and at most "
            f"{_MOST_ENTRIES:,} are taken"
        )
    return values


def _unfolded(value: Any, counts: dict[int, int]) -> int:
    """Count entries as they are once every reference (``*name``) is written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in counts:
        counts[id(value)] = 1  # what holds itself is refused later, when it is written as JSON
        inside = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_unfolded(each, counts) for each in inside)
    return counts[id(value)]


def _loaded(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"the YAML can't be read: {where}{error.problem}") from error
    except Exception as error:  # PyYAML lets a KeyError out for `!!bool x`, and others
        raise ValueError(f"the YAML can't be read: {error}") from error


def typed(kind: type[T], values: Mapping[str, Any]) -> T:
    """Build a dataclass, and those within it, from what YAML gave.

    :param kind: the dataclass
    :param values: of its fields
    :raises ValueError: naming every entry that is missing, unknown or of another type
    """
    try:
        # In JSON, strictly: lists may become tuples and mappings dataclasses, but 1 not true.
        text = json.dumps(values, default=str)
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(in_words(error, kind, values)) from error


_RULES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "needs_python_object": "an object, `{package.module:Class: {argument: value}}`, or where it "
    "ends in `_class` a class, `package.module:Class`",
}


def in_words(error: ValidationError, kind: Any, values: Any, where: str = "") -> str:
    """Say what pydantic found, a line for each entry.

    :param error: what it raised
    :param kind: the type that ``values`` should have had
    :param where: the entry that holds ``values``
    """
    rules: dict[tuple[str, str], list[str]] = {}
    for detail in error.errors(include_url=False):
        before, rule, after = _line(detail, kind, values, where)
        rules.setdefault((before, after), []).append(rule)
    # A union has a rule for each of its types.
    return "\n".join(before + " or ".join(each) + after for (before, after), each in rules.items())


def _line(detail: ErrorDetails, kind: Any, values: Any, where: str) -> tuple[str, str, str]:
    """Give the line about an entry: what stands before the rule, the rule, what stands after."""
    loc, path = detail["loc"], _path(detail["loc"], values, where)
    match detail["type"]:
        case "value_error":
            return str(detail["ctx"]["error"]), "", ""
        case "missing":
            return f"`{f'{path}.{loc[-1]}'.removeprefix('.')}` must be given", "", ""
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = _names(kind, loc[:-1])
            return f"there is no entry `{path}`{hint(str(loc[-1]), known)}", "", ""
        case name:
            rule = _RULES.get(name, detail["msg"].removeprefix("Input should be "))
            return f"`{path}` must be ", rule, f", got {detail['input']!r}"


def _path(loc: Iterable[int | str], values: Any, where: str) -> str:
    """Write the way to an entry as it stands in the file, an architecture by its name."""
    for part in loc:
        if isinstance(values, list | tuple) and isinstance(part, int):
            values = values[part]
            named = isinstance(values, Mapping) and "name" in values
            where += f".{values['name']}" if named else f"[{part}]"
        elif isinstance(values, Mapping) and part in values:
            values = values[part]
            where += f".{part}"
    return where.removeprefix(".")


def _names(kind: Any, loc: Iterable[int | str]) -> list[str]:
    """List the entries that a dataclass has, or one within it; those with `_` are no file's."""
    for part in loc:
        kind = get_args(kind)[0] if isinstance(part, int) else get_type_hints(kind)[part]
    return [name for name in get_type_hints(kind) if not name.startswith("_")]


def hint(name: str, known: Iterable[str]) -> str:
    """Say which known name was meant, or which there are."""
    known = sorted(known)
    close = get_close_matches(name, known, 1)
    return f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(known)}"
