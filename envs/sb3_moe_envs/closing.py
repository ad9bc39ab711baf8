"""Close everything, whatever closing one of them raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def closed_on_error(close: Callable[[], Any]) -> Iterator[None]:
    """Close after an error or Ctrl-C, which is raised whatever closing raises.

    :param close: closes what there is by then
    """
    try:
        yield
    except BaseException:
        with suppress(Exception):
            close()
        raise


def close_all(closes: Iterable[Callable[[], Any]]) -> None:
    """Call all, also after one that raises; raise the first error, with notes of the others."""
    errors: list[BaseException] = []
    for close in closes:
        try:
            close()
        except BaseException as error:  # all are closed, whatever it is
            errors.append(error)
    for other in errors[1:]:
        errors[0].add_note(f"closing also raised {other!r}")
    if errors:
        raise errors[0]


def close_each(envs: Iterable[Any]) -> None:
    """Close all environments after an error, without raising what closing raises."""
    for env in envs:
        with suppress(Exception):
            env.close()
