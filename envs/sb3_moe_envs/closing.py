"""Close all there is, whatever closing one of them raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    """Call all, also after one that raises, whose error is heard at the end."""
    with ExitStack() as stack:
        # The last that was pushed is called first.
        for close in reversed(list(closes)):
            stack.callback(close)


def close_each(envs: Iterable[Any]) -> None:
    """Close all environments after an error, which is to be heard and not what closing raises."""
    for env in envs:
        with suppress(Exception):
            env.close()
