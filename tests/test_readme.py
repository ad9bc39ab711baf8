"""The README is short, its code runs, and its links lead somewhere on PyPI too."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from budgets import with_tiny_budgets

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_code_runs(block, tmp_path, monkeypatch):
    if "MinAtar" in block:
        pytest.importorskip("gymnax", reason="needs the minatar extra")
    monkeypatch.chdir(tmp_path)
    exec(compile(with_tiny_budgets(block), str(README), "exec"), {})


def test_the_readme_is_short_and_has_code():
    assert len(README.read_text().split()) <= 700
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
            path = target.removeprefix(place).partition("#")[0]
            assert (ROOT / path).exists(), target


def test_addresses_are_left_as_they_are_and_paths_get_one():
    with_addresses = runpy.run_path(str(ROOT / "setup.py"))["with_addresses"]
    text = "[a](docs/a.md#b) ![c](d.png) [e](https://e.org) [f](#g)"
    assert with_addresses(text, "https://github.com/x/y") == (
        "[a](https://github.com/x/y/blob/main/docs/a.md#b) "
        "![c](https://raw.githubusercontent.com/x/y/main/d.png) [e](https://e.org) [f](#g)"
    )


def test_the_speeds_of_layers_are_the_measured_ones():
    results = ROOT / "benchmarks" / "results" / "layers-cpu-1-threads.json"
    ratios = {row["name"]: row["ratio"] for row in json.loads(results.read_text())["rows"]}
    page = (ROOT / "docs" / "speed.md").read_text()
    for peer in ("soft-moe-pytorch / SoftMoE with GELU", "ModuleList loop / SoftMoE"):
        found = [ratio for name, ratio in ratios.items() if name.startswith(f"{peer}, forward")]
        assert f"{min(found):.2f} to {max(found):.2f} times" in page
