"""What tests of reports share."""

import pytest


@pytest.fixture
def no_drawing(monkeypatch):
    """Leave figures out: they take longer than all the rest."""
    monkeypatch.setattr("sb3_moe.study.report.writing.figures", lambda *_: {})
