"""The page holds what was recorded, loads nothing, and takes no markup from names."""

import base64
import copy
import json
import re
from html.parser import HTMLParser

import gymnasium as gym
import numpy as np
import pytest
import shown
from PIL import Image
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.saving.files import embedded
from sb3_moe.watching import Sleep
from sb3_moe.watching.pictures import as_bytes, data_of, shrunk

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


def test_the_page_loads_nothing(replay):
    page = replay.to_html()
    tags = Elements(page).tags
    assert not [tag for tag, attrs in tags if {"src", "href"} & attrs.keys()]
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//[a-z]", page.split("<script>")[0])


def test_names_inject_no_markup(replay):
    before = [tag for tag, _ in Elements(replay.to_html()).tags]
    nasty = sb3_moe.watch(shown.agent())
    nasty.title = nasty.runs[0].label = nasty.runs[0].tracks[0].task = NASTY
    nasty.task_names[0] = nasty.no_frames = NASTY
    page = nasty.to_html()
    assert [tag for tag, _ in Elements(page).tags] == before
    data = data_in(page)
    assert data["tasks"][0] == data["runs"][0]["label"] == data["noFrames"] == NASTY


def test_numbers_that_are_none_are_on_the_page_too(replay):
    strange = copy.deepcopy(replay)
    track = strange.runs[0].tracks[0]
    track.returns, track.rewards_T[0] = [float("nan"), -float("inf"), -2.5], np.nan
    track.sleep[0] = Sleep("pi.0", float("nan"), (float("nan"),))
    saved = data_in(strange.to_html())["runs"][0]["tracks"][0]
    assert saved["returns"] == ["nan", "-inf", -2.5]
    assert saved["sleep"][0] == {"layer": "pi.0", "share": "nan", "perExpert": ["nan"]}


def test_json_in_a_page_ends_no_element_and_no_line():
    text = embedded([NASTY])
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == [NASTY]


def test_a_notebook_shows_the_page_in_a_frame_that_can_reach_nothing(replay):
    [(tag, attrs)] = Elements(replay._repr_html_()).tags
    assert tag == "iframe"
    assert attrs["sandbox"] == "allow-scripts"
    assert attrs["srcdoc"] == replay.to_html()


def test_a_page_is_written_whole(replay, tmp_path):
    path = replay.save(tmp_path / "replay.html")
    assert path.read_text() == replay.to_html()
    assert [each.name for each in tmp_path.iterdir()] == ["replay.html"]


def test_pixel_art_is_kept_in_its_own_size_and_without_loss():
    small = np.random.default_rng(0).integers(0, 2, (10, 10, 3), np.uint8) * 255
    large = small.repeat(16, 0).repeat(16, 1)
    np.testing.assert_array_equal(shrunk(large), small)
    np.testing.assert_array_equal(pixels(data_of(large)), small)


def test_what_is_no_enlargement_stays_as_it_is():
    frame = np.random.default_rng(0).integers(0, 2, (7, 9, 3), np.uint8)
    assert shrunk(frame) is frame


def test_a_grey_frame_and_one_of_many_colours_are_pictures_too():
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (20, 20, 1), np.uint8)
    np.testing.assert_array_equal(pixels(data_of(grey)), grey.repeat(3, 2))
    photo = random.integers(0, 256, (600, 900, 3), np.uint8)
    data = data_of(photo)
    assert data.startswith("webp;base64,")
    assert pixels(data).shape == (320, 480, 3)


def pixels(data):
    import io

    raw = base64.b64decode(data.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))


def test_an_equal_picture_is_on_the_page_once(replay):
    data = data_in(replay.to_html())
    # Seven of each task, of which the black ones are equal.
    assert len(data["frames"]) == len(set(data["frames"])) == 13
    first, second = (run["tracks"][0]["frame"] for run in data["runs"])
    assert first == second


class Drawing(gym.Env):
    """Draws the upper half white and the lower one black, in numbers of a kind.

    :param kind: of numpy
    :param white: the number of white
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, kind, white, render_mode="rgb_array"):
        self.kind, self.white, self.render_mode = kind, white, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def render(self):
        picture = np.zeros((4, 6, 3), self.kind)
        picture[:2] = self.white
        return picture


@pytest.mark.parametrize(
    ("kind", "white"),
    [("u1", 255), ("f4", 1.0), ("f8", 255.0), ("bool", True), ("i8", 300), ("f4", np.inf)],
)
def test_white_is_white_in_whatever_numbers_an_environment_draws(kind, white):
    model = PPO("MlpPolicy", Drawing(kind, white), n_steps=8, batch_size=8, device="cpu")
    track = sb3_moe.watch(model, Drawing(kind, white), max_steps=1).runs[0].tracks[0]
    (frame,) = track.frames
    assert frame.dtype == np.uint8
    assert np.unique(frame[:2]).tolist() == [255]
    assert np.unique(frame[2:]).tolist() == [0]


def test_shares_of_255_are_rounded_and_what_is_no_number_is_black():
    picture = np.array([[0.0, 0.5, 1.0, np.nan]])
    assert as_bytes(picture).tolist() == [[0, 128, 255, 0]]
    assert as_bytes(np.array([[-3.0, 1.0, 99.6, 256.0]])).tolist() == [[0, 1, 100, 255]]
