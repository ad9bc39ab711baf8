"""A study says how its games begin."""

from __future__ import annotations

import numpy as np
import pytest

from sb3_moe.study.run.cell import build
from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.grid import load_study, read_study
from sb3_moe.study.spec.tasks import make_env

YAML = "{name: mine, games: [SpaceInvaders], regimes: [scratch], architectures: [dense]%s}"


def test_a_study_that_does_not_say_has_no_no_ops(tmp_path):
    assert read_study(YAML % "", tmp_path).cells()[0].no_op_max == 0
    assert {load_study(name).no_op_max for name in ("smoke", "paper-small")} == {0}
    assert load_study("paper-full").no_op_max == 30
    cell = read_study(YAML % ", no_op_max: 30", tmp_path).cells()[0]
    assert CellConfig.from_dict(cell.to_dict()).no_op_max == 30


def test_tasks_with_arguments_of_their_own_are_told_beside_their_ids(tmp_path):
    text = "{name: mine, tasks: [CartPole-v1], architectures: [dense], no_op_max: 30}"
    with pytest.raises(ValueError, match="`no_op_max` must be left out where there are `tasks`,"):
        read_study(text, tmp_path)


@pytest.mark.parametrize(("no_op_max", "alike"), [(0, True), (30, False)])
def test_cells_play_the_games_as_the_study_says(no_op_max, alike, tmp_path):
    pytest.importorskip("gymnax", reason="needs the minatar extra")
    short = "n_envs: 10, arguments: {n_steps: 2, batch_size: 20}, steps_per_task: 20"
    text = YAML % f", no_op_max: {no_op_max}, {short}"
    env = build(read_study(text, tmp_path).cells()[0])[1]
    env.reset()
    games = np.stack([env.step(np.zeros(10, int))[0]["obs"] for _ in range(12)], axis=1)
    assert (len(np.unique(games, axis=0)) == 1) == alike


def test_only_games_by_short_names_are_told():
    env = make_env(["CartPole-v1"], 2, 0, None, no_op_max=30)
    assert env.reset()["obs"].shape == (2, 4)
