"""What one task's replay notes of its episodes."""

from sb3_moe.vec_env.evaluating import OF_ATARI
from sb3_moe.watching.notes import Notes


def test_a_lost_life_begins_no_episode_and_the_return_is_the_games():
    notes = Notes("Breakout")
    for step in range(8):
        notes.do(0, 0)
        notes.get(1.0, done=step in (2, 5), info={OF_ATARI: True, "game_over": step == 5})
    assert notes._rows["starts"] == [True, *[False] * 5, True, False]
    assert notes._returns == [6.0]
