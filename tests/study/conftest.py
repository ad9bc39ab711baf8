"""What tests of studies share."""

import pytest
from made_up_study import study, write

from sb3_moe.study.config import load_study
from sb3_moe.study.report import write_report

LEVELS = {"dense": 5.0, "soft-big": 9.0}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A study whose runs are all done, and its report; tests leave both as they are."""
    root = tmp_path_factory.mktemp("made-up")
    the_study = study(claims=load_study("smoke").claims)
    write(root, the_study, lambda run: LEVELS[run.architecture.name] + 0.01 * run.seed)
    write_report(the_study, root)
    return the_study, root


@pytest.fixture
def no_drawing(monkeypatch):
    """Leave figures out: they take longer than all the rest."""
    monkeypatch.setattr("sb3_moe.study.report.figures", lambda *_: {})
