"""Find the class that an option means: by name, as ``"package.module:Class"``, or as it is."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, TypeVar

T = TypeVar("T")


class Registry(dict[str, type[T]]):
    """The classes that an option can name.

    :param option: the option's name, for errors
    :param base: base class of all of them
    """

    def __init__(self, option: str, base: type[T]) -> None:
        super().__init__()
        self.option = option
        self.base = base

    def add(self, name: str, cls: type[T]) -> None:
        """Register a class under a name, also in place of another one.

        :raises TypeError: if it does not derive from the base
        """
        self._check(cls)
        self[name] = cls

    def find(self, given: object) -> type[T]:
        """Return the class that an option means.

        :param given: a name, ``"package.module:Class"``, or a class
        :raises TypeError: if it is no class of the right kind
        :raises ValueError: if there is no such name, module or class
        """
        if isinstance(given, str):
            if given in self:
                return self[given]
            if ":" not in given:
                raise ValueError(
                    f"`{self.option}` must be one of {list(self)}, a class, or "
                    f"'package.module:Class', got {given!r}{did_you_mean(given, self)}"
                )
            given = imported(given, self.option)
        self._check(given)
        return given  # type: ignore[return-value]  # as checked

    def _check(self, given: object) -> None:
        if not (isinstance(given, type) and issubclass(given, self.base)):
            raise TypeError(
                f"`{self.option}` must be a subclass of {self.base.__name__}, or name one, got "
                f"{given!r}"
            )


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


def own_options(cls: type) -> dict[str, Any]:
    """Return the keyword-only arguments of a constructor with their defaults.

    If it takes ``**kwargs``, the arguments of the base class's constructor are included.

    :param cls: class of the constructor
    """
    found: dict[str, Any] = {}
    for each in cls.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = signature(vars(each)["__init__"]).parameters.values()
        for parameter in parameters:
            if parameter.kind is Parameter.KEYWORD_ONLY:
                found.setdefault(parameter.name, parameter.default)
        if all(parameter.kind is not Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of an error that suggests the nearest known name; empty if none is near."""
    near = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def of_this_package(cls: type) -> bool:
    """Say whether a class is part of this package, and not a user's own."""
    return cls.__module__.partition(".")[0] == "sb3_moe"
