"""JSON files: what can't be read says so in a line."""

import json

import pytest

from sb3_moe.saving.files import read_json, write_json


def test_what_was_written_is_read(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Größe", "values": [1, None]})
    assert read_json(tmp_path / "a.json") == {"name": "Größe", "values": [1, None]}


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", "{", "\xff"])
def test_json_that_cannot_be_read_is_one_line_with_the_files_name(tmp_path, text):
    path = tmp_path / "done.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"^done\.json can't be read: .+$"):
        read_json(path)


def test_json_that_is_no_object_is_refused_with_its_type(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"a.json must hold a JSON object, got list"):
        read_json(tmp_path / "a.json")
