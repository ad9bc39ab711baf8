"""What ours keep of sb3-contrib's behaviours: every row is asked, every exception is refused."""

from pathlib import Path

import arena
import contrib_asked as asked
import contrib_guests as guests
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tables import PLACEMENTS, check_refused

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "guests-contrib.md"
TABLE = asked.TABLE


def test_the_page_shows_the_table_as_it_is_here():
    assert asked.table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{asked.table()}"


@pytest.mark.parametrize("file", TABLE.files())
def test_every_behaviour_is_asked_where_sb3_contrib_asks_it(file):
    TABLE.check_asked(file, HERE / f"test_contrib_{file}.py")


@pytest.mark.parametrize(("exception", "attempt"), TABLE.attempts())
def test_what_a_placement_cannot_do_is_refused_in_one_line(exception, attempt):
    check_refused(exception, attempt)


def test_an_exception_is_of_a_behaviour_and_says_it_in_a_sentence():
    TABLE.check_exceptions()


# What all of ours do otherwise.


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("algorithm", guests.WITH_PICTURES)
def test_scaled_pictures_are_taken_where_sb3_contrib_refuses_them(algorithm, placement):
    env = VecNormalize(DummyVecEnv([lambda: guests.env_of(algorithm, guests.SB3_PICTURE)]))
    arena.train(guests.make(algorithm, placement, "Cnn", env))
    theirs = guests.alias_of(algorithm, "Cnn").removeprefix("Moe")
    with pytest.raises(AssertionError, match="You should use NatureCNN only with images"):
        arena.make(algorithm, theirs, env)
