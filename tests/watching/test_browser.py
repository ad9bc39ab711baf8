"""The page in a browser: it plays, takes keys, fits, and shows what was recorded.

Run wherever playwright and a Chromium of the system are found.
"""

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


@pytest.fixture(scope="module")
def path(replay, tmp_path_factory):
    return replay.save(tmp_path_factory.mktemp("page") / "replay.html")


@pytest.fixture
def page(browser_page, path):
    found = browser_page.open(path)
    found.wait_for_selector(".run")
    yield found
    assert browser_page.messages == []
    assert {url.split(":")[0] for url in browser_page.requests} <= {"file", "data"}
    assert sum(url.startswith("file") for url in browser_page.requests) == 1


def where(page):
    return page.text_content("#where")


def values(page, selector):
    script = "all => all.map(each => Number(each.dataset.value))"
    return np.array(page.eval_on_selector_all(selector, script), np.float32)


def test_its_numbers_are_those_of_the_policy_and_the_environment(page, replay):
    for step in (0, 10, 20):
        page.evaluate(f"seek({step})")
        for number, run in enumerate(replay.runs):
            card, track = f".run:nth-of-type({number + 1})", run.tracks[0]
            for name, gates_TE in track.gates.items():
                found = values(page, f'{card} [data-mixture="{name}"] .number')
                np.testing.assert_array_equal(found, gates_TE[step])
            np.testing.assert_array_equal(
                values(page, f'{card} [data-fact="reward"]'), track.rewards_T[[step]]
            )
            np.testing.assert_array_equal(
                values(page, f'{card} [data-fact="value"]'), track.values_TV[step]
            )


def test_it_plays_to_the_end_and_stops(page):
    page.select_option("#speed", "1")
    page.click("#play")
    assert page.text_content("#play") == "Pause"
    page.select_option("#speed", "50")
    playwright.expect(page.locator("#play")).to_have_text("Play", timeout=20_000)
    assert where(page) == "step 21 of 21"


def test_keys_and_buttons_move_it(page):
    press = page.keyboard.press
    moves = [("ArrowRight", 2), ("PageDown", 12), ("ArrowLeft", 11), ("End", 21), ("Home", 1)]
    for key, step in moves:
        press(key)
        assert where(page) == f"step {step} of 21"
    press(" ")
    assert page.text_content("#play") == "Pause"
    press(" ")
    assert page.text_content("#play") == "Play"
    press("Home")
    page.click("#next")
    assert where(page) == "step 2 of 21"
    press("+")
    assert page.input_value("#speed") == "20"
    press("t")
    assert page.get_attribute("#tab-1", "aria-selected") == "true"


def test_the_slider_the_strip_and_a_strong_moment_lead_to_their_steps(page, replay):
    page.fill("#scrub", "7")
    assert where(page) == "step 8 of 21"
    strip = page.locator(".strip").first
    strip.click(position={"x": strip.bounding_box()["width"] - 2, "y": 5})
    assert where(page) == "step 21 of 21"
    gates_T = np.abs(replay.runs[0].tracks[0].gates["pi.middle"][:, 0])
    moments = page.locator(".moments").first.locator("button")
    steps = [int(text.split()[1].rstrip(":")) - 1 for text in moments.all_inner_texts()]
    assert steps[0] == gates_T.argmax()
    assert len(steps) == 4
    assert min(abs(a - b) for a in steps for b in steps if a != b) > 1
    moments.first.click()
    assert where(page) == f"step {steps[0] + 1} of 21"


def test_the_frame_is_that_of_the_step(page):
    page.evaluate("seek(3)")
    middle = """() => {
      const canvas = document.querySelector('.frame'), pen = canvas.getContext('2d');
      return pen.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
    }"""
    page.wait_for_timeout(200)  # a picture is decoded beside what runs
    assert page.evaluate(middle) == 90


def test_actions_and_tasks_have_their_names_as_text(page, replay):
    assert page.text_content("#tab-1") == shown.NASTY
    assert page.locator("#tabs img").count() == 0
    labels = page.locator(".run").first.locator(".bars").first.locator("> span:nth-child(3n+1)")
    assert labels.all_inner_texts() == ["0 nothing", "1 little", f"2 {shown.NASTY}"]
    taken = int(replay.runs[0].tracks[0].actions_TD[0, 0])
    name = ["nothing", "little", shown.NASTY][taken]
    assert f"action {taken} ({name}), reward" in page.locator(".facts").first.inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_it_fits_and_can_be_read_by_everyone(browser_page, path, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the dev extra")
    browser_page.page.emulate_media(color_scheme=scheme)
    page = browser_page.open(path, width, 800)
    page.wait_for_selector(".run")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = """[...document.querySelectorAll('h1, h2, h3, p, button, .bars > *, select')].filter(
      each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== 'inline'
      && !each.classList.contains('hidden')).map(each => each.textContent)"""
    assert page.evaluate(clipped) == []
    page.click("summary")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert browser_page.messages == []
