"""The page in a browser: it plays, takes keys, fits, and shows what was recorded.

Run wherever playwright and a Chromium of the system are found.
"""

import copy

import numpy as np
import pytest
import shown

import sb3_moe
from sb3_moe.watching import expert_importance

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="needs the dev extra")


@pytest.fixture(scope="module")
def replay():
    model = shown.agent(num_experts=9)
    found = sb3_moe.watch(model, episodes=3, without=["pi:1"], deterministic=False)
    found.importance = expert_importance(model, episodes=2)
    for run in found.runs:
        run.tracks[1].task = shown.NASTY
    return found


class Opened:
    """A page, with everything that it said or asked for."""

    def __init__(self, chromium, path, **kwargs):
        self.page = chromium.new_context(**kwargs).new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".run")

    @property
    def where(self):
        return self.page.text_content("#where")

    def values(self, selector):
        script = "all => all.map(each => Number(each.dataset.value))"
        return np.array(self.page.eval_on_selector_all(selector, script), np.float32)


@pytest.fixture(scope="module")
def path(replay, tmp_path_factory):
    return replay.save(tmp_path_factory.mktemp("page") / "replay.html")


@pytest.fixture
def opened(chromium, path):
    found = Opened(chromium, path)
    yield found
    assert found.said == []
    assert {url.split(":")[0] for url in found.asked} <= {"file", "data"}
    assert sum(url.startswith("file") for url in found.asked) == 1
    found.page.context.close()


def test_its_numbers_are_those_of_the_policy_and_the_environment(opened, replay):
    for step in (0, 10, 20):
        opened.page.evaluate(f"seek({step})")
        for number, run in enumerate(replay.runs):
            card, track = f".run:nth-of-type({number + 1})", run.tracks[0]
            for name, gates_TE in track.gates.items():
                found = opened.values(f'{card} [data-mixture="{name}"] .number')
                np.testing.assert_array_equal(found, gates_TE[step])
            np.testing.assert_array_equal(
                opened.values(f'{card} [data-fact="reward"]'), track.rewards_T[[step]]
            )
            np.testing.assert_array_equal(
                opened.values(f'{card} [data-fact="value"]'), track.values_TV[step]
            )


def test_a_picture_goes_where_none_is_drawn_any_more_and_the_page_says_why(
    chromium, replay, tmp_path
):
    part = copy.deepcopy(replay)
    part.no_frames = "no screen"
    for run in part.runs:
        for track in run.tracks:
            track.frame_T[10:] = -1
    found = Opened(chromium, part.save(tmp_path / "part.html"))
    blank = """all => all.map(each => !each.getContext("2d")
        .getImageData(0, 0, each.width, each.height).data.some(value => value))"""
    found.page.evaluate("seek(9)")
    found.page.wait_for_timeout(100)
    assert not any(found.page.eval_on_selector_all("canvas.frame", blank))
    found.page.evaluate("seek(10)")
    found.page.wait_for_timeout(100)
    assert all(found.page.eval_on_selector_all("canvas.frame", blank))
    assert found.page.text_content(".noframes") == "No more pictures: no screen."
    found.page.context.close()


def test_it_plays_to_the_end_and_stops(opened):
    opened.page.select_option("#speed", "1")
    opened.page.click("#play")
    assert opened.page.text_content("#play") == "Pause"
    opened.page.select_option("#speed", "50")
    playwright.expect(opened.page.locator("#play")).to_have_text("Play", timeout=20_000)
    assert opened.where == "step 21 of 21"


def test_keys_and_buttons_move_it(opened):
    press = opened.page.keyboard.press
    moves = [("ArrowRight", 2), ("PageDown", 12), ("ArrowLeft", 11), ("End", 21), ("Home", 1)]
    for key, step in moves:
        press(key)
        assert opened.where == f"step {step} of 21"
    press(" ")
    assert opened.page.text_content("#play") == "Pause"
    press(" ")
    assert opened.page.text_content("#play") == "Play"
    press("Home")
    opened.page.click("#next")
    assert opened.where == "step 2 of 21"
    press("+")
    assert opened.page.input_value("#speed") == "20"
    press("t")
    assert opened.page.get_attribute("#tab-1", "aria-selected") == "true"


def test_the_slider_the_strip_and_a_strong_moment_lead_to_their_steps(opened, replay):
    opened.page.fill("#scrub", "7")
    assert opened.where == "step 8 of 21"
    strip = opened.page.locator(".strip").first
    strip.click(position={"x": strip.bounding_box()["width"] - 2, "y": 5})
    assert opened.where == "step 21 of 21"
    gates_T = np.abs(replay.runs[0].tracks[0].gates["pi.middle"][:, 0])
    moments = opened.page.locator(".moments").first.locator("button")
    steps = [int(text.split()[1].rstrip(":")) - 1 for text in moments.all_inner_texts()]
    assert steps[0] == gates_T.argmax()
    assert len(steps) == 4
    assert min(abs(a - b) for a in steps for b in steps if a != b) > 1
    moments.first.click()
    assert opened.where == f"step {steps[0] + 1} of 21"


def test_the_frame_is_that_of_the_step(opened):
    opened.page.evaluate("seek(3)")
    middle = """() => {
      const canvas = document.querySelector('.frame'), pen = canvas.getContext('2d');
      return pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
    }"""
    opened.page.wait_for_timeout(200)  # a picture is decoded beside what runs
    assert opened.page.evaluate(middle) == 90


def test_actions_and_tasks_have_their_names_as_text(opened, replay):
    assert opened.page.text_content("#tab-1") == shown.NASTY
    assert opened.page.locator("#tabs img").count() == 0
    labels = (
        opened.page.locator(".run").first.locator(".bars").first.locator("> span:nth-child(3n+1)")
    )
    assert labels.all_inner_texts() == ["0 nothing", "1 little", f"2 {shown.NASTY}"]
    taken = int(replay.runs[0].tracks[0].actions_TD[0, 0])
    name = ["nothing", "little", shown.NASTY][taken]
    assert f"action {taken} ({name}), reward" in opened.page.locator(".facts").first.inner_text()


def test_long_names_many_tasks_and_nan_fit_on_a_phone_too(chromium, replay, tmp_path):
    strange = copy.deepcopy(replay)
    strange.importance, strange.runs = None, strange.runs[:1]
    track = strange.runs[0].tracks[0]
    track.actions = ["a" * 300] * 3
    track.rewards_T[:] = track.values_TV[:] = np.nan
    track.preferences[0][:, 1] = -np.inf
    track.returns = [np.nan]
    strange.task_names = [f"{k}{'t' * 300}" for k in range(2)] + [f"Breakout{k}" for k in range(48)]
    tracks = [copy.copy(track) for _ in strange.task_names]
    for each, name in zip(tracks, strange.task_names, strict=True):
        each.task = name
    strange.runs[0].tracks = tracks
    size = {"width": 400, "height": 800}
    found = Opened(chromium, strange.save(tmp_path / "strange.html"), viewport=size)
    page = found.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert "Returns: NaN." in page.inner_text(".run")
    assert "values (vf) that are no numbers" in page.inner_text(".run")
    page.keyboard.press("End")
    # The tasks are one row, and the one that is shown is in sight.
    places = [page.locator(f"#tab-{k}").bounding_box()["y"] for k in (3, 48)]
    assert places[0] == places[1]
    for _ in range(6):
        page.keyboard.press("t")
    page.focus("#tab-6")
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    box = page.locator("#tab-48").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400
    assert page.evaluate("scrollY") == 0
    assert found.said == []


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_it_fits_and_can_be_read_by_everyone(chromium, path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the dev extra")
    size = {"width": width, "height": 800}
    opened = Opened(chromium, path, viewport=size, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """[...document.querySelectorAll('h1, h2, h3, p, button, .bars > *, select')].filter(
      each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline'
      && !each.classList.contains('hidden')).map(each => each.textContent)"""
    assert opened.page.evaluate(clipped) == []
    opened.page.click("summary")
    results = axe.Axe().run(opened.page)
    assert [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in results.response["violations"]
    ] == []
    assert opened.said == []
    opened.page.context.close()
