"""The study of fading plasticity, and the script beside it, on made-up runs."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from sb3_moe.study.config import load_study
from sb3_moe.study.preparing import check_networks

PLASTICITY = Path(__file__).parents[2] / "examples" / "plasticity"


def script():
    spec = importlib.util.spec_from_file_location("fading", PLASTICITY / "fading.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(study, network, seed, returns):
    """Write a cell whose blocks of 100 steps have some returns before a switch cuts episodes."""
    folder = study / "runs" / f"{network}-{seed}"
    folder.mkdir(parents=True)
    config = {
        "steps_per_task": 100,
        "games": [f"Breakout{k}" for k in range(len(returns))],
        "seed": seed,
        "architecture": {"name": network},
    }
    (folder / "config.json").write_text(json.dumps({"run": config}))
    with (folder / "progress-000000000.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["time/total_timesteps", "rollout/ep_rew_mean"])
        for k, value in enumerate(returns):
            end = 100 * k + 100
            writer.writerows([[end - 60, 0.0], [end - 20, value], [end - 10, ""], [end, 0.5]])


def printed(monkeypatch, capsys, study):
    monkeypatch.setattr(sys, "argv", ["fading.py", str(study)])
    script().main()
    return capsys.readouterr().out


def test_a_network_that_learns_later_blocks_worse_fades(tmp_path, monkeypatch, capsys):
    for seed in range(3):
        cell(tmp_path, "dense", seed, [10 + seed, 10, 6, 5, 5])
        cell(tmp_path, "sphere-0", seed, [8, 8, 8, 8, 8 + seed])
    cell(tmp_path, "sphere-0", 3, [8.0])  # what is not whole has another number of blocks
    (tmp_path / "runs" / "sphere-0-3" / "progress-000000000.csv").unlink()
    text = printed(monkeypatch, capsys, tmp_path)
    assert "| dense | 3 | 11.0 | 10.0 | 6.0 | 5.0 | 5.0 | -5.50 " in text
    assert "| sphere-0 | 3 | 8.0 | 8.0 | 8.0 | 8.0 | 9.0 | 0.50 " in text
    assert "| sphere-0 - dense | 6.00 " in text
    assert text.rstrip().endswith("plasticity fades: the dense network learns later orders worse")


def test_a_network_that_does_not_leaves_nothing_to_test(tmp_path, monkeypatch, capsys):
    for seed in range(3):
        cell(tmp_path, "dense", seed, [10, 10, 9, 10, 10 + seed])
    text = printed(monkeypatch, capsys, tmp_path)
    assert text.rstrip().endswith(
        "untestable here: the dense network does not lose a tenth or more on later orders"
    )


def test_without_a_whole_run_there_is_nothing_to_say(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        printed(monkeypatch, capsys, tmp_path)
    assert "must hold a run that went through all of its blocks" in capsys.readouterr().err


def test_the_study_says_how_to_run_it_and_its_networks_can_be_built(tmp_path):
    pytest.importorskip("gymnax")
    path = PLASTICITY / "permuted_breakout.yaml"
    command = f"sb3-moe study run examples/plasticity/{path.name} --out runs/plasticity/{path.stem}"
    assert command in path.read_text()
    assert command in (PLASTICITY / "protocol.md").read_text()
    study = load_study(str(path))
    assert study.steps_per_task % (64 * 128) == 0
    check_networks(study.runs()[:: len(study.seeds)])
