"""The documentation follows the code: links lead somewhere, snippets run, names have a row."""

import re
from pathlib import Path

import pytest
from budgets import with_tiny_budgets

from sb3_moe import callbacks
from sb3_moe.layers.classes import own_options
from sb3_moe.layers.registry import EXPERTS, ROUTERS
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.policies.placements import PLACEMENTS
from sb3_moe.policies.registration import TABLE
from sb3_moe_envs import SUITES, schedules
from sb3_moe_envs.suites import suite_names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("contributing/*.md")])
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))
OTHERS = [
    ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CODE_OF_CONDUCT", "CONTRIBUTING")
]
OTHERS.append(ROOT / "SECURITY.md")
EXAMPLES = sorted((ROOT / "examples").rglob("*.md"))
REPORTS = sorted((ROOT / "examples").rglob("index.html"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(path):
    return str(path.relative_to(ROOT))


def snippets(page, *languages):
    return [code for language, code in FENCE.findall(page.read_text()) if language in languages]


def links(page):
    text = FENCE.sub("", page.read_text())
    return [link for link in LINK.findall(text) if not re.match(r"https?:|mailto:", link)]


def headings(page):
    text = FENCE.sub("", page.read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_somewhere(page, link):
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in headings(target))


def test_every_relative_link_leads_to_a_file_and_a_heading():
    pages = [*OTHERS, *PAGES, *EXAMPLES]
    dead = [(name_of(p), link) for p in pages for link in links(p) if not leads_somewhere(p, link)]
    assert not dead


def test_every_link_of_a_report_leads_to_a_file_beside_it():
    found = {page: re.findall(r'<a href="([^"#:]+)"', page.read_text()) for page in REPORTS}
    dead = [
        (name_of(p), to)
        for p, links in found.items()
        for to in links
        if not (p.parent / to).exists()
    ]
    assert not dead


def test_the_index_has_a_line_for_every_page_and_the_readme_leads_there():
    index = {DOCS / link for link in links(DOCS / "README.md")}
    assert index >= {*PAGES, *NOTEBOOKS} - {DOCS / "README.md", DOCS / "index.md"}
    assert "docs/README.md" in links(ROOT / "README.md")


def test_pages_are_short_and_their_code_and_yaml_can_be_read():
    entries = pytest.importorskip("sb3_moe.study.building", reason="needs the cli extra")
    assert not [name_of(page) for page in PAGES if len(page.read_text().splitlines()) > 190]
    for page in PAGES:
        for code in snippets(page, "py"):  # too slow to run
            compile(code, str(page), "exec")
        for text in snippets(page, "yaml"):
            assert entries.read_yaml(text), name_of(page)


@pytest.fixture
def suites_as_before():
    before = dict(SUITES)
    yield
    SUITES.clear()
    SUITES.update(before)


# The pages before it may have loaded jax, which warns of forks.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.usefixtures("suites_as_before")
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page, "python")], ids=name_of)
def test_a_pages_snippets_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    """Run them in one namespace; one that begins with a file's name is written there instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace = {}
    for code in snippets(page, "python"):
        file = re.match(r"# (\w+\.py)\n", code)
        if file:
            (tmp_path / file[1]).write_text(code)
        else:
            exec(compile(with_tiny_budgets(code), str(page), "exec"), namespace)


def first_columns(page):
    """Return the first column of every row, where a page says what a name means."""
    rows = re.findall(r"^\| (.*?) \| ", (DOCS / page).read_text(), re.MULTILINE)
    return "\n".join(rows)


def is_a_schedule(name):
    found = getattr(schedules, name)
    base = schedules.Schedule
    return isinstance(found, type) and issubclass(found, base) and found is not base


# Read before any test runs: some register names of their own.
NAMES = {
    "routers.md": [f'"{name}"' for name in ROUTERS],
    "experts.md": [f'"{name}"' for name in EXPERTS],
    "placements.md": list(PLACEMENTS),
    "algorithms.md": list(TABLE),
    "suites.md": suite_names(),
    "tasks.md": list(filter(is_a_schedule, schedules.__all__)),
}
OPTIONS_OF_ROUTERS = {name for _, router in ROUTERS.items() for name in own_options(router)}


def test_every_name_that_is_built_in_has_a_row_in_its_page():
    rows = {page: first_columns(page) for page in NAMES}
    assert not [(page, name) for page in NAMES for name in NAMES[page] if name not in rows[page]]
    assert not [name for name in OPTIONS_OF_ROUTERS if f"`{name}`" not in rows["routers.md"]]


def test_every_measure_of_a_study_has_a_row():
    report = pytest.importorskip("sb3_moe.study.results", reason="needs the cli extra")
    rows = first_columns("reports.md")
    assert not [name for name in report.MEASURES if f"`{name}`" not in rows]


def test_every_callback_is_on_its_page():
    text = (DOCS / "callbacks.md").read_text()
    assert not [name for name in callbacks.__all__ if f"`{name}" not in text]


def test_every_option_of_the_policies_is_on_a_page():
    pages = ("routers.md", "experts.md", "placements.md", "methods.md", "tasks.md")
    text = "\n".join((DOCS / page).read_text() for page in pages)
    assert not [name for name in DEFAULTS if f"`{name}" not in text]


def test_every_room_of_the_package_is_in_the_layout():
    rows = first_columns("contributing/layout.md")
    rooms = [path.parent.name for path in (ROOT / "sb3_moe").glob("*/__init__.py")]
    assert not [room for room in rooms if f"`{room}`" not in rows and f"`{room}/" not in rows]


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:sb3_moe|envs|tests|docs|examples)/[\w/.-]+)`", text)
    assert len(named) >= 15
    assert not [path for path in named if not (ROOT / path).exists()]


def test_every_behavior_in_the_tables_of_the_docs_has_a_test_that_exists():
    tests = ROOT / "tests"
    text = (tests / "behaviors.md").read_text()
    assert not re.findall(r"^\|[^|]+\|\s*\|$", text, re.MULTILINE), "a behavior without a test"
    named = set(re.findall(r"([\w/]+\.py)::(\w+)", text))
    assert len(named) > 100
    gone = [(f, test) for f, test in named if f"def {test}(" not in (tests / f).read_text()]
    assert not gone
