"""The site has what it must, and its tables are the code's."""

import inspect
import re
import tomllib
from pathlib import Path

import draw_placements
import pages
import pytest

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS
from sb3_moe_envs import MultiTaskEnv, MultiTaskVectorEnv

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def rows(page):
    """Return the cells of every row of a page's tables that begins with code."""
    found = re.findall(r"^\| (`.*) \|$", (DOCS / page).read_text(), re.MULTILINE)
    return [row.split(" | ") for row in found]


@pytest.fixture
def public_names():
    pytest.importorskip("sb3_contrib", reason="needs the contrib extra")
    pytest.importorskip("tyro", reason="needs the cli extra")
    import public_names

    return public_names


def test_every_module_with_public_names_is_in_the_reference_once(public_names):
    assert sorted(public_names.documented_modules()) == sorted(public_names.modules())
    listed = re.findall(r"^\w+$", (DOCS / "api" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in (DOCS / "api").glob("[!i]*.md"))


def test_every_public_name_stands_in_the_reference_with_a_text(public_names):
    written = "\n".join(map(public_names.reference, public_names.documented_modules()))
    there = set(re.findall(r"^\.\. .*:: (\S+)$", written, re.MULTILINE))
    assert not public_names.missing(there)
    assert len(there) > 150


def test_the_navigation_has_every_page():
    written = "\n".join(pages.tables_of_contents())
    pages_here = [*DOCS.glob("*.md"), *DOCS.glob("contributing/*.md")]
    every = {str(page.relative_to(DOCS).with_suffix("")) for page in pages_here}
    assert every - {"README", "index"} <= set(written.split())
    assert "CONTRIBUTING" not in written  # linked from the index, and no page


def test_the_drawing_of_the_placements_is_that_of_their_rows():
    assert draw_placements.FILE.read_text() == draw_placements.drawing(), (
        "run: python docs/_ext/draw_placements.py"
    )


def test_options_on_their_page_exist_and_have_the_defaults_that_it_says():
    table = [row for row in rows("options.md") if len(row) == 4]
    assert len(table) >= 10
    of_policies = inspect.signature(MoEPolicy.__init__).parameters
    defaults = {name: each.default for name, each in of_policies.items()} | DEFAULTS
    for option, default, *_ in table:
        assert repr(defaults[option.strip("`")]) == default.strip("`").replace('"', "'")


def test_options_of_routers_and_environments_have_the_defaults_that_their_pages_say():
    signatures = [inspect.signature(router).parameters for _, router in ROUTERS.items()]
    own = {name: each.default for options in signatures for name, each in options.items()}
    table = [row for row in rows("routers.md") if len(row) == 3 and row[0].strip("`") in own]
    assert len(table) >= 8
    for option, default, _ in table:
        # `top_k` is of two routers, one of which has it as a mean number.
        assert repr(own[option.strip("`")]) == default.strip("`").replace('"', "'"), option
    environment = inspect.signature(MultiTaskEnv.__init__).parameters
    several = inspect.signature(MultiTaskVectorEnv.__init__).parameters
    told = {row[0].strip("`"): row[1] for row in rows("tasks.md") if "(default)" in row[1]}
    assert len(told) >= 3
    for argument, values in told.items():
        default = re.search(r'`"(\w+)"` \(default\)', values)[1]
        assert (dict(several) | dict(environment))[argument].default == default, argument


def test_every_extra_is_on_the_page_that_says_how_to_install():
    text = (DOCS / "install.md").read_text()
    assert not [extra for extra in PROJECT["optional-dependencies"] if f"`{extra}`" not in text]


def test_what_is_to_be_cited_is_what_the_citation_file_says():
    yaml = pytest.importorskip("yaml", reason="needs the cli extra")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    text = (DOCS / "citing.md").read_text().replace("\\_", "_")
    wanted = [cited["title"], cited["version"], cited["references"][0]["title"]]
    for words in wanted:
        assert words in text.replace("{RL}", "RL")
