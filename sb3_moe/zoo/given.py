"""What a run of the zoo was given, read from the study that it optimises."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

CLASS = re.compile(r"<class '([\w.]+)'>")
MARK = "class:"


def read_kwargs(text: str) -> dict[str, Any]:
    """Read ``policy_kwargs`` back from the text of a dict, which is all that the zoo keeps of it.

    :param text: as ``str`` writes a dict of plain values and classes
    :raises ValueError: if something else is in it
    """
    try:
        found = ast.literal_eval(CLASS.sub(rf"'{MARK}\1'", text))
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"`policy_kwargs` must hold plain values and classes to be optimised, got {text}"
        ) from error
    return dict(_with_classes(found))


def class_of(text: str) -> type | None:
    """Return the class that a text names as ``str`` does, or None if it is no class.

    :param text: such as ``"<class 'torch.nn.modules.activation.ReLU'>"``
    """
    named = CLASS.fullmatch(text)
    return _find(named[1]) if named else None


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _with_classes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_classes(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_classes(each) for each in value)
    if isinstance(value, str) and value.startswith(MARK):
        return _find(value.removeprefix(MARK))
    return value
