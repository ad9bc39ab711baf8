"""A folder that can't be written to is refused before there is anything to lose."""

import pytest

from sb3_moe.saving.files import check_writable


def test_a_folder_that_cant_be_made_is_refused_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written, got .*file"):
        check_writable(tmp_path / "file" / "below")


def test_a_folder_is_made_and_nothing_left_in_it(tmp_path):
    check_writable(tmp_path / "new" / "below")
    assert list((tmp_path / "new" / "below").iterdir()) == []
