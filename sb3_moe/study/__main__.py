"""``python -m sb3_moe.study``: see :mod:`sb3_moe.study.cli`."""

import sys

from sb3_moe.study.cli import main

if __name__ == "__main__":
    sys.exit(main())
