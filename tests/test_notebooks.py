"""The notebooks of the documentation: they hold no output, and run from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def code_of(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_code_and_no_output(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    assert len(code_of(notebook)) >= 5
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    for code in code_of(notebook):
        compile(code, str(notebook), "exec")


@pytest.mark.full
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook):
    namespace = {}
    for code in code_of(notebook):
        exec(compile(code, str(notebook), "exec"), namespace)
