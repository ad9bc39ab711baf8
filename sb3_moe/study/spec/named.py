"""What a study's file names: a class with its arguments, ours by name, anyone's by its module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from importlib import import_module
from inspect import Parameter, signature
from typing import Annotated, Any, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    create_model,
)
from pydantic.dataclasses import dataclass

from sb3_moe.study.spec.entries import hint, in_words

#: Of every dataclass into which a study's file is read.
STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Named:
    """A class by its name, and what it is built with.

    :param name: of this package or SB3, or ``package.module:Class``
    :param arguments: of its constructor, plain values; see :func:`value_of`
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say it as a reader would: ``Cycle (num_cycles 2)``."""
        words = ", ".join(f"{name} {value}" for name, value in self.arguments.items())
        return f"{self.name} ({words})" if words else self.name

    def class_of(self, base: type, known: Mapping[str, type], where: str) -> type[Any]:
        """Give the class.

        :param base: what it must be a class of
        :param known: those that need no module
        :param where: the entry that names it
        :raises ValueError: if there is none, or it is another kind of class
        """
        if ":" not in self.name and self.name not in known:
            rule = f"`{where}` must be a name that is known or `package.module:Class`"
            raise ValueError(f"{rule}, got {self.name!r}{hint(self.name, known)}")
        found = known.get(self.name) or imported(self.name, where)
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
        raise ValueError(
            f"`{where}` must be `package.module:Class`, got {reference!r}: {error}"
        ) from error


def resolved(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Give each of the arguments as code takes it, see :func:`value_of`."""
    return {
        name: value_of(name, value, f"{where}.{name}".strip(".")) for name, value in values.items()
    }


def value_of(name: str, value: Any, where: str) -> Any:
    """Give an argument as code takes it.

    ``package.module:Class`` becomes that class where SB3 calls the argument ``..._class`` or
    ``..._fn``; a mapping of one ``package.module:Class`` to its arguments becomes an instance.

    :param name: of the argument
    :param where: the entry that holds it
    :raises ValueError: if there is no such class, or it can't be built
    """
    if isinstance(value, str) and ":" in value and name.endswith(("_class", "_fn")):
        return imported(value, where)
    if not isinstance(value, Mapping):
        return value
    reference = next(iter(value), "")
    if len(value) != 1 or ":" not in str(reference):
        return resolved(value, where)
    kind = imported(reference, where)
    try:
        return kind(**resolved(value[reference] or {}, where))
    except Exception as error:  # as its constructor likes
        raise ValueError(f"`{where}` can't be built from {value!r}: {error}") from error


def parameters_of(call: Callable[..., Any]) -> dict[str, Parameter]:
    """Give the parameters of a function or class by name, with their types as annotations.

    Where a class takes ``**kwargs``, they are those of the class behind it.
    """
    found: dict[str, Parameter] = {}
    for each in [vars(base).get("__init__") for base in getattr(call, "__mro__", ())] or [call]:
        if each is None:
            continue
        try:
            types = get_type_hints(each)
        except Exception:  # names that are there for type checkers only
            types = {}
        parameters = signature(each).parameters.values()
        for one in parameters:
            if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
                kind = types.get(one.name, one.annotation)
                unknown = kind is Parameter.empty or isinstance(kind, str)
                found.setdefault(one.name, one.replace(annotation=Any if unknown else kind))
        if not any(one.kind is Parameter.VAR_KEYWORD for one in parameters):
            break
    found.pop("self", None)
    return found


def arguments_for(
    call: Callable[..., Any], values: Mapping[str, Any], where: str, own: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Give arguments from a file as a function or class takes them: lists may be tuples.

    :param where: the entry that holds them
    :param own: parameters that are given to it besides, and so not by the file
    :raises ValueError: naming each entry that is unknown, missing, or not what it must be
    """
    model = _model_of(call, own)
    try:
        found = model.model_validate(resolved(values, where))
    except ValidationError as error:
        raise ValueError(in_words(error, where, model.model_fields)) from error
    return {name: getattr(found, name) for name in values}


@cache
def _model_of(call: Callable[..., Any], own: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (each.annotation, ... if each.default is Parameter.empty else each.default)
        for name, each in parameters_of(call).items()
        if name not in own and not name.startswith("_")
    }
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model("Arguments", __config__=config, **fields)
