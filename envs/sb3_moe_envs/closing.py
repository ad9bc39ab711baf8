"""Close what was built where the rest can't be."""

from __future__ import annotations

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


def close_each(envs: Iterable[Any]) -> None:
    """Close all environments, whatever one of them raises."""
    for env in envs:
        with suppress(Exception):
            env.close()
