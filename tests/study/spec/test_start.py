"""What networks begin with, as a study's file says it."""

import json

import pytest

from sb3_moe.study.spec.config import CellConfig
from sb3_moe.study.spec.grid import read_study

TEXT = """
name: starts
tasks: [CartPole-v1, Acrobot-v1]
regimes: [crl]
orders: [[Acrobot]]
preset: none
arguments: {{n_steps: 8, batch_size: 8}}
n_envs: 2
steps_per_task: 16
seeds: [3, 4]
architectures:
  dense: {{placement: none}}
  grown: {{placement: middle, start_from: {start}}}
  again: {{placement: middle, start_from: grown}}
"""


def read(tmp_path, start="{architecture: dense, order: [CartPole]}"):
    return read_study(TEXT.format(start=start), tmp_path)


def test_a_run_that_another_begins_with_joins_the_grid_and_comes_first(tmp_path):
    cells = read(tmp_path).cells()
    names = [cell.name for cell in cells]
    assert names == [
        f"crl-{task}-{network}-s{seed}"
        for seed in (3, 4)
        for task, network in [
            ("Acrobot", "dense"),
            ("CartPole", "dense"),
            ("Acrobot", "grown"),
            ("Acrobot", "again"),
        ]
    ]
    assert [cell.start for cell in cells[:4]] == [None, None, names[1], names[2]]


def test_a_cell_that_begins_with_another_is_read_as_it_was_written(tmp_path):
    for cell in read(tmp_path).cells():
        assert CellConfig.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


def test_a_models_file_is_looked_for_beside_the_studys(tmp_path):
    grown = read(tmp_path, "old.moe").architectures[1]
    assert grown.start_from.model == str(tmp_path / "old.moe")
    assert str(grown.start_from) == "the model old.moe"


@pytest.mark.parametrize(
    ("start", "text"),
    [
        ("nobody", r"`architectures.grown.start_from` must be a network .*, got 'nobody'"),
        ("dens", r"got 'dens'.*dense"),
        ("again", r"`architectures.grown.start_from` must not lead back to itself, got .*grown"),
        ("grown", r"`architectures.grown.start_from` must not lead back to itself"),
        ("3", r"`architectures.grown.start_from` must be a mapping, got 3"),
        ("{}", r"`start_from` must have one of `model` and `architecture`"),
        ("{model: a.moe, architecture: dense}", r"one of `model` and `architecture`, got .*a.moe"),
        ("{model: a.pt}", r"start_from.model` must match pattern .*moe.zip.*a.pt'"),
        ("{architecture: 3}", r"start_from.architecture` must be text, got 3"),
        ("{architecture: dense, order: CartPole}", r"start_from.order` must be a list"),
        ("{architecture: dense, order: [Pong]}", r"`order` must be .*, among CartPole, Acrobot"),
        ("{architecture: dense, regime: warm}", r"start_from.regime` must be 'mtrl', 'crl'"),
        ("{architecture: dense, orders: [Acrobot]}", r"no entry `.*start_from.orders`"),
    ],
)
def test_what_no_run_can_begin_with_is_refused_with_the_entry(tmp_path, start, text):
    with pytest.raises(ValueError, match=text):
        read(tmp_path, start)
