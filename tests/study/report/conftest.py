"""What tests of reports share."""

import pytest


@pytest.fixture(scope="module")
def no_drawing():
    """Pictures are made, but not drawn: that takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb3_moe.study.report.writing.save_figure", lambda *_, **__: None)
        yield
