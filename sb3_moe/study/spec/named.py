"""What a study's file names: a class with its arguments, ours by name, anyone's by its module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from sb3_moe.study.spec.entries import hint
from sb3_moe.study.spec.signatures import check_arguments


@dataclass(frozen=True, kw_only=True)
class Named:
    """A class by its name, and what it is built with.

    :param name: of ours or SB3's, or ``package.module:Class``
    :param arguments: plain values; see :func:`value_of`
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

    def check(
        self, base: type, known: Mapping[str, type], where: str, own: Sequence[str] = ()
    ) -> None:
        """Raise unless there is such a class, and it takes the arguments.

        :param own: arguments that a study gives it itself
        :raises ValueError: naming the entry
        """
        kind = self.class_of(base, known, where)
        check_arguments(kind, resolved(self.arguments), f"{where}.{self.name}", own)


def named(value: Any, where: str) -> Named:
    """Read a name, or a name with its arguments: ``Cycle`` or ``{Cycle: {num_cycles: 2}}``.

    :param where: the entry that holds it
    :raises ValueError: if it is neither
    """
    if isinstance(value, str):
        return Named(name=value)
    if isinstance(value, Mapping) and set(value) == {"name", "arguments"}:
        return Named(**value)
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, arguments),) = value.items()
        if arguments is None or isinstance(arguments, Mapping):
            return Named(name=name, arguments=arguments or {})
    raise ValueError(f"`{where}` must be a name, or a name with its arguments, got {value!r}")


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
    references = [key for key in value if isinstance(key, str) and ":" in key]
    if len(value) > 1 or not references:
        return resolved(value, where)
    (reference,) = references
    kind = imported(reference, where)
    try:
        return kind(**resolved(value[reference] or {}, where))
    except Exception as error:  # as its constructor likes
        raise ValueError(f"`{where}` can't be built from {value!r}: {error}") from error
