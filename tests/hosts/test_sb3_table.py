"""The table of what ours keep of SB3's behaviours: every row is asked, every exception refused."""

import re
from pathlib import Path

import arena
import asked
import guests
import numpy as np
import pytest
import torch as th
from behaviours import BEHAVIOURS
from cannot import CANNOT
from gymnasium import spaces

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guests.md"
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
def test_every_behaviour_is_asked_where_sb3_asks_it(file):
    rows = {key for key, row in BEHAVIOURS.items() if row.file == file}
    assert rows_of(f"test_sb3_{file}.py") == rows


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
def test_a_dict_is_flattened_where_sb3_refuses_it(placement):
    env = arena.Arena(arena.with_task(arena.FLAT))
    arena.train(guests.make("PPO", placement, env=env))
    with pytest.raises(ValueError, match="You must use `MultiInputPolicy`"):
        arena.make("PPO", "MlpPolicy", env)


@pytest.mark.parametrize("placement", guests.PLACEMENTS)
def test_pictures_that_are_no_bytes_are_taken_where_sb3_refuses_them(placement):
    env = arena.Arena(spaces.Box(0, 1, (1, 36, 36), np.float32))
    arena.train(guests.make("PPO", placement, "MoeCnnPolicy", env))
    with pytest.raises(AssertionError, match="You should use NatureCNN only with images"):
        arena.make("PPO", "CnnPolicy", env)


@pytest.mark.parametrize("placement", guests.PLACEMENTS)
def test_nobody_is_warned_of_a_gpu(placement):
    model = guests.make("PPO", placement)
    theirs = arena.make("PPO", "MlpPolicy")
    for each in (model, theirs):
        each.device = th.device("cuda")
    model._maybe_recommend_cpu()
    with pytest.warns(UserWarning, match="trying to run PPO on the GPU"):
        theirs._maybe_recommend_cpu()


# What the reasons say to do instead.

SDE = {"use_sde": True}


@pytest.mark.parametrize(("algorithm", "critic"), [("A2C", "vf"), ("PPO", "vf"), ("SAC", "qf")])
def test_an_actor_of_another_placement_has_gsde_beside_a_big_critic(algorithm, critic):
    env = arena.Arena(arena.FLAT, arena.BOX)
    towers = {"pi": "body", critic: "big"}
    arena.train(arena.make(algorithm, env=env, model=SDE, placement=towers, net_arch=[8]))


def test_a_flat_encoder_takes_goals_that_are_pictures_with_big_experts():
    flat = {"features_extractor_kwargs": {"encoder": "flat"}}
    env = guests.bits(pictures=True, discrete=True)
    arena.train(guests.make("DQN", "big", "MoeMultiInputPolicy", env, **flat))


def test_a_first_layer_of_net_arch_stands_behind_a_big_experts_encoder():
    env = arena.Arena(arena.SB3_IMAGE)
    policy = guests.make("DQN", "big", "MoeCnnPolicy", env, net_arch=[16, 8]).policy
    linears = [m for m in policy.get_expert("qf", 0).modules() if isinstance(m, th.nn.Linear)]
    assert [each.out_features for each in linears] == [16, 8, 4]
