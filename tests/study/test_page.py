"""The page in a browser: it can be read by everyone, nothing is cut off, and no name is markup."""

import pytest
from made_up_study import study as made_up
from made_up_study import write

from sb3_moe.study.config import About
from sb3_moe.study.report import write_report

pytestmark = pytest.mark.browser

TASKS = ("SpaceInvaders", "Breakout", "Asterix", "Freeway")
SCRIPT = "</title><script>window.ran = true</script>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    names = ("dense", "soft-big", "<svg,onload=alert(1)>", "a-name-that-is-longer-than-others-are")
    about = About(title=SCRIPT, notes=("<img src=x onerror=alert(1)>",))
    values = {"games": TASKS, "about": about, "regimes": ("mtrl",), "architectures": names}
    study = made_up(seeds=2, claims=None, **values)
    write(root, study, lambda run: 4.0 + 2 * names.index(run.architecture.name) + run.seed)
    with pytest.MonkeyPatch.context() as context:
        context.setattr("sb3_moe.study.report.figures", lambda *_: {})  # tables are what is wide
        return write_report(study, root)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_never_wider_than_the_screen_and_wide_tables_scroll(
    browser_page, page_file, width
):
    page = browser_page.open(page_file, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    table = page.locator(".scroll").first
    scrolls = table.evaluate("(each) => each.scrollWidth > each.clientWidth")
    assert scrolls == (width == 400)
    # What a row is of stays in sight.
    table.evaluate("(each) => each.scrollLeft = 300")
    assert table.locator("tbody th").first.bounding_box()["x"] >= 0
    assert browser_page.messages == []
    requests = {url for url in browser_page.requests if not url.startswith("data:")}
    assert requests == {page_file.as_uri()}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_and_operated_by_everyone(browser_page, page_file, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    browser_page.page.emulate_media(color_scheme=scheme)
    page = browser_page.open(page_file)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
