"""What ours keep of sb3-contrib's behaviours: every row is asked, every exception is refused."""

import re
from pathlib import Path

import arena
import contrib_asked as asked
import contrib_guests as guests
import pytest
from contrib_behaviours import BEHAVIOURS
from contrib_cannot import CANNOT
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "guests-contrib.md"
ATTEMPTS = [
    pytest.param(each, attempt, id=f"{each.behaviour}-{each.placement}-{name}")
    for each in CANNOT
    for name, attempt in each.attempts.items()
]


def rows_of(file):
    """Return the behaviours that a test file asks for."""
    return set(re.findall(r'asked\.over\(\s*"([^"]+)"', (HERE / file).read_text()))


def test_the_page_shows_the_table_as_it_is_here():
    assert asked.table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{asked.table()}"


@pytest.mark.parametrize("file", sorted({row.file for row in BEHAVIOURS.values()}))
def test_every_behaviour_is_asked_where_sb3_contrib_asks_it(file):
    rows = {key for key, row in BEHAVIOURS.items() if row.file == file}
    assert rows_of(f"test_contrib_{file}.py") == rows


@pytest.mark.parametrize(("exception", "attempt"), ATTEMPTS)
def test_what_a_placement_cannot_do_is_refused_in_one_line(exception, attempt):
    with pytest.raises(exception.kind, match=exception.error) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)


def test_an_exception_is_of_a_behaviour_and_says_it_in_a_sentence():
    for each in CANNOT:
        assert each.behaviour in BEHAVIOURS
        assert each.placement in guests.PLACEMENTS
        assert each.attempts
        assert 20 < len(each.reason) < 200


# What all of ours do otherwise.


@pytest.mark.parametrize("placement", guests.PLACEMENTS)
@pytest.mark.parametrize("algorithm", guests.WITH_PICTURES)
def test_scaled_pictures_are_taken_where_sb3_contrib_refuses_them(algorithm, placement):
    env = VecNormalize(DummyVecEnv([lambda: guests.env_of(algorithm, guests.SB3_PICTURE)]))
    arena.train(guests.make(algorithm, placement, "Cnn", env))
    theirs = guests.alias_of(algorithm, "Cnn").removeprefix("Moe")
    with pytest.raises(AssertionError, match="You should use NatureCNN only with images"):
        arena.make(algorithm, theirs, env)
