"""The study of ``examples/paper``: what its protocol says is what its files have."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sb3_moe.study.config import load_study, read_study
from sb3_moe.study.judging import load_claims

PAPER = Path(__file__).parents[2] / "examples" / "paper"
GAMES = ("SpaceInvaders", "Breakout")


def script():
    spec = importlib.util.spec_from_file_location("paper_rates", PAPER / "rates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def study(name):
    return load_study(str(PAPER / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "networks", "seeds", "regimes"),
    [("rates", 20, [100], 2), ("tier1", 5, range(10), 3), ("tier2", 8, range(5), 3)],
)
def test_a_study_has_the_cells_that_the_protocol_counts(name, networks, seeds, regimes):
    loaded = study(name)
    assert list(loaded.seeds) == list(seeds)
    assert loaded.steps_per_task == 524_288
    assert loaded.no_op_max == 30
    cells = len(loaded.runs())
    assert cells == networks * len(seeds) * regimes
    assert re.search(rf"\| `{name}.yaml` \| {cells} \|", (PAPER / "protocol.md").read_text())


def test_rates_are_tried_for_the_networks_of_tier_one_and_for_nothing_else():
    tried = {
        (a.name.rpartition("-")[0], str(a.policy_kwargs)) for a in study("rates").architectures
    }
    assert tried == {(a.name, str(a.policy_kwargs)) for a in study("tier1").architectures}
    assert not set(study("rates").seeds) & set(study("tier1").seeds)


def test_every_contrast_names_networks_of_tier_one_and_four_tests_are_primary():
    claims = load_claims(PAPER / "claims.yaml", study("tier1").games)
    contrasts = [each for claim in claims.claims for each in claim.contrasts]
    named = {group.architecture for each in contrasts for group in each.plus + each.minus}
    assert named == {a.name for a in study("tier1").architectures}
    assert len(claims.claims) == 4
    primary = [c for claim in claims.claims for c in claim.contrasts if c.primary]
    assert [c.over for c in primary] == ["tasks"] * 6
    assert [claim.needs for claim in claims.claims] == ["any", "any", "any", "all"]


def write_report(folder, rows):
    folder.mkdir(parents=True)
    (folder.parent / "random.json").write_text(
        json.dumps({"returns": {"SpaceInvaders": [1], "Breakout": [1]}})
    )
    pd.DataFrame(rows).to_csv(folder / "measures.csv")


def reached(folder, levels, seeds=1):
    """Write what a report says of networks that gain a level of units on both games."""
    rows = [
        {"order": order, "architecture": name, "task": game, "seed": seed, "measure": "area",
         "value": 1.0 + level * unit}
        for seed in range(seeds)
        for name, level in levels.items()
        for order in ("SpaceInvaders Breakout", "Breakout SpaceInvaders")
        for game, unit in (("SpaceInvaders", 9.0), ("Breakout", 3.0))
    ]  # fmt: skip
    write_report(folder, rows)


def test_the_two_best_rates_run_again_and_the_better_is_picked_inside_the_grid(tmp_path):
    rates = script()
    levels = {"dense-0.001": 1.0, "dense-0.002": 2.0, "dense-0.004": 1.5, "dense-0.008": 0.5}
    reached(tmp_path / "rates" / "report", levels)
    dense = rates.rows_of(tmp_path)
    assert rates.levels(dense)[0.004] == pytest.approx(1.5)
    assert rates.verdict(dense) == "second seed for 0.002, 0.004"
    reached(tmp_path / "rates_second" / "report", {"dense-0.002": 1.0, "dense-0.004": 1.7})
    dense = rates.rows_of(tmp_path)
    assert rates.verdict(dense) == "0.004"
    assert rates.units(dense) == pytest.approx({"SpaceInvaders": 1.6 * 9, "Breakout": 1.6 * 3})


def test_the_second_seed_has_the_two_best_rates_of_each_network(tmp_path, monkeypatch, capsys):
    levels = {a.name: float(a.name.rpartition("-")[2]) for a in study("rates").architectures}
    reached(tmp_path / "runs" / "rates" / "report", levels | {"soft-big-0.00025": 9.0})
    monkeypatch.setattr("sys.argv", ["rates.py", str(tmp_path / "runs"), "--second"])
    script().main()
    text = capsys.readouterr().out
    (tmp_path / "about.yaml").write_text((PAPER / "about.yaml").read_text())
    loaded, first = read_study(text, tmp_path), study("rates")
    assert (loaded.name, loaded.seeds) == ("paper-rates-second", (101,))
    tried = {a.name: a for a in first.architectures}
    assert len(loaded.architectures) == 2 * 5
    assert all(tried[a.name] == a for a in loaded.architectures)
    assert {"dense-0.001", "dense-0.0025", "soft-big-0.00025", "soft-big-0.0025"} <= {
        a.name for a in loaded.architectures
    }
    assert loaded.steps_per_task == first.steps_per_task


def test_the_margins_in_the_claims_are_those_of_the_spread_that_was_measured():
    measured = script().margins(gain=0.308, area=0.148)
    claims = {claim.name: claim for claim in load_claims(PAPER / "claims.yaml", GAMES).claims}
    names = {"1": "plasticity", "2": "crl-over-mtrl", "3": "spectral", "4": "as-good-as-any"}
    assert measured == {
        number: claims[name].contrasts[0].smallest_effect for number, name in names.items()
    }


def test_the_preset_for_a_cluster_has_the_same_networks_and_contrasts():
    full = load_study("paper-full")
    tiers = {a.name: a for name in ("tier1", "tier2") for a in study(name).architectures}
    assert {a.name: a for a in full.architectures} == tiers
    theirs, ours = load_claims(full.claims, ()), load_claims(PAPER / "claims.yaml", GAMES)
    unit_free = {"gain": "plasticity", "area": "relative_area"}
    assert theirs.rule == ours.rule
    for claim, other in zip(theirs.claims, ours.claims, strict=True):
        assert (claim.name, claim.text, claim.needs) == (other.name, other.text, other.needs)
        assert claim.contrasts == tuple(
            replace(each, measure=unit_free.get(each.measure, each.measure))
            for each in other.contrasts
        )
