"""Arguments from a file, checked by the signature of what takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from sb3_moe.study.spec.entries import hint, in_words


def parameters_of(call: Callable[..., Any]) -> dict[str, Parameter]:
    """Give the parameters of a function or class by name, with their types as annotations.

    Where a class takes ``**kwargs``, they are those of the class behind it.
    """
    found: dict[str, Parameter] = {}
    for each in _constructors(call):
        types, parameters = _types(each), signature(each).parameters.values()
        for parameter in parameters:
            if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                kind = types.get(parameter.name, parameter.annotation)
                found.setdefault(parameter.name, parameter.replace(annotation=kind))
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
            break
    found.pop("self", None)
    return found


def _constructors(call: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if not isinstance(call, type):
        yield call
        return
    for base in call.__mro__[:-1]:
        if "__init__" in vars(base):
            yield vars(base)["__init__"]


def _types(call: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(call)
    except Exception:  # names that are there for type checkers only
        return {}


def check_arguments(
    call: Callable[..., Any], arguments: Mapping[str, Any], where: str, own: Sequence[str] = ()
) -> None:
    """Raise unless a function or class takes the arguments, and misses none.

    :param where: the entry that holds them
    :param own: parameters that are given to it besides, and so not by the file
    :raises ValueError: naming each entry that is unknown, missing, or not what it must be
    """
    if not isinstance(arguments, Mapping):
        raise ValueError(f"`{where}` must be a mapping, got {arguments!r}")
    known = {name: p for name, p in parameters_of(call).items() if name not in own}
    lines = [
        f"`{where}.{name}` must be given"
        for name, parameter in known.items()
        if parameter.default is Parameter.empty and name not in arguments
    ]
    for name, value in arguments.items():
        if name not in known:
            lines.append(f"there is no entry `{where}.{name}`{hint(name, known)}")
            continue
        try:
            as_declared(known[name], value)
        except ValidationError as error:
            lines.append(in_words(error, None, value, f"{where}.{name}"))
    if lines:
        raise ValueError("\n".join(lines))


def as_declared(parameter: Parameter, value: Any) -> Any:
    """Give a value the type that a parameter has: YAML's lists may be tuples.

    :raises pydantic.ValidationError: if it is of another type
    """
    adapter = _adapter(parameter.annotation)
    if adapter is None:
        return value
    try:
        text = json.dumps(value)
    except TypeError:  # a class, or an object that was built
        return adapter.validate_python(value, strict=True)
    # In JSON, strictly: lists may become tuples, but 1 not true.
    found = adapter.validate_json(text, strict=True)
    return found if isinstance(value, list | tuple) else value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    """Give what checks a type; None where there is nothing to check."""
    if kind is Parameter.empty or isinstance(kind, str):
        return None
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # a type that brings its own configuration
        return None
