"""The scripts beside the studies of conflicting tasks, on made-up reports."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd

CONFLICT = Path(__file__).parents[2] / "examples" / "conflict"
TASKS = [f"CartPole{k}" for k in range(8)]


def script(name):
    spec = importlib.util.spec_from_file_location(f"conflict_{name}", CONFLICT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(folder, values, tasks=TASKS, regime="mtrl"):
    """Write what a report says of networks whose seeds all tasks end at the same return."""
    rows = [
        {
            "regime": regime,
            "order": order,
            "architecture": network,
            "seed": seed,
            "measure": "final",
            "task": task,
            "value": float(value if regime == "mtrl" or task == order else -99),
        }
        for network, seeds in values.items()
        for seed, value in seeds.items()
        for order in (tasks if regime == "scratch" else [""])
        for task in tasks
    ]
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "measures.csv", index=False)


def test_figures_are_drawn_from_reports_alone(tmp_path, monkeypatch):
    figures = script("figures")
    shutil.copy(CONFLICT / "interleaved.yaml", tmp_path)
    for name in ("about", "claims_interleaved"):
        shutil.copy(CONFLICT / f"{name}.yaml", tmp_path)
    report(
        tmp_path / "interleaved", {"dense": {0: 100, 1: 110, 2: 120}, "task-big": {0: 300, 1: 300}}
    )
    report(tmp_path / "tasks1", {"dense": {0: 400, 1: 400, 2: 400}}, ["CartPole0"])
    report(tmp_path / "alone", {"dense": {0: 390, 1: 410}}, regime="scratch")
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path)])
    figures.main()
    rows = pd.read_csv(tmp_path / "against.csv").set_index(["against", "network", "x"])["value"]
    assert rows.to_dict() == {
        ("tasks", "dense", 1): 400,
        ("tasks", "dense", 8): 110,
        ("flops", "dense", 688): 110,
        ("flops", "task-big", 688): 300,
        ("flops", "separate", 688): 400,
    }
    assert (tmp_path / "against_tasks.png").stat().st_size > 10_000
    assert (tmp_path / "against_flops.png").stat().st_size > 10_000


def test_development_runs_settle_rates_margins_and_what_is_confirmed(tmp_path, monkeypatch, capsys):
    development = script("development")
    rates = {
        "dense-0.003": {100: 100, 101: 100, 102: 100},
        "dense-0.01": {100: 180, 101: 200, 102: 220},
        "task-big-0.003": {100: 300, 101: 300, 102: 300},
        "task-big-0.01": {100: 390, 101: 400, 102: 410},
    }
    report(tmp_path / "rates" / "report", rates)
    spread = {"dense": {103: 190, 104: 210}, "task-big": {103: 395, 104: 405}}
    report(tmp_path / "spread_interleaved" / "report", spread)
    report(tmp_path / "routing" / "report", {"top1-big": {110: 200}, "top1-id": {110: 300}})
    monkeypatch.setattr(sys, "argv", ["development.py", str(tmp_path)])
    development.main()
    said = capsys.readouterr().out
    assert "| dense | 0.003: 100.0 (3 seeds), 0.01: 200.0 (3 seeds) | 0.01 (an end" in said
    pooled = np.sqrt((250 + 62.5) / 2)
    assert f"| interleaved: task-big - dense | 5 seeds, {pooled:.1f} | 13 | 1.00 |" in said
    assert "| sequence: task-big - dense-wide | 0 seeds: too few" in said
    assert "| top1-id | 300.0 | confirm |" in said


def test_the_table_of_interventions_has_a_row_for_each_expert(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["interventions.py", "--steps", "1", "--episodes", "2"])
    script("interventions")
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"|  | {' | '.join(TASKS)} |"
    assert [row.split(" | ")[0] for row in rows] == [
        "| all experts",
        *(f"| without {k}" for k in range(8)),
    ]
