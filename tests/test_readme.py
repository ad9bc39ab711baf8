"""The README is short, its code runs, and its links lead somewhere on PyPI too."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from budgets import with_tiny_budgets

from sb3_moe.study.report.page import interval

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAPER = ROOT / "examples" / "paper"
LEVELS = runpy.run_path(str(PAPER / "levels.py"))
INTERVAL = re.compile(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]")
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_code_runs(block, tmp_path, monkeypatch):
    if "MinAtar" in block:
        pytest.importorskip("gymnax", reason="needs the minatar extra")
    monkeypatch.chdir(tmp_path)
    exec(compile(with_tiny_budgets(block), str(README), "exec"), {})


def test_the_readme_is_short_and_has_code():
    assert len(README.read_text().split()) <= 900
    assert BLOCKS


def test_on_pypi_every_link_and_picture_of_the_readme_is_a_file_of_the_repository():
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"][
        "Repository"
    ]
    text = runpy.run_path(str(ROOT / "setup.py"))["with_addresses"](README.read_text(), repository)
    raw = repository.replace("//github.com/", "//raw.githubusercontent.com/")
    targets = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", text)
    assert len(targets) >= 20
    for picture, target in targets:
        assert target.startswith("https://")
        place = f"{raw}/main/" if picture else f"{repository}/blob/main/"
        if target.startswith((raw, repository)):
            assert (ROOT / target.removeprefix(place)).exists(), target


def test_addresses_are_left_as_they_are_and_paths_get_one():
    with_addresses = runpy.run_path(str(ROOT / "setup.py"))["with_addresses"]
    text = "[a](docs/a.md#b) ![c](d.png) [e](https://e.org) [f](#g)"
    assert with_addresses(text, "https://github.com/x/y") == (
        "[a](https://github.com/x/y/blob/main/docs/a.md#b) "
        "![c](https://raw.githubusercontent.com/x/y/main/d.png) [e](https://e.org) [f](#g)"
    )


def test_the_speed_table_is_the_measured_one():
    results = ROOT / "benchmarks" / "results" / "layers-cpu-1-threads.json"
    ratios = {row["name"]: row["ratio"] for row in json.loads(results.read_text())["rows"]}
    page = (ROOT / "docs" / "speed.md").read_text()
    table = re.findall(r"\| (\d+x\d+x\d+, H=.*?) \| (.*?) / (.*?) \| (.*?) / (.*?) \|", page)
    assert len(table) == 6
    for shape, *quoted in table:
        measured = [
            ratios[f"{peer}, {direction}, {shape}"]
            for peer in ("soft-moe-pytorch / SoftMoE with GELU", "ModuleList loop / SoftMoE")
            for direction in ("forward", "forward+backward")
        ]
        assert quoted == [f"{ratio:.2f}" for ratio in measured]


@pytest.mark.parametrize("name", ["claims", "levels", "returns"])
def test_the_results_are_those_of_the_csv_files(name):
    page = (ROOT / "docs" / "results.md").read_text()
    quoted = page.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    intervals = INTERVAL.findall(quoted)
    assert len(intervals) >= 5
    assert set(intervals) <= intervals_of_the_study()


def intervals_of_the_study():
    """Write every interval that its tables have, as texts quote it."""
    folder = PAPER / "tier1"
    names = {"verdicts.csv": "difference", "summary.csv": "return"}
    found = {
        interval(*(float(row[name]) for name in (value, "low", "high")))
        for file, value in names.items()
        for row in pd.read_csv(folder / file).to_dict("records")
    }
    return found | set(INTERVAL.findall(LEVELS["table"](folder)))


def rows_of(letter):
    """Give the cells of the page of what is known that lead to a run."""
    lines = (ROOT / "docs" / "known.md").read_text().splitlines()
    cells = [cell for line in lines for cell in line.split("|") if f"**({letter})**" in cell]
    return "\n".join(cells)


SAID = {
    "README": re.findall(r"^.*\]\(docs/results\.md\).*$", README.read_text(), re.MULTILINE)[-1],
    "results": (ROOT / "docs" / "results.md").read_text().split("\n## ")[1],
    "known": rows_of("k"),
}


@pytest.mark.parametrize(("place", "least"), [("README", 2), ("results", 20), ("known", 4)])
def test_what_is_quoted_of_the_papers_questions_is_in_the_tables_of_the_study(place, least):
    quoted = INTERVAL.findall(SAID[place])
    assert len(quoted) >= least
    assert set(quoted) <= intervals_of_the_study()
