import itertools
import json
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, architecture, cell, study

from sb3_moe.learning_rates import LinearPerBlock
from sb3_moe.policies.on_policy import MoeMultiInputPolicy
from sb3_moe.study.run.cell import stream
from sb3_moe.study.run.jobs import differences
from sb3_moe.study.spec.algorithms import arguments_of
from sb3_moe.study.spec.architectures import (
    named_architecture,
)
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation
from sb3_moe.study.spec.grid import (
    PRESETS,
    About,
    StudyConfig,
    load_study,
    read_study,
    schema,
    table,
)


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
            **arguments_of(column)["policy_kwargs"],
        )
        count[column.architecture.name] = sum(p.numel() for p in policy.parameters())
    assert count["dense-matched"] == pytest.approx(count["soft-big"], rel=0.01)


def test_a_cell_comes_back_from_its_plain_values():
    before = cell("crl", arguments={"learning_rate": 1e-3}, evaluation=Evaluation(points=3))
    assert CellConfig.from_dict(before.to_dict()) == before


def test_the_total_is_counted_over_all_blocks():
    assert cell("mtrl").total_steps == 2 * 10 * ROLLOUT
    assert cell("crl", cycles=3).total_steps == 6 * 10 * ROLLOUT
    assert cell("scratch", ("Breakout",)).total_steps == 10 * ROLLOUT


def test_differences_are_named_by_their_path():
    old, new = cell().to_dict(), cell(arguments={"learning_rate": 1}, seed=3).to_dict()
    assert differences(old, new) == ["arguments.learning_rate: None -> 1", "seed: 0 -> 3"]


def test_a_study_in_yaml(tmp_path):
    text = """
    name: mine
    games: [Breakout, Asterix]
    orders: [[Breakout, Asterix], [Asterix, Breakout]]
    architectures:
      - dense
      - soft-big
      - wide: {placement: none, net_arch: [128, 128], arguments: {learning_rate: 0.001}}
    seeds: [3, 4]
    """
    mine = read_study(text, tmp_path)
    assert [a.name for a in mine.architectures] == ["dense", "soft-big", "wide"]
    assert mine.architectures[2].arguments == {"learning_rate": 0.001}
    assert mine.seeds == (3, 4)
    assert arguments_of(mine.cells()[2])["learning_rate"] == 0.001
    assert arguments_of(mine.cells()[2])["policy_kwargs"]["net_arch"] == [128, 128]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"^a study must be a YAML mapping, got \[1\]$"),
        ("", "^a study must be a YAML mapping, got None$"),
        ("name: mine", "^`architectures` must be given$"),
        ("name: [1", "^the YAML can't be read: line 1, column 9: expected "),
        ("name: mine\nname: yours", "line 2, column 1: there are two entries 'name'$"),
        ("arguments: {gamma: 0.9, gamma: 0.8}", "column 25: there are two entries 'gamma'$"),
    ],
)
def test_a_file_that_is_no_study_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_study(text, tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "study.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ValueError, match=r"a study must be text, got .*study\.yaml"):
        load_study(str(tmp_path / "study.yaml"))


def read(tmp_path, **changes):
    values = {"name": "mine", "games": "[Breakout, Asterix]", "architectures": "[dense]"}
    lines = (f"{name}: {text}" for name, text in {**values, **changes}.items())
    return read_study("\n".join(lines), tmp_path)


def test_folders_of_orders_of_any_length_have_names_that_fit_and_differ(tmp_path):
    turns = ["Breakout", "Asterix"] * 30
    orders = f"[[{', '.join(turns)}], [{', '.join(turns[::-1])}]]"
    name = "a" * 200
    study = read(tmp_path, orders=orders, architectures=f"{{{name}: {{placement: none}}}}")
    names = [cell.name for cell in study.cells() if cell.regime == "crl"]
    assert len(set(names)) == len(names) == 2 * len(study.seeds)
    assert all(each.startswith("crl-60.") and f"-{name}-s" in each for each in names)
    for each in names:
        (tmp_path / each).mkdir()
    with pytest.raises(ValueError, match=r"^`name` must be a word .*, of 200 bytes at"):
        read(tmp_path, architectures=f"{{{'é' * 101}: {{placement: none}}}}")


def test_numbers_with_an_exponent_are_numbers(tmp_path):
    mine = read(
        tmp_path, steps_per_task="1.6e4", n_envs="1e1", arguments="{n_steps: 100, gamma: 9e-1}"
    )
    assert (mine.steps_per_task, mine.n_envs, mine.arguments["gamma"]) == (16000, 10, 0.9)
    assert type(mine.steps_per_task) is int


def test_an_architecture_without_options_is_read_by_its_name(tmp_path):
    written, named = read(tmp_path, architectures="{dense: }"), read(tmp_path)
    assert written.architectures == named.architectures
    assert named.architectures[0].policy_kwargs == named_architecture("dense").policy_kwargs


def test_cells_that_would_share_a_folder_are_refused(monkeypatch):
    games, names = ("Maze", "Maze-dark"), ("dense", "dark-dense")
    for game in games:
        monkeypatch.setitem(gym.registry, game, None)
    with pytest.raises(
        ValueError, match=r"rename an architecture, got .*'scratch-Maze-dark-dense-s0'"
    ):
        study(games=games, architectures=names, regimes=("scratch",))


def test_a_study_that_is_not_there_is_refused_with_the_presets():
    with pytest.raises(ValueError, match=r"one of smoke, first-run, .*got 'nope'"):
        load_study("nope")


def test_a_rate_per_block_starts_anew_and_ends_at_zero():
    rate = LinearPerBlock(1.0, num_blocks=2)
    # After the first of four rollouts, the second (a block's end), the third and the fourth.
    assert [rate(p) for p in (0.75, 0.5, 0.25, 0.0)] == [0.5, 0.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            "no.such:Thing",
            "`policy` must be `package.module:Class`, got 'no.such:Thing': No mod",
        ),
        ("json:Policy", "got 'json:Policy': module 'json' has no attribute 'Policy'"),
        (":Policy", "got ':Policy': Empty module name"),
        ("json:dumps", "`policy` must be a class of SB3's ActorCriticPolicy, got 'json:dumps'"),
        ("MoeMulitInputPolicy", "'MoeMulitInputPolicy'; did you mean `MoeMultiInputPolicy`?"),
    ],
)
def test_a_policy_that_is_not_there_is_refused_when_the_study_is_read(policy, message, tmp_path):
    with pytest.raises(ValueError, match="^`architectures.x`: .*" + message):
        read(tmp_path, architectures=f"{{x: {{policy: '{policy}'}}}}")


def test_a_policy_that_is_not_ours_gets_nothing_that_only_ours_take():
    plain = Architecture(name="plain", policy="MultiInputPolicy", policy_kwargs={"net_arch": [8]})
    given = arguments_of(cell(architecture=plain))["policy_kwargs"]
    assert given["net_arch"] == [8]
    assert "features_extractor_kwargs" not in given
    ours = arguments_of(cell())["policy_kwargs"]
    assert ours["features_extractor_kwargs"] == {"encoder": "flat"}


def test_a_rollout_of_ones_own_must_fit_the_steps_too():
    wide = Architecture(name="wide", arguments={"n_steps": 100})
    with pytest.raises(ValueError, match=r"rollout of 'wide', 6400 steps .*, got 81920"):
        cell(architecture=wide)
    assert cell(architecture=wide, steps_per_task=12800).rollout == 6400


def test_neighbouring_seeds_are_spread_out():
    # Copy i of an environment seeded s is seeded s + i: 64 copies must not overlap.
    seeds = sorted(stream(seed) for seed in range(10))
    assert min(b - a for a, b in itertools.pairwise(seeds)) > 64


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("name", "null", "^`name` must be text, got None$"),
        ("name", "n" * 201, "^`name` must be a word .*, of 200 bytes at most, got 'nnn"),
        ("name", "a/../../b", "^`name` must be a word .*, got 'a/../../b'$"),
        ("games", "Breakout", "^`games` must be a list, got 'Breakout'$"),
        ("games", "[Breakout, Pong]", "`games` must be among .*, got 'Pong'"),
        ("games", "[Breakout, Breakout]", "`games` must be different"),
        ("regimes", "[mtrl, clr]", r"^`regimes\[1\]` must be 'mtrl', 'crl', .*, got 'clr'$"),
        ("seeds", "0", "^`seeds` must be a list, or 1 to 10,000 of them, got 0$"),
        ("seeds", "[0.5]", r"^`seeds\[0\]` must be a whole number, got 0.5$"),
        ("seeds", "[1, 1]", r"`seeds` must be different from each other, .* got \[1, 1\]"),
        ("seeds", "[-1]", "`seed` must be greater than or equal to 0, got -1"),
        ("cycles", "true", "^`cycles` must be a whole number, got True$"),
        ("steps_per_task", "'1e6'", "^`steps_per_task` must be a whole number, got '1e6'$"),
        ("random_episodes", "0", "^`random_episodes` must be greater than or equal to 1, got 0$"),
        ("evaluation", "{pionts: 2}", "^there is no entry `evaluation.pionts`"),
        ("evaluation", '{deterministic: "no"}', "^`evaluation.deterministic` must be true or fal"),
        ("annealing", "never", "`annealing` must be 'none', 'run' or 'block', got 'never'"),
        ("no_op_max", "-1", "`no_op_max` must be greater than or equal to 0, got -1"),
        ("n_envs", "1", "`n_envs` must be at least the number of tasks, 2, got 1"),
        ("device", "abacus", "`device` must be one that torch has, got 'abacus'"),
        ("orders", "3", "^`orders` must be 'given', 'rotations' or 'all' or be a list, got 3$"),
        ("orders", "[]", "^`orders` must be different from each other, at least one, got"),
        ("colour", "red", "^there is no entry `colour`; there are about, .*, tune$"),
        ("claims", "none.yaml", "^`claims` must be a file, got '.*none.yaml'$"),
        ("about", "none.yaml", "^`about` must be a mapping, or a file of one: .*none.yaml"),
        ("about", "{notes: One.}", "^`about.notes` must be a list, got 'One.'$"),
        ("architectures", "dense", "^`architectures` must be names, .*, got 'dense'$"),
        ("architectures", "{x: 5}", "^`architectures.x` must be a mapping of options, got 5$"),
        ("architectures", "{x: {policy: 5}}", "^`architectures.x.policy` must be text, got 5$"),
        ("architectures", "{x: {placement: top}}", "^`architectures.x`: `placement` must be one"),
        ("arguments", "{n_epochs: 2.5}", "^`arguments.n_epochs` must be a whole number, got 2.5$"),
        ("arguments", "{learning_rate: fast}", "`arguments.learning_rate` must be a number or be"),
        ("arguments", "{ent_coef: .nan}", "^`arguments.ent_coef` must be finite, got nan$"),
    ],
)
def test_an_entry_that_does_not_fit_names_the_entry_the_rule_and_the_value(
    entry, text, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **{entry: text})


def test_an_order_belongs_to_the_regimes_that_have_one():
    with pytest.raises(ValueError, match=r"`order` must be empty for \"mtrl\" and \"schedule\""):
        CellConfig(regime="mtrl", games=GAMES, order=GAMES, architecture=architecture("dense"))
    with pytest.raises(ValueError, match=r"one task for \"scratch\""):
        cell("scratch", GAMES)


def test_a_study_says_of_itself_what_its_configuration_can_not_or_names_a_file_that_does(tmp_path):
    (tmp_path / "words.yaml").write_text("{title: 'Why?', notes: [One., Two.]}")
    about = About(title="Why?", notes=("One.", "Two."))
    assert read(tmp_path, about="{title: 'Why?', notes: [One., Two.]}").about == about
    assert read(tmp_path, about="words.yaml").about == about


def test_the_schema_says_what_each_entry_of_a_study_is_and_its_types():
    found = schema()
    assert found["required"] == ["name", "architectures"]
    assert set(found["properties"]) == {each.name for each in fields(StudyConfig)}
    assert all(each["description"] for each in found["properties"].values())
    assert found["properties"]["cycles"]["minimum"] == 1
    assert "placement" in str(found["properties"]["architectures"])


ROOT = Path(__file__).parents[3]


def test_the_committed_schema_and_the_docs_table_are_made_from_the_entries():
    assert json.loads((ROOT / "docs/_static/study.schema.json").read_text()) == schema()
    assert table() in (ROOT / "docs/studies.md").read_text()


STUDIES = [
    path
    for path in (ROOT / "examples").rglob("*.yaml")
    if not path.name.startswith(("about", "claims", "recompute")) and "claims" not in path.name
]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_study_of_the_repository_can_be_read(path):
    assert load_study(str(path)).cells()
