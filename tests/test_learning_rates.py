"""What rates per block are made of."""

import pytest

from sb3_moe.policies.learning_rates import LinearPerBlock


@pytest.mark.parametrize(
    ("initial", "num_blocks", "error", "message"),
    [
        (float("nan"), 2, ValueError, r"^`initial` must be finite, got nan$"),
        ("1e-3", 2, TypeError, r"^`initial` must be a number, got '1e-3'$"),
        (-1.0, 2, ValueError, r"^`initial` must be above 0, got -1\.0$"),
        (1e-3, 2.5, TypeError, r"^`num_blocks` must be an int, got 2\.5$"),
        (1e-3, 0.0, ValueError, r"^`num_blocks` must be at least 1, got 0$"),
    ],
)
def test_what_is_no_rate_or_no_number_of_blocks_is_refused(initial, num_blocks, error, message):
    with pytest.raises(error, match=message):
        LinearPerBlock(initial, num_blocks)


def test_a_number_of_blocks_that_a_division_gave_is_a_whole_one():
    schedule = LinearPerBlock(1e-3, 600 / 200)
    assert (schedule.num_blocks, type(schedule.num_blocks)) == (3, int)
