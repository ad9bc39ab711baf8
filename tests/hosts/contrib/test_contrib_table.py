"""What ours keep of sb3-contrib's behaviours: every row is asked, every exception is refused."""

import re
from pathlib import Path

import contrib_guests as guests
import pytest

HERE = Path(__file__).parent
ATTEMPTS = [
    pytest.param(each, attempt, id=f"{each.behaviour}-{each.placement}-{name}")
    for each in guests.EXCEPTIONS
    for name, attempt in each.attempts.items()
]


def asked(file):
    """Return the behaviours that a test file asks for."""
    return set(re.findall(r'guests\.over\(\s*"([^"]+)"', (HERE / file).read_text()))


@pytest.mark.parametrize("file", sorted({row.file for row in guests.BEHAVIOURS.values()}))
def test_every_behaviour_is_asked_where_sb3_contrib_asks_it(file):
    rows = {key for key, row in guests.BEHAVIOURS.items() if row.file == file}
    assert asked(f"test_contrib_{file}.py") == rows


@pytest.mark.parametrize(("exception", "attempt"), ATTEMPTS)
def test_what_a_placement_cannot_do_is_refused_in_one_line(exception, attempt):
    with pytest.raises(exception.kind, match=exception.error) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)


def test_an_exception_is_of_a_behaviour_and_says_it_in_a_sentence():
    for each in guests.EXCEPTIONS:
        assert each.behaviour in guests.BEHAVIOURS
        assert each.placement in guests.PLACEMENTS
        assert each.attempts
        assert 20 < len(each.reason) < 200
