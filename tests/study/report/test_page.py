"""The page in a browser: its charts answer, nothing is clipped, and no name is more than text."""

import math
import re
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from made_up_study import write, write_arrays

from sb3_moe.plots.style import short
from sb3_moe.saving.files import write_json
from sb3_moe.study.report.page import number
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.grid import read_study

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("no_drawing")]

EARLIER = Path(__file__).parents[3] / "examples" / "paper" / "earlier"
LONG = "network_" * 20
STUDY = f"""
name: "<svg,onload=alert(1)>"
games: [SpaceInvaders, Breakout]
regimes: [mtrl, crl]
orders: rotations
seeds: 2
steps_per_task: 81920
evaluation: {{points: 10, episodes: 4}}
about: {{title: "</title><script>alert(1)</script>", notes: ["<img src=x onerror=alert(1)>"]}}
architectures:
  dense: {{placement: none}}
  soft-big: {{placement: big, num_experts: 4}}
  "<svg,onload=alert(1)>": {{placement: big, router: top_k, num_experts: 12}}
  {LONG}: {{placement: none}}
"""
# What would be seen only in part.
CLIPPED = """() => [...document.querySelectorAll("body *")].filter((each) => {
    const right = each.getBoundingClientRect().right;
    const hides = getComputedStyle(each).overflowX !== "visible";
    const cut = hides && each.scrollWidth > each.clientWidth + 1;
    return each.clientWidth && (cut || right > innerWidth + 1);
}).map((each) => `${each.tagName}.${each.className}: ${each.textContent.slice(0, 60)}`)"""
# What is drawn on a chart, as a number that changes with it.
DRAWN = """(chart) => {
    const canvas = chart.querySelector("canvas");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.reduce((sum, value, k) => (sum * 31 + value + k) % 1000003, 0);
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, no_drawing):
    root = tmp_path_factory.mktemp("page")
    study = read_study(STUDY, root)
    levels = {a.name: 4.0 + 2 * k for k, a in enumerate(study.architectures)}
    write(root, study, lambda cell: levels[cell.architecture.name] + cell.seed)
    for job in survey(study.cells(), root):
        successes = np.full(job.folder.scores()["returns"].shape, 0.5)
        write_arrays(job.folder, "scores.npz", {**job.folder.scores(), "successes": successes})
        job.folder.finish({"steps": job.cell.total_steps, "last_attempt": {}})
    write_json(root / "study.json", {"command": "sb3-moe <b>"})
    write_json(root / "random.json", {game: [1.0] * 70 for game in study.games})
    return write_report(study, root)


@pytest.fixture
def opened(browser_page, page_file):
    yield browser_page.open(page_file)
    assert browser_page.messages == []
    assert browser_page.requests == [page_file.as_uri()]


def drawn(page):
    return page.locator(".chart").first.evaluate(DRAWN)


def test_the_values_under_the_pointer_are_those_of_every_network(opened):
    chart = opened.locator(".chart").first
    assert chart.locator(".tip").is_hidden()
    over = chart.locator(".u-over")
    over.hover(position={"x": over.bounding_box()["width"] - 2, "y": 40})
    text = chart.locator(".tip").inner_text()
    assert "163,840 steps" in text
    assert "Dense 4.50 [4.00, 5.00]" in text
    assert "<svg,onload=alert(1)> 8.50 [8.00, 9.00]" in text
    assert "random policy 1.00" in text
    opened.mouse.move(0, 0)
    assert chart.locator(".tip").is_hidden()


def test_numbers_stand_right_and_so_do_their_headings(opened):
    aligned = """all => all.map(each => getComputedStyle(each).textAlign)"""
    table = opened.locator("table").filter(has=opened.locator("text=Dormant neurons")).first
    headings = table.locator("th").evaluate_all(aligned)
    assert headings == ["left"] + ["right"] * (len(headings) - 1)
    assert table.locator("tbody tr").first.locator("td").evaluate_all(aligned) == headings


def test_arrow_keys_read_a_chart_too(opened):
    chart = opened.locator(".chart").first
    chart.locator(".plot").focus()
    opened.keyboard.press("End")
    assert "163,840 steps" in chart.locator(".tip").inner_text()
    opened.keyboard.press("ArrowLeft")
    assert "155,648 steps" in chart.locator(".tip").inner_text()
    opened.keyboard.press("Home")
    assert "0 steps" in chart.locator(".tip").inner_text()


def test_networks_and_seeds_can_be_switched_off_and_on(opened):
    charts, everything = opened.locator("#charts"), drawn(opened)
    for label in ("SoftMoE-Big", "1"):
        charts.get_by_label(label, exact=True).uncheck()
        assert drawn(opened) != everything
        chart = opened.locator(".plot").first
        chart.focus()
        opened.keyboard.press("End")
        charts.get_by_label(label, exact=True).check()
        assert drawn(opened) == everything
    charts.get_by_label("1", exact=True).uncheck()
    opened.locator(".plot").first.focus()
    opened.keyboard.press("End")
    assert "Dense 4.00\n" in opened.locator(".tip").first.inner_text() + "\n"
    charts.get_by_role("button", name="none").first.click()
    assert charts.get_by_label("SoftMoE-Big").is_checked() is False


def test_each_seed_can_be_drawn_by_itself(opened):
    means = drawn(opened)
    opened.get_by_label("each seed by itself").check()
    assert drawn(opened) != means
    opened.locator(".plot").first.focus()
    opened.keyboard.press("End")
    assert "Dense 4.50 (seeds 0: 4.00, 1: 5.00)" in opened.locator(".tip").first.inner_text()


def test_every_measure_can_be_chosen_and_each_is_drawn(opened):
    options = opened.locator("#measure option")
    names = options.all_inner_texts()
    assert names[:3] == [
        "Return",
        "Normalised return: 0 is the random policy, 1 is Dense from scratch",
        "Success, share of episodes",
    ]
    assert {"Dormant neurons, share of all", "Plasticity"} <= set(names)
    for name in names:
        opened.locator("#measure").select_option(label=name)
        assert opened.locator("#charts .chart").count() >= 2
        assert opened.locator("#charts canvas, #charts .dot").count() >= 2
    opened.locator("#measure").select_option(label="Plasticity")
    assert "seed 0: 1.00, seed 1: 1.00" in opened.locator(".each").first.inner_text()


@pytest.mark.parametrize("width", [400, 1280, 1920])
def test_nothing_is_clipped_at_any_width(browser_page, page_file, width):
    page = browser_page.open(page_file, width)
    for measure in ("Return", "Plasticity"):
        page.locator("#measure").select_option(label=measure)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(CLIPPED) == []


@pytest.mark.parametrize("name", ["results", "own_rates", "rates"])
def test_the_papers_pages_have_charts_and_clip_nothing(browser_page, name):
    address = EARLIER / name / "index.html"
    for width in (400, 1280, 1920):
        page = browser_page.open(address, width)
        assert page.locator(".uplot").count() >= 2
        assert page.evaluate(CLIPPED) == []
    assert browser_page.messages == []
    assert {url for url in browser_page.requests if not url.startswith("data:")} == {
        address.as_uri()
    }


@pytest.mark.parametrize(
    ("name", "write", "values"),
    [
        ("number", number, [0.0, 7e-08, 1.26e-05, -9.99e-05, 0.0032, 0.0491, -0.0549, 0.05]),
        ("number", number, [0.0996, 0.1, -0.126, 9.876, 12.34, 123.4, -1234.6, math.nan]),
        ("number", number, [99_999_900.0, 1e9, -1.2345e10, 1e30, 1.5e300]),
        ("short", short, [0, 500, 98_304, 163_840, 999_936, 999_960, 1_200_000, 1.5e9]),
    ],
)
def test_numbers_in_charts_are_written_as_in_tables_and_pictures(browser_page, name, write, values):
    path = files("sb3_moe.study.report").joinpath("templates", "script", "looks.js")
    (function,) = re.findall(rf"^function {name}\(.*?^}}$", path.read_text(), re.DOTALL | re.M)
    written = browser_page.page.evaluate(
        f"(values) => {{ {function} return values.map({name}) }}", values
    )
    assert written == [write(each) for each in values]


def wait_until(page, condition):
    """Wait as `wait_for_function` does, which the page's own policy forbids to poll."""
    deadline = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def test_a_page_that_is_made_narrower_is_laid_out_again(opened):
    opened.set_viewport_size({"width": 400, "height": 800})
    wait_until(opened, "document.querySelector('.uplot').clientWidth < 400")
    wait_until(opened, "document.querySelector('.table').classList.contains('cards')")
    assert opened.evaluate(CLIPPED) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_and_operated_by_everyone(browser_page, page_file, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    browser_page.page.emulate_media(color_scheme=scheme)
    page = browser_page.open(page_file)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    page.locator(".plot").first.focus()
    page.keyboard.press("End")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def test_no_name_becomes_markup(opened):
    assert opened.title() == "</title><script>alert(1)</script>"
    assert opened.locator("img, svg:not(.swatch)").count() == 0
    assert opened.locator("script").count() == 2
    assert opened.get_by_label("<svg,onload=alert(1)>", exact=True).is_checked()


def test_a_script_that_is_not_the_pages_own_does_not_run(browser_page, page_file, tmp_path):
    forged = page_file.read_text().replace("<h1>", "<script>window.ran = true</script><h1>", 1)
    (tmp_path / "forged.html").write_text(forged)
    page = browser_page.open(tmp_path / "forged.html")
    assert page.evaluate("window.ran") is None
    assert page.locator(".uplot").count() > 0
    (message,) = browser_page.messages
    assert "Content Security Policy" in message
