"""The README's code runs, with tiny budgets."""

import json
import re
from pathlib import Path

import pytest

from sb3_moe.study.report.headline import claims_table, returns_table

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
TINY = [
    (r"learn\([\d_]+", "learn(600"),
    (r"n_envs=64", "n_envs=8"),
    (r"steps_per_task=[\d_]+", "steps_per_task=1024"),
    (r"every=[\d_]+", "every=600, n_eval_episodes=1"),
]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_code_runs(block, tmp_path, monkeypatch):
    if "MinAtar" in block:
        pytest.importorskip("gymnax", reason="needs the minatar extra")
    monkeypatch.chdir(tmp_path)
    for pattern, replacement in TINY:
        block = re.sub(pattern, replacement, block)
    exec(compile(block, str(README), "exec"), {})


def test_the_readme_has_code():
    assert len(BLOCKS) >= 3


def test_the_readmes_speed_table_is_the_measured_one():
    results = README.parent / "benchmarks" / "results" / "layers-cpu-1-threads.json"
    ratios = {row["name"]: row["ratio"] for row in json.loads(results.read_text())["rows"]}
    table = re.findall(
        r"\| (\d+x\d+x\d+, H=.*?) \| (.*?) / (.*?) \| (.*?) / (.*?) \|", README.read_text()
    )
    assert len(table) == 6
    for shape, *quoted in table:
        measured = [
            ratios[f"{peer}, {direction}, {shape}"]
            for peer in ("soft-moe-pytorch / SoftMoE with GELU", "ModuleList loop / SoftMoE")
            for direction in ("forward", "forward+backward")
        ]
        assert quoted == [f"{ratio:.2f}" for ratio in measured]


@pytest.mark.parametrize(("name", "table"), [("claims", claims_table), ("returns", returns_table)])
def test_the_readmes_results_are_those_of_the_csv_files(name, table):
    results = README.parent / "examples" / "paper" / "own_rates"
    quoted = README.read_text().split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    assert quoted.strip() == table(results)
    assert quoted.count("[") >= 5  # with intervals
