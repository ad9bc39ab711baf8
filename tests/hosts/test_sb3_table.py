"""The table of what ours keep of SB3's behaviours: every row is asked, every exception refused."""

from pathlib import Path

import arena
import asked
import guests
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from tables import PLACEMENTS, check_refused

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guests.md"
TABLE = asked.TABLE


def test_the_page_shows_the_table_as_it_is_here():
    assert asked.table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{asked.table()}"


@pytest.mark.parametrize("file", TABLE.files())
def test_every_behaviour_is_asked_where_sb3_asks_it(file):
    TABLE.check_asked(file, HERE / f"test_sb3_{file}.py")


@pytest.mark.parametrize(("exception", "attempt"), TABLE.attempts())
def test_what_a_placement_cannot_do_is_refused_in_one_line(exception, attempt):
    check_refused(exception, attempt)


def test_an_exception_is_of_a_behaviour_and_says_it_in_a_sentence():
    TABLE.check_exceptions()


# What all of ours do otherwise.


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_dict_is_flattened_where_sb3_refuses_it(placement):
    env = arena.Arena(arena.with_task(arena.FLAT))
    arena.train(guests.make("PPO", placement, env=env))
    with pytest.raises(ValueError, match="You must use `MultiInputPolicy`"):
        arena.make("PPO", "MlpPolicy", env)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_pictures_that_are_no_bytes_are_taken_where_sb3_refuses_them(placement):
    env = arena.Arena(spaces.Box(0, 1, (1, 36, 36), np.float32))
    arena.train(guests.make("PPO", placement, "MoeCnnPolicy", env))
    with pytest.raises(AssertionError, match="You should use NatureCNN only with images"):
        arena.make("PPO", "CnnPolicy", env)


@pytest.mark.parametrize("placement", PLACEMENTS)
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
