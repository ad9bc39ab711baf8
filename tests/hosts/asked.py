"""Which placements a behaviour is asked of, and the table of it all in ``docs/guests.md``."""

from __future__ import annotations

import guests
from behaviours import BEHAVIOURS
from cannot import CANNOT, DIFFERENCES
from tables import Table

TABLE = Table(BEHAVIOURS, CANNOT, guests.EVERY)
keeping, over = TABLE.keeping, TABLE.over


def table() -> str:
    """Return the two tables of ``docs/guests.md``."""
    lines = TABLE.lines("SB3's tests")
    lines += ["", "| SB3's tests | SB3's policies | ours, `none` too |", "|---|---|---|"]
    lines += [f"| `{d.file}` | {d.theirs} | {d.ours} |" for d in DIFFERENCES.values()]
    return "\n".join(lines)
