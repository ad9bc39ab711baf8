"""Read a study's YAML, find what it names, and say which entries don't fit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, fields
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass

T = TypeVar("T")

#: Of every dataclass into which a study's file is read.
STRICT = ConfigDict(extra="forbid")
_FLOAT = "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, but a key stands once, numbers are finite, and ``1e6`` is a whole one."""

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
    if not math.isfinite(value):
        problem = f"numbers must be finite, got {node.value}"
        raise yaml.MarkedYAMLError(None, None, problem, node.start_mark)
    return int(value) if "e" in node.value.lower() and value.is_integer() else value


_Loader.add_constructor(_FLOAT, _number)
_Loader.add_implicit_resolver(
    _FLOAT, re.compile(r"[-+]?\d[\d_]*(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """Read YAML.

    :raises ValueError: with line and column if it can't be read
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the YAML can't be read: {' '.join(str(error).split())}") from error


def typed(kind: type[T], values: Any, context: Any = None, where: str = "") -> T:
    """Build a dataclass, and those within it, from what YAML gave.

    :param kind: the dataclass
    :param values: of its fields
    :param context: what its validators are told
    :param where: the entry that holds the values
    :raises ValueError: naming every entry that is missing, unknown or of another type
    """
    # From JSON, strictly: lists may become tuples and mappings dataclasses, but 1 not true.
    text = json.dumps(values, default=str)
    try:
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid", context=context)
    except ValidationError as error:
        known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # it is a dataclass
        raise ValueError(in_words(error, where, known)) from error


def in_words(error: ValidationError, where: str = "", known: Iterable[str] = ()) -> str:
    """Say what pydantic found, a line for each entry.

    :param error: what it raised
    :param where: the entry that holds what was refused
    :param known: the entries that there are, for hints at misspelled ones
    """
    lines = []
    for each in error.errors(include_url=False):
        if each["type"] == "too_short" and each["ctx"]["actual_length"] < len(each["input"]):
            continue  # its items are wrong, of which others tell
        path = ".".join(map(str, (where, *each["loc"]) if where else each["loc"]))
        if each["type"] == "value_error":
            lines.append(str(each["ctx"]["error"]))
        elif each["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            near = hint(str(each["loc"][-1]), known) if len(each["loc"]) == 1 else ""
            lines.append(f"there is no entry `{path}`{near}")
        elif each["type"] == "missing":
            lines.append(f"`{path}` must be given")
        else:
            rule = each["msg"].replace("Input should", "must")
            lines.append(f"`{path}` {rule}, got {each['input']!r}")
    return "\n".join(dict.fromkeys(lines))


def hint(name: str, known: Iterable[str]) -> str:
    """Say which known name was meant, or which there are."""
    close = get_close_matches(name, known, 1)
    return f"; did you mean `{close[0]}`?" if close else f"; there are {', '.join(sorted(known))}"


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Write nested mappings as one, with dots between keys; empty entries are left out."""
    if not isinstance(values, Mapping):
        text = ", ".join(map(str, values)) if isinstance(values, list | tuple) else values
        return {} if text in (None, "") else {prefix: text}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Named:
    """A class by its name, and what it is built with.

    :param name: of this package or SB3, or ``package.module:Class``
    :param arguments: of its constructor, plain values; see :func:`resolved`
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def class_of(self, base: type, where: str, *modules: str) -> type[Any]:
        """Give the class.

        :param base: what it must be a class of
        :param where: the entry that names it
        :param modules: whose classes need no module before their names
        :raises ValueError: if there is none, or it is another kind of class
        """
        everything = {k: v for module in modules for k, v in vars(import_module(module)).items()}
        kinds = {k: v for k, v in everything.items() if isinstance(v, type) and issubclass(v, base)}
        if ":" not in self.name and self.name not in kinds:
            rule = f"`{where}` must be a name that is known or `package.module:Class`"
            raise ValueError(f"{rule}, got {self.name!r}{hint(self.name, kinds)}")
        found = kinds.get(self.name) or imported(self.name, where)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise ValueError(f"`{where}` must be a class of {base.__name__}, got {self.name!r}")
        return found


def _in_full(value: Any) -> Any:
    """Read ``Cycle`` or ``{Cycle: {num_cycles: 2}}``."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
        ((name, arguments),) = value.items()
        return {"name": name, "arguments": arguments or {}}
    return value


#: An entry of a study that names a class.
NamedEntry = Annotated[
    Named, BeforeValidator(_in_full), WithJsonSchema({"type": ["string", "object"]})
]


def imported(reference: str, where: str) -> Any:
    """Import what ``package.module:name`` stands for.

    :param where: the entry that holds it
    :raises ValueError: if there is no such module or name in it
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # a module may raise anything while it is imported
        rule = f"`{where}` must be `package.module:name`, got {reference!r}"
        raise ValueError(f"{rule}: {error}") from error


def resolved(value: Any, where: str, name: str = "") -> Any:
    """Give an argument of a file, or a mapping of them, as code takes it.

    ``package.module:Class`` becomes that class where SB3 calls the argument ``..._class`` or
    ``..._fn``; a mapping of one ``package.module:Class`` to its arguments becomes an instance.

    :param where: the entry that holds it
    :param name: of the argument
    :raises ValueError: if there is no such class, or it can't be built
    """
    if isinstance(value, str) and ":" in value and name.endswith(("_class", "_fn")):
        return imported(value, where)
    if not isinstance(value, Mapping):
        return value
    reference = str(next(iter(value), ""))
    if len(value) != 1 or ":" not in reference:
        return {key: resolved(each, f"{where}.{key}", key) for key, each in value.items()}
    kind = imported(reference, where)
    try:
        return kind(**resolved(value[reference] or {}, where))
    except Exception as error:  # as its constructor likes
        raise ValueError(f"`{where}` can't be built from {value!r}: {error}") from error


def arguments_for(call: Callable[..., Any], values: Any, where: str) -> dict[str, Any]:
    """Give arguments of a file as a function or class takes them.

    :param where: the entry that holds them
    :raises ValueError: if one is unknown
    """
    found: dict[str, Any] = resolved(values, where)
    try:
        signature(call).bind_partial(**found)
    except TypeError as error:
        known = ", ".join(signature(call).parameters)
        raise ValueError(f"`{where}`: {error}; there are {known}") from error
    return found
