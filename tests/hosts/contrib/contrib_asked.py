"""Which placements a behaviour is asked of, and the table in ``docs/guests-contrib.md``."""

from __future__ import annotations

import contrib_guests as guests
from contrib_behaviours import BEHAVIOURS
from contrib_cannot import CANNOT
from tables import Table

TABLE = Table(BEHAVIOURS, CANNOT, guests.EVERY)
keeping, over = TABLE.keeping, TABLE.over


def table() -> str:
    """Return the table of ``docs/guests-contrib.md``."""
    return "\n".join(TABLE.lines("sb3-contrib's tests"))
