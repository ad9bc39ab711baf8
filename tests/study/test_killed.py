"""Five SIGKILLs at random moments over studies of PPO, DQN and SAC: nothing lost, scores equal."""

import random

import numpy as np
import pytest
from kill_studies import Killed, write_study

pytestmark = pytest.mark.full

KILLS = {"PPO": 2, "DQN": 2, "SAC": 1}
#: So many at most before a study is run to its end and compared.
AT_A_TIME = 2


def assert_same(found, expected):
    assert set(found) == set(expected)
    for where, values in expected.items():
        np.testing.assert_array_equal(found[where], values, err_msg=str(where))


@pytest.mark.parametrize("algorithm", list(KILLS))
def test_studies_that_are_killed_again_and_again_come_to_what_undisturbed_ones_do(
    algorithm, tmp_path
):
    path, draw = write_study(algorithm, tmp_path), random.Random(algorithm)
    undisturbed = Killed(path, tmp_path / "undisturbed")
    training = undisturbed.finish()
    expected, left, number = undisturbed.results(), KILLS[algorithm], 0
    while left:
        number += 1
        study = Killed(path, tmp_path / str(number))
        for _ in range(min(left, AT_A_TIME)):
            if not study.kill(draw, training):
                break  # it came to its end first, and is compared
            left -= 1
        study.finish()
        assert_same(study.results(), expected)
