"""``sb3-moe``, and ``python -m sb3_moe``: see :mod:`sb3_moe.study.cli`."""

import sys


def main() -> None:
    """Serve the command line, or say in one line what to install for it."""
    try:
        from sb3_moe.study.cli import console_script
    except ImportError as error:
        sys.exit(f"error: {error}")
    console_script()


if __name__ == "__main__":
    main()
