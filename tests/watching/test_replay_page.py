"""The page holds what was recorded, loads nothing, and takes no markup from names."""

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import shown
from PIL import Image

import sb3_moe
from sb3_moe.watching.frames import as_frame, data_of, shrunk

NASTY = "</script><img src=x onerror=alert(1)>&\u2028{{script}}"


@pytest.fixture(scope="module")
def replay():
    return sb3_moe.watch(shown.agent(), without=["pi:1"])


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.data, self.inside = [], {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self.inside:
            self.data[self.inside] = self.data.get(self.inside, "") + data


def data_in(page):
    return json.loads(Elements(page).data["data"])


def numbers(table):
    return np.frombuffer(base64.b64decode(table["data"]), "<f4").reshape(-1, table["width"])


def test_the_pages_numbers_are_those_that_were_recorded(replay):
    data = data_in(replay.to_html())
    for run, saved in zip(replay.runs, data["runs"], strict=True):
        for track, shown_track in zip(run.tracks, saved["tracks"], strict=True):
            for name, gates_TE in track.gates.items():
                np.testing.assert_array_equal(numbers(shown_track["gates"][name]), gates_TE)
            np.testing.assert_array_equal(numbers(shown_track["rewards"])[:, 0], track.rewards_T)
            np.testing.assert_array_equal(numbers(shown_track["values"]), track.values_TV)
    # Seven pictures of each task, of which the black ones are equal and there once.
    assert len(data["frames"]) == len(set(data["frames"])) == 13
    first, second = (run["tracks"][0]["frame"] for run in data["runs"])
    assert first == second


def test_the_page_loads_nothing(replay):
    page = replay.to_html()
    assert not [tag for tag, attrs in Elements(page).tags if {"src", "href"} & attrs.keys()]
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]", page.split("<script>")[0])


def test_names_inject_no_markup(replay):
    nasty = copy.deepcopy(replay)
    nasty.title = nasty.runs[0].label = nasty.runs[0].tracks[0].task = NASTY
    nasty.task_names[0] = nasty.no_frames = NASTY
    page = nasty.to_html()
    assert [tag for tag, _ in Elements(page).tags] == [
        tag for tag, _ in Elements(replay.to_html()).tags
    ]
    data = data_in(page)
    assert data["runs"][0]["label"] == data["noFrames"] == NASTY
    assert not set("<>&\u2028") & set(Elements(page).data["data"])


def test_a_notebook_shows_the_page_in_a_frame_that_can_reach_nothing(replay):
    [(tag, attrs)] = Elements(replay._repr_html_()).tags
    assert (tag, attrs["sandbox"]) == ("iframe", "allow-scripts")
    assert attrs["srcdoc"] == replay.to_html()


def test_a_page_is_written_whole_into_a_new_folder(replay, tmp_path):
    path = replay.save(tmp_path / "new" / "replay.html")
    assert path.read_text() == replay.to_html()
    assert [each.name for each in path.parent.iterdir()] == ["replay.html"]
    with pytest.raises(ValueError, match=r"`path` must name .*'x\.GIF': `to_video` writes films"):
        replay.save(tmp_path / "x.GIF")


def pixels(data):
    raw = base64.b64decode(data.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def test_pixel_art_is_kept_in_its_own_size_and_without_loss():
    small = np.random.default_rng(0).integers(0, 2, (10, 9, 3), np.uint8) * 255
    data = data_of(small.repeat(16, 0).repeat(16, 1))
    np.testing.assert_array_equal(pixels(data), small)
    assert len(data) < 300  # a thousand steps stay small
    assert shrunk(small) is small
    odd = small.repeat(16, 0).repeat(16, 1)[:, :-1]  # no longer whole pixels
    assert shrunk(odd) is odd
    photo = np.random.default_rng(0).integers(0, 256, (600, 300, 3), np.uint8)
    assert pixels(data_of(photo)).shape == (480, 240, 3)


def test_images_have_three_channels_in_whole_numbers_whatever_an_environment_draws():
    for channels in ((), (1,), (3,), (4,)):
        picture = np.zeros((4, 6, *channels), np.uint8)
        picture[:2] = 255
        frame = as_frame(picture)
        assert (frame.shape, frame.dtype) == ((4, 6, 3), np.uint8)
        assert np.unique(frame[:2]).tolist() == [255]
        assert np.unique(frame[2:]).tolist() == [0]
    with pytest.raises(ValueError, match=r"of uint8, got ndarray \(4, 6\) of float64"):
        as_frame(np.zeros((4, 6)))
