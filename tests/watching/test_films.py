"""Films have the gates drawn in, whatever the size of the tasks' pictures."""

import numpy as np
import pytest
import shown
from PIL import Image, ImageColor

import sb3_moe
from sb3_moe.watching.films import COLORS


@pytest.fixture(scope="module")
def replay():
    found = sb3_moe.watch(shown.agent())
    # As an environment without a common canvas draws its tasks.
    for track, size in zip(found.runs[0].tracks, (8, 300), strict=True):
        track.frames = [np.full((size, size + 10, 3), 200, np.uint8)] * len(track.frames)
    return found


def near(frame, color):
    return (np.abs(np.asarray(frame, int) - ImageColor.getrgb(color)).sum(-1) < 30).sum()


def test_a_gif_has_a_frame_for_each_step_and_the_gates_in_their_colors(replay, tmp_path):
    path = replay.to_video(tmp_path / "replay.gif", size=100, fps=5)
    with Image.open(path) as film:
        assert film.n_frames == 14
        assert film.info["duration"] == 200
        film.seek(9)
        frame = film.convert("RGB")
    gates = replay.runs[0].tracks[1].gates
    for expert in [gates[name][2].argmax() for name in gates]:
        assert near(frame, COLORS[expert]) > 100


def test_without_pictures_the_gates_are_drawn_all_the_same(tmp_path):
    plain = sb3_moe.watch(shown.agent(router="top_k"), frames=False)
    path = plain.to_video(tmp_path / "replay.gif", max_steps=2)
    with Image.open(path) as film:
        assert film.n_frames == 4
        frame = film.convert("RGB")
    gates_NE = [gates[0] for gates in plain.runs[0].tracks[0].gates.values()]
    assert [near(frame, COLORS[k]) > 0 for k in range(3)] == np.any(gates_NE, 0).tolist()
    with pytest.raises(ValueError, match=r"must end in one of \('.gif', '.mp4'\), got 'x.avi'"):
        plain.to_video(tmp_path / "x.avi")


# The tests before it may have loaded jax, which warns of forks.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_an_mp4_is_one(replay, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="needs the video extra")
    path = replay.to_video(tmp_path / "replay.mp4", size=64)
    assert path.read_bytes()[4:8] == b"ftyp"
    assert [each.name for each in tmp_path.iterdir()] == ["replay.mp4"]
