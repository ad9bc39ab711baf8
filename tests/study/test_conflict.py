"""The studies of conflicting tasks say what they claim to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sb3_moe.study.config import load_study
from sb3_moe.study.judging import load_claims
from sb3_moe.study.preparing import check_networks

CONFLICT = Path(__file__).parents[2] / "examples" / "conflict"
NO_STUDIES = ("about", "claims_interleaved", "claims_sequence")
STUDIES = sorted(path.stem for path in CONFLICT.glob("*.yaml") if path.stem not in NO_STUDIES)
CONFIRMING = ("interleaved", "sequence", "routing_confirmed")
DEVELOPMENT = (
    "rates",
    "rates_task",
    "rates_more",
    "routing",
    "spread_interleaved",
    "spread_sequence",
)


def study(name):
    return load_study(str(CONFLICT / f"{name}.yaml"))


def seeds(*names):
    return {seed for name in names for seed in study(name).seeds}


def test_each_study_says_how_to_run_it():
    for name in STUDIES:
        command = f"sb3-moe study run examples/conflict/{name}.yaml --out runs/conflict/{name}\n"
        assert command in (CONFLICT / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", CONFIRMING)
def test_the_networks_of_confirming_studies_can_be_built(name):
    check_networks(study(name).runs())


def test_confirming_studies_use_seeds_that_no_development_run_has_seen():
    confirming = [name for name in CONFIRMING if name in STUDIES]
    assert not seeds(*confirming) & seeds(*DEVELOPMENT)
    assert not seeds("images") & seeds("images_rates")


def test_four_primary_contrasts_share_an_error_of_5_percent():
    files = [
        load_claims(study(name).claims, study(name).games) for name in ("interleaved", "sequence")
    ]
    primary = [c for each in files for claim in each.claims for c in claim.contrasts if c.primary]
    assert len(primary) == 4
    assert {c.over for c in primary} == {"tasks"}
    assert sum(each.rule.alpha for each in files) == 0.05
    assert {each.rule.min_seeds for each in files} == {10}


@pytest.mark.parametrize("name", ["interleaved", "sequence"])
def test_claims_name_networks_that_the_study_has(name):
    columns = {each.name for each in study(name).architectures}
    claims = load_claims(study(name).claims, study(name).games).claims
    named = {s.architecture for c in claims for k in c.contrasts for s in k.plus + k.minus}
    assert named <= columns
