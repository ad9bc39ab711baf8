"""Studies under ``examples`` and the scripts beside them: they can be read, built and run."""

import csv
import importlib.util
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sb3_moe.study.config import load_study
from sb3_moe.study.judging import load_claims
from sb3_moe.study.preparing import check_networks

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFLICT, PAPER = EXAMPLES / "conflict", EXAMPLES / "paper"
TASKS = [f"CartPole{k}" for k in range(8)]
# Studies that confirm, and those whose seeds they may not share.
FRESH = {
    ("conflict/interleaved", "conflict/sequence", "conflict/routing_confirmed"): (
        *("conflict/rates", "conflict/rates_task", "conflict/rates_more", "conflict/routing"),
        *("conflict/spread_interleaved", "conflict/spread_sequence"),
    ),
    ("conflict/images",): ("conflict/images_rates",),
    ("paper/tier1", "paper/tier2"): ("paper/rates",),
    ("paper/earlier/study",): ("paper/earlier/rates",),
}


def study(name):
    return load_study(str(EXAMPLES / f"{name}.yaml"))


def script(name):
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    script(name).main()


def seeds_of(names):
    return {seed for name in names for seed in study(name).seeds}


def test_confirming_studies_use_seeds_that_no_development_run_has_seen():
    for confirming, development in FRESH.items():
        assert not seeds_of(confirming) & seeds_of(development), confirming


@pytest.mark.parametrize("name", [*next(iter(FRESH)), "plasticity/permuted_breakout"])
def test_the_networks_of_a_study_can_be_built(name):
    if "breakout" in name:
        pytest.importorskip("gymnax", reason="needs the minatar extra")
    loaded = study(name)
    check_networks([each for each in loaded.runs() if each.seed == loaded.seeds[0]])


def test_a_study_of_the_paper_has_the_runs_that_the_protocol_counts():
    for name in ("rates", "tier1", "tier2"):
        runs = len(study(f"paper/{name}").runs())
        assert re.search(rf"\| `{name}.yaml` \| {runs} \|", (PAPER / "protocol.md").read_text())


def test_the_preset_for_a_cluster_has_the_networks_and_contrasts_of_both_tiers():
    full, tiers = load_study("paper-full"), [study(f"paper/tier{k}") for k in (1, 2)]
    assert {a.name: a for a in full.architectures} == {
        a.name: a for tier in tiers for a in tier.architectures
    }
    ours = load_claims(PAPER / "claims.yaml", tiers[0].games)
    theirs, free = load_claims(full.claims, ()), {"gain": "plasticity", "area": "relative_area"}
    assert theirs.rule == ours.rule
    for claim, other in zip(theirs.claims, ours.claims, strict=True):
        assert claim.contrasts == tuple(
            replace(each, measure=free.get(each.measure, each.measure)) for each in other.contrasts
        )


def report(folder, values, tasks=TASKS, regime="mtrl"):
    """Write what a report says of networks whose seeds end at the same return on all tasks."""
    rows = [
        {"regime": regime, "order": order, "architecture": network, "seed": seed,
         "measure": "final", "task": task, "value": value if order in ("", task) else -99.0}
        for network, seeds in values.items()
        for seed, value in seeds.items()
        for order in (tasks if regime == "scratch" else [""])
        for task in tasks
    ]  # fmt: skip
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "measures.csv", index=False)


def test_figures_of_conflicting_tasks_are_drawn_from_reports_alone(tmp_path):
    for name in ("interleaved", "about", "claims_interleaved"):
        shutil.copy(CONFLICT / f"{name}.yaml", tmp_path)
    dense, big = {0: 100, 1: 110, 2: 120}, {0: 300, 1: 300}
    report(tmp_path / "interleaved", {"dense": dense, "task-big": big})
    report(tmp_path / "tasks1", {"dense": {0: 400, 1: 400, 2: 400}}, ["CartPole0"])
    report(tmp_path / "alone", {"dense": {0: 390, 1: 410}}, regime="scratch")
    script("redraw").draw_conflict(tmp_path)
    rows = pd.read_csv(tmp_path / "against.csv").set_index(["against", "network", "x"])["value"]
    assert rows.to_dict() == {
        ("tasks", "dense", 1): 400,
        ("tasks", "dense", 8): 110,
        ("flops", "dense", 688): 110,
        ("flops", "task-big", 688): 300,
        ("flops", "separate", 688): 400,
    }
    for name in ("against_tasks", "against_flops"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def blocks(folder, network, seed, returns):
    """Write a run whose blocks of 100 steps have some returns before a switch cuts episodes."""
    folder = folder / "runs" / f"{network}-{seed}"
    folder.mkdir(parents=True)
    games = [f"Breakout{k}" for k in range(len(returns))]
    config = {"steps_per_task": 100, "games": games, "seed": seed}
    config["architecture"] = {"name": network}
    (folder / "config.json").write_text(json.dumps({"run": config}))
    with (folder / "progress-000000000.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["time/total_timesteps", "rollout/ep_rew_mean"])
        for k, value in enumerate(returns):
            end = 100 * k + 100
            writer.writerows([[end - 60, 0.0], [end - 20, value], [end - 10, ""], [end, 0.5]])


def test_plasticity_fades_where_later_blocks_are_learned_worse(tmp_path, monkeypatch, capsys):
    for seed in range(3):
        blocks(tmp_path / "fades", "dense", seed, [10 + seed, 10, 6, 5, 5])
        blocks(tmp_path / "fades", "sphere-0", seed, [8, 8, 8, 8, 8 + seed])
        blocks(tmp_path / "stays", "dense", seed, [10, 10, 9, 10, 10 + seed])
    run("plasticity/fading", monkeypatch, tmp_path / "fades")
    text = capsys.readouterr().out
    assert "| dense | 3 | 11.0 | 10.0 | 6.0 | 5.0 | 5.0 | -5.50 " in text
    assert "| sphere-0 - dense | 6.00 " in text
    assert text.rstrip().endswith("plasticity fades: the dense network learns later orders worse")
    run("plasticity/fading", monkeypatch, tmp_path / "stays")
    assert "untestable here: the dense network does not lose" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("plasticity/fading", monkeypatch, tmp_path)
    assert "must hold a run that went through all of its blocks" in capsys.readouterr().err
