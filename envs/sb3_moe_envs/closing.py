"""Close all there is, whatever closing one of them raises."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def closed_on_error(close: Callable[[], Any]) -> Iterator[None]:
    """Close after an error, Ctrl-C too, which is heard whatever closing raises.

    :param close: closes what there is by then
    """
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close()
        raise


def close_all(closes: Iterable[Callable[[], Any]]) -> None:
    """Call all, also after one that raises.

    The first error is heard at the end, Ctrl-C before any other, with notes of the rest.
    """
    errors: list[BaseException] = []
    for close in closes:
        try:
            close()
        except BaseException as error:  # all are closed, whatever it is
            errors.append(error)
    if not errors:
        return
    # Stable, so that of each kind the first stays first.
    heard, *others = sorted(errors, key=lambda error: isinstance(error, Exception))
    for other in others:
        if other is not heard:  # two may raise the same one
            # As a traceback has it, whatever the error's own text raises.
            said = "".join(traceback.format_exception_only(other)).strip()
            heard.add_note(f"closing also raised {said}")
    raise heard


def close_each(envs: Iterable[Any]) -> None:
    """Close all environments after an error, which is to be heard and not what closing raises."""
    for env in envs:
        with suppress(Exception):
            env.close()
