"""Every numbered example runs from top to bottom, with a tiny budget."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))
# Arguments by number.
TINY = {
    "01": "--steps 1 --save quick_start",
    "02": "--steps 1 --episodes 1",
    "03": "--steps 1300 --episodes 1",
    "04": "--steps 110 --episodes 1",
    "05": "--steps 1 --n-steps 64 --episodes 1",
    "06": "--steps 1 --n-envs 2 --n-steps 8 --device cpu",
    "07": "--suite MinAtar/MTRL3 --rollouts 1 --episodes 1",
    "08": "--steps 1 --n-envs 2 --n-steps 8 --device cpu",
    "09": "--steps 500 --episodes 1",
    "10": "--n-envs 8 --rollouts 1 --cycles 1 --episodes 1",
    "11": "--steps 8192 --out own",
    "12": "--steps 1 --n-envs 8 --max-steps 20 --episodes 2",
    "13": "--n-envs 8 --rollouts 1 --episodes 1 --fit 2 --observations 60",
}


# Nightly: games and studies that others of these show too, in half a minute each.
LONG = ("07", "11")
CASES = [
    pytest.param(path, marks=pytest.mark.full) if path.name.startswith(LONG) else path
    for path in EXAMPLES
]


# SB3 silences this when it is imported; pytest hears it all the same.
@pytest.mark.filterwarnings("ignore:rich is experimental")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # As when Python runs the file.
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [path.name, *TINY[path.name[:2]].split()])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_no_two_examples_have_the_same_number():
    assert len({path.name[:2] for path in EXAMPLES}) == len(EXAMPLES)


def test_an_example_says_how_to_run_it_and_is_short():
    for path in EXAMPLES:
        lines = path.read_text().splitlines()
        assert f"    python examples/{path.name}" in "\n".join(lines)
        assert len(lines) <= 100, path.name
