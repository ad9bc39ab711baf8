import itertools

import gymnasium as gym
import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, architecture, cell, study

from sb3_moe.policies.on_policy import MoeMultiInputPolicy
from sb3_moe.study.architectures import meaning, moe_architecture, named_architecture, title
from sb3_moe.study.config import Architecture, CellConfig, Evaluation, differences
from sb3_moe.study.grid import PRESETS, load_study, read_study
from sb3_moe.study.learner import LinearPerBlock, policy_of, ppo_arguments, stream


def test_cells_are_every_regime_order_and_architecture_seed_by_seed():
    names = [c.name for c in study(seeds=2).cells()]
    assert names[:6] == [
        "mtrl-SpaceInvaders.Breakout-dense-s0",
        "mtrl-SpaceInvaders.Breakout-soft-big-s0",
        "crl-SpaceInvaders.Breakout-dense-s0",
        "crl-SpaceInvaders.Breakout-soft-big-s0",
        "crl-Breakout.SpaceInvaders-dense-s0",
        "crl-Breakout.SpaceInvaders-soft-big-s0",
    ]
    assert len(names) == len(set(names)) == 12


def test_orders_can_be_given_rotated_permuted_or_listed():
    three = ("SpaceInvaders", "Breakout", "Asterix")
    count = {
        orders: len(study(games=three, orders=orders).sequences("crl"))
        for orders in ("given", "rotations", "all")
    }
    assert count == {"given": 1, "rotations": 3, "all": 6}
    listed = study(orders=(GAMES[::-1],))
    assert listed.sequences("crl") == [GAMES[::-1]]
    assert listed.sequences("scratch") == [(game,) for game in GAMES]


def test_every_rotation_opens_with_another_game():
    three = ("SpaceInvaders", "Breakout", "Asterix")
    assert {o[0] for o in study(games=three).sequences("crl")} == set(three)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_read(preset):
    assert load_study(preset).name == preset


@pytest.mark.parametrize("preset", ["paper-small", "paper-full"])
def test_the_matched_dense_network_has_as_many_parameters_as_the_mixture(preset):
    study = load_study(preset)
    space = gym.spaces.Dict(
        obs=gym.spaces.Box(0, 1, (10, 10, 6), np.uint8),
        task_id=gym.spaces.Discrete(len(study.games)),
    )
    count = {}
    for column in study.cells()[: len(study.architectures)]:
        policy = MoeMultiInputPolicy(
            space,
            gym.spaces.Discrete(6),
            lambda _: 1.0,
            **ppo_arguments(column)["policy_kwargs"],
        )
        count[column.architecture.name] = sum(p.numel() for p in policy.parameters())
    assert count["dense-matched"] == pytest.approx(count["soft-big"], rel=0.01)


def test_a_cell_comes_back_from_its_plain_values():
    before = cell("crl", ppo={"learning_rate": 1e-3}, evaluation=Evaluation(points=3))
    assert CellConfig.from_dict(before.to_dict()) == before


def test_the_total_is_counted_over_all_blocks():
    assert cell("mtrl").total_steps == 2 * 10 * ROLLOUT
    assert cell("crl", cycles=3).total_steps == 6 * 10 * ROLLOUT
    assert cell("scratch", ("Breakout",)).total_steps == 10 * ROLLOUT


def test_differences_are_named_by_their_path():
    old, new = cell().to_dict(), cell(ppo={"learning_rate": 1}, seed=3).to_dict()
    assert differences(old, new) == ["ppo.learning_rate: None -> 1", "seed: 0 -> 3"]


def test_a_study_in_yaml(tmp_path):
    text = """
    name: mine
    games: [Breakout, Asterix]
    orders: [[Breakout, Asterix], [Asterix, Breakout]]
    architectures:
      - dense
      - soft-big
      - wide: {placement: none, net_arch: [128, 128], ppo: {learning_rate: 0.001}}
    seeds: [3, 4]
    """
    mine = read_study(text, tmp_path)
    assert [a.name for a in mine.architectures] == ["dense", "soft-big", "wide"]
    assert mine.architectures[2].ppo == {"learning_rate": 0.001}
    assert mine.seeds == (3, 4)
    assert ppo_arguments(mine.cells()[2])["learning_rate"] == 0.001
    assert ppo_arguments(mine.cells()[2])["policy_kwargs"]["net_arch"] == [128, 128]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a study must be a YAML mapping, got list"),
        ("colour: red", "a study has the entries name, .*, got 'colour'"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_study(text, tmp_path)


def test_a_study_that_is_not_there_is_refused_with_the_presets():
    with pytest.raises(ValueError, match=r"one of smoke, paper-small, paper-full .*got 'nope'"):
        load_study("nope")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ("Breakout", "Pong")}, "`games` must be among .*, got 'Pong'"),
        ({"games": ("Breakout", "Breakout")}, "`games` must be different"),
        ({"games": ()}, "`games` must name at least one game, got none"),
        ({"seeds": ()}, "`seeds` must have at least one entry, got none"),
        ({"seeds": (1, 1)}, r"`seeds` must be different from each other, got \[1, 1\]"),
        ({"regimes": ("mixed",)}, "`regimes` must be among mtrl, crl, scratch, got 'mixed'"),
        ({"orders": "some"}, "`orders` must be given, rotations, all or a list, got 'some'"),
        ({"orders": (("Pong",),)}, "`order` must be among the games .*, got 'Pong'"),
        ({"steps_per_task": 100}, "must be a multiple of the rollout, .* = 8192, got 100"),
        ({"annealing": "never"}, "`annealing` must be one of none, run, block, got 'never'"),
        ({"n_envs": 1}, "`n_envs` must be at least the number of games, 2, got 1"),
        ({"cycles": 0}, "`cycles` must be at least 1, got 0"),
        ({"seeds": (-1,)}, "`seed` must be at least 0, got -1"),
        ({"device": "abacus"}, "`device` must be a device that torch has, got 'abacus'"),
    ],
)
def test_a_study_out_of_range_names_the_rule_and_the_value(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_an_order_belongs_to_the_regimes_that_have_one():
    with pytest.raises(ValueError, match=r"`order` must be empty for \"mtrl\""):
        CellConfig(regime="mtrl", games=GAMES, order=GAMES, architecture=architecture("dense"))
    with pytest.raises(ValueError, match=r"one game for \"scratch\""):
        cell("scratch", GAMES)
    with pytest.raises(ValueError, match=r"`regime` must be one of mtrl, crl, scratch, got 'x'"):
        cell("x")


def test_an_evaluation_out_of_range_names_the_bound():
    with pytest.raises(ValueError, match=r"`points` must be at least 1, got 0"):
        Evaluation(points=0)
    with pytest.raises(ValueError, match=r"`episodes` must be at least 1, got -2"):
        Evaluation(episodes=-2)


def test_unknown_entries_of_a_cell_are_refused():
    with pytest.raises(ValueError, match=r"got 'colour'"):
        CellConfig.from_dict({**cell().to_dict(), "colour": "red"})


def test_names_of_architectures_say_router_placement_and_tower():
    assert named_architecture("dense").policy_kwargs == {"placement": "none"}
    assert named_architecture("soft-big").policy_kwargs["placement"] == "big"
    one = named_architecture("top_k-middle-pi").policy_kwargs
    assert one["placement"] == {"pi": "middle", "vf": "none"}
    assert one["router"] == "top_k"
    assert moe_architecture("big", "soft", "vf").name == "soft-big-vf"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("soft", "an architecture must be `dense`"),
        ("hard-big", "`router` must be one of soft, .*, got 'hard'"),
        ("soft-top", "`placement` must be one of none, .*, got 'top'"),
        ("soft-big-qf", "`towers` must be one of both, pi, vf, got 'qf'"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        named_architecture(name)


def test_an_architectures_name_must_fit_a_folder():
    with pytest.raises(ValueError, match=r"`name` of an architecture .* got 'a/b'"):
        Architecture(name="a/b")


def test_titles_are_what_a_reader_knows():
    titles = [title(name) for name in ("dense", "soft-big", "top_k-middle", "soft-big-pi")]
    assert titles == ["Dense", "SoftMoE-Big", "Top-k-Middle", "SoftMoE-Big (actor)"]


def test_a_rate_per_block_starts_anew_and_ends_at_zero():
    rate = LinearPerBlock(1.0, num_blocks=2)
    # After the first of four rollouts, the second (a block's end), the third and the fourth.
    assert [rate(p) for p in (0.75, 0.5, 0.25, 0.0)] == [0.5, 0.0, 0.5, 0.0]


def test_a_policy_can_be_a_class_of_ones_own():
    from stable_baselines3.common.policies import ActorCriticPolicy

    assert policy_of("MlpPolicy") == "MlpPolicy"
    assert policy_of("stable_baselines3.common.policies:ActorCriticPolicy") is ActorCriticPolicy
    with pytest.raises(ValueError, match=r"`policy` must be an alias or .*, got 'no.such:Thing'"):
        policy_of("no.such:Thing")


def test_neighbouring_seeds_are_spread_out():
    # Copy i of an environment seeded s is seeded s + i: 64 copies must not overlap.
    seeds = sorted(stream(seed) for seed in range(10))
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"placement": "none", "net_arch": [213, 213]}, "no experts; hidden layers of [213, 213]"),
        (
            {"placement": "big", "router": "task"},
            "each expert a whole network; the game picks its own",
        ),
        (
            {"placement": {"pi": "none", "vf": "middle"}, "num_experts": 4},
            "actor: no experts; critic: experts in place of the last hidden layer, 4 of them; "
            "a learned router weighs all of them",
        ),
    ],
)
def test_an_architecture_is_explained_to_those_who_do_not_know_the_options(options, words):
    assert meaning(Architecture(name="any", policy_kwargs=options)) == words


def test_a_networks_own_values_of_ppo_are_part_of_what_it_is():
    own = named_architecture("dense", {"placement": "none", "ppo": {"learning_rate": 1e-3}})
    assert meaning(own) == "no experts; learning rate 0.001"
