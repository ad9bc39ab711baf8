"""The version of this package, and what to say about files of another."""

from __future__ import annotations

import warnings

#: The version, as in pyproject.toml.
__version__ = "0.2.0.dev0"


def warn_of_another_major_version(what: str, version: str) -> None:
    """Warn that something was written by another major version.

    :param what: what was written, such as a file's name
    :param version: of the sb3_moe that wrote it, ``"1.2.3"``
    """
    if version.split(".")[0] != __version__.split(".")[0]:
        warnings.warn(
            f"{what} was written by sb3_moe {version} and this is {__version__}: options and "
            "weights may mean something else; compare its actions with the old version's",
            stacklevel=3,
        )
