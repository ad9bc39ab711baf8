"""What a command tells the shell that started it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import gymnasium as gym

# What a wrong word or file, a missing package or a full disk raises.
EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError, gym.error.Error)


def exit_status(command: Callable[[], int]) -> int:
    """Run a command; say what went wrong in one line, without a traceback.

    :param command: gives its own status where all went well
    :return: that, 2 after an error that is expected, or 130 after Ctrl-C
    """
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
