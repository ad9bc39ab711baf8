"""The simulation of intervals beside the studies."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def coverage(monkeypatch):
    spec = importlib.util.spec_from_file_location("coverage_script", EXAMPLES / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REPEATS", 200)
    return module


@pytest.mark.covering
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("number", [2, 4])
def test_a_simulated_interval_covers_about_as_often_as_it_says(coverage, number, correlation):
    shares = coverage.covered((coverage.bounded(260, 30),) * number, correlation)
    assert 0.9 <= shares["paired t"] <= 1
    assert shares["bootstrap"] <= shares["paired t"]


def test_runs_of_two_kinds_have_the_mean_of_both(coverage):
    even = (np.arange(100_000) + 0.5) / 100_000
    drawn = coverage.two_kinds(0.4, 1.4, 0.3, 0.1)(even)
    assert drawn.mean() == pytest.approx(0.3 * 0.4 + 0.7 * 1.4, abs=1e-3)
    assert (drawn < 0.9).mean() == pytest.approx(0.3, abs=1e-3)
