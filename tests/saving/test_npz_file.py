"""Arrays in a file: they come back as they were, and a damaged file is named."""

import numpy as np
import pytest

from sb3_moe.measures.curves import load_scores
from sb3_moe.saving.files import read_npz, write_npz
from sb3_moe.saving.record import Record
from sb3_moe.watching.figures import draw_dormant


def test_what_was_written_is_read_and_the_folder_is_made(tmp_path):
    arrays = {"steps": np.arange(3), "names": np.array(["a", "Größe"])}
    write_npz(tmp_path / "new" / "a.npz", arrays)
    found = read_npz(tmp_path / "new" / "a.npz")
    assert list(found) == list(arrays)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive"], ids=["empty", "cut", "text"])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("scores.npz", load_scores),
        ("diagnostics.npz", draw_dormant),
        ("any.npz", lambda folder: read_npz(folder / "any.npz")),
        ("rows.npz", lambda folder: Record(folder / "rows.npz").resume(1)),
    ],
    ids=["scores", "diagnostics", "arrays", "record"],
)
def test_a_damaged_file_is_named(name, read, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} (can't be read|must be what .* wrote): "):
        read(tmp_path)
