"""MinAtar's episodes begin with a number of no-ops that follows from the seed."""

import numpy as np
import pytest

pytest.importorskip("gymnax", reason="needs the minatar extra")

from sb3_moe_envs.vector.gymnax import NO_OP_MAX, GymnaxVectorEnv, MinAtarVectorEnv

COPIES = 8


def distinct(observations):
    return len({observation.tobytes() for observation in observations})


def plain_starts(game, num_no_ops):
    """Play no-ops by hand, in many copies: what each sees after 0, 1, ... of them."""
    world = MinAtarVectorEnv(game, 64, no_op_max=0)
    seen = [world.reset(seed=0)[0]]
    seen += [world.step(np.zeros(64, int))[0] for _ in range(num_no_ops)]
    return {observation.tobytes() for batch in seen for observation in batch}


def test_each_start_is_seen_when_playing_no_ops_by_hand():
    game = "SpaceInvaders"
    # An episode that ends during them is followed by the next one.
    possible = plain_starts(game, NO_OP_MAX)
    world = MinAtarVectorEnv(game, COPIES)
    starts = [
        observation for seed in range(0, 800, 100) for observation in world.reset(seed=seed)[0]
    ]
    assert {start.tobytes() for start in starts} <= possible
    assert distinct(starts) > 4


def test_no_ops_count_not_as_steps():
    world = MinAtarVectorEnv("SpaceInvaders", COPIES)
    world.reset(seed=0)
    assert not np.asarray(world._states.time).any()


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("Breakout-MinAtar", -1, "`no_op_max` must be at least 0, got -1"),
        ("Breakout-MinAtar", 2.5, "`no_op_max` must be a whole number, got 2.5"),
        ("CartPole-v1", 3, "`no_op_max` must be 0 except for MinAtar, got 3 for CartPole-v1"),
    ],
)
def test_a_number_of_no_ops_that_cannot_be_is_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        GymnaxVectorEnv(name, 2, no_op_max=wrong)
