"""Whatever a study's file may say, its runs end in a report that shows names as they are."""

import re

import numpy as np
import pytest
from made_up_study import run, write
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sb3_moe.saving.files import write_json
from sb3_moe.study.report import figures
from sb3_moe.study.report.facts import facts
from sb3_moe.study.report.rendering import sentences
from sb3_moe.study.report.tables import order_of, read_csv
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.spec.grid import read_study

pytestmark = pytest.mark.usefixtures("no_drawing")

HEAD = """
name: any
games: [SpaceInvaders, Breakout, Asterix]
steps_per_task: 81920
evaluation: {points: 10, episodes: 4}
"""
PLAIN = "architectures: [dense, soft-big]\n"
ODD_NAMES = ("a|b", "--", "$x_$", "_dense", "*b*", "<i>", "`c", "[d](e)", "f&lt;")


def report(text, root, random=1.0, level=5.0):
    """Make up the runs of a study, and report them."""
    study = read_study(text, root)
    write(root, study, lambda cell: level, random=random)
    write_json(root / "study.json", {})
    write_json(root / "random.json", {game: [random] * 70 for game in study.games})
    write_report(study, root)
    return root / "report"


def header(table):
    """Give the headings of the last Markdown table in a text."""
    rows = [line for line in table.splitlines() if line.startswith("| Network")]
    return [cell.strip() for cell in rows[-1].strip("|").split("|")]


def cells(line):
    """Split a row of a Markdown table as a reader of GitHub's Markdown does."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_tasks_with_a_space_in_their_names_are_reported_in_their_order(tmp_path):
    tasks = "tasks: [[CartPole-v1, {swap: [0, 1]}], [CartPole-v1, {swap: [1, 0]}]]\n"
    text = HEAD.replace("games: [SpaceInvaders, Breakout, Asterix]\n", tasks)
    folder = report(text + PLAIN + "preset: none\nn_envs: 2\nregimes: [crl]", tmp_path)
    first, second = read_csv(folder / "summary.csv")[:2]
    assert first["game"] == "CartPole(swap=[0, 1])"
    assert order_of(first["order"]) == [first["game"], second["game"]]
    assert header((folder / "README.md").read_text()) == [
        "Network",
        "CartPole(swap=\\[0, 1\\]) first",
        "CartPole(swap=\\[1, 0\\]) after CartPole(swap=\\[0, 1\\])",
    ]


def test_tasks_with_lines_in_their_names_are_reported_in_their_order(tmp_path):
    tasks = 'tasks: [[CartPole-v1, {kind: "a\\nb"}], [CartPole-v1, {kind: "a\\rb"}]]\n'
    text = HEAD.replace("games: [SpaceInvaders, Breakout, Asterix]\n", tasks)
    folder = report(text + PLAIN + "preset: none\nn_envs: 2\nregimes: [crl]", tmp_path)
    first, second = read_csv(folder / "summary.csv")[:2]
    assert order_of(first["order"]) == [first["game"], second["game"]]
    assert len(header((folder / "README.md").read_text())) == 3


def test_games_that_are_each_played_alone_are_reported_alone(tmp_path):
    folder = report(HEAD + PLAIN + "regimes: [scratch]", tmp_path)
    page = (folder / "index.html").read_text()
    assert page.count("<p>Tasks alone: ") == 3
    assert ">Breakout times random</th>" in page
    assert header((folder / "README.md").read_text()) == [
        "Network",
        "SpaceInvaders alone",
        "Breakout alone",
        "Asterix alone",
    ]


def test_orders_of_any_length_are_reported_game_by_game(tmp_path):
    orders = "[[Breakout], [Asterix, Breakout, Asterix], [SpaceInvaders, Breakout, Asterix]]"
    folder = report(HEAD + PLAIN + f"regimes: [crl, mtrl, scratch]\norders: {orders}", tmp_path)
    assert (folder / "index.html").exists()
    assert header((folder / "README.md").read_text()) == [
        "Network",
        "Breakout first",
        "Breakout after Asterix",
        "Asterix after Asterix, Breakout",
        "SpaceInvaders first",
        "Breakout after SpaceInvaders",
        "Asterix after SpaceInvaders, Breakout",
        "SpaceInvaders, interleaved",
        "Breakout, interleaved",
        "Asterix, interleaved",
        "SpaceInvaders alone",
        "Breakout alone",
        "Asterix alone",
    ]


def test_a_game_that_is_played_again_stands_at_its_last_block(tmp_path):
    folder = report(HEAD + PLAIN + "regimes: [crl]\ncycles: 2", tmp_path)
    text = (folder / "README.md").read_text()
    assert "each sequence played 2 times" in text
    assert header(text)[1] == "SpaceInvaders, block 4 of 6"


def test_names_of_networks_and_studies_are_shown_as_they_are(tmp_path):
    names = "".join(f"  {name!r}: {{placement: big, num_experts: 2}}\n" for name in ODD_NAMES)
    text = HEAD.replace("any", "'_a|$b_$'") + f"regimes: [mtrl]\narchitectures:\n{names}"
    folder = report(text, tmp_path)
    rows = [line for line in (folder / "README.md").read_text().splitlines() if line[:1] == "|"]
    assert {len(cells(row)) for row in rows} == {4}
    assert len(rows) == 2 + len(ODD_NAMES)
    assert rows[2].startswith(r"| A\|b |")
    assert {row.split(" | ")[0] for row in rows[3:]} == {
        r"| \$x\_\$",
        r"| \_dense",
        "| --",
        r"| \*b\*",
        r"| \<i\>",
        r"| \`c",
        r"| \[d\](e)",
        r"| F\&lt;",
    }
    page = (folder / "index.html").read_text()
    assert "<i>" not in page
    assert '<td role="cell" data-label="Network">&lt;i&gt;</td>' in page


def test_a_network_whose_name_begins_with_an_underscore_is_in_the_legends():
    study = read_study(HEAD + "regimes: [mtrl]\narchitectures: {_a: {}, $b$: {}}", None)
    runs = [run(cell) for cell in study.cells()]
    for figure in (figures.learning_curves(runs, {}), figures.dormant_neurons(runs)):
        FigureCanvasAgg(figure).draw()
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [text.strip("\u200b") for text in shown] == ["_a", r"\$b\$"]


def test_networks_whose_names_differ_in_case_only_are_not_averaged():
    kwargs = "{placement: big, num_experts: 4}"
    study = read_study(HEAD + f"regimes: [mtrl]\narchitectures: {{b: {kwargs}, B: {kwargs}}}", None)
    assert len(figures.expert_panels([run(cell) for cell in study.cells()])) == 2


def test_a_run_that_has_not_measured_dormant_neurons_is_not_drawn():
    study = read_study(HEAD + PLAIN + "regimes: [mtrl]", None)
    bare = [run(cell) for cell in study.cells()]
    for each in bare:
        del each.diagnostics["dormant/pi.0"]
    assert figures.dormant_neurons(bare) is None
    figure = figures.dormant_neurons([*bare, *(run(cell) for cell in study.cells())])
    assert figure.axes[0].lines


def test_a_report_without_dormant_neurons_has_no_picture_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_moe.study.report.writing.figures.dormant_neurons", lambda runs: None)
    folder = report(HEAD + PLAIN + "regimes: [mtrl]", tmp_path)
    assert not (folder / "dormant_neurons.png").exists()
    assert "Dormant neurons: those whose" not in (folder / "index.html").read_text()


def test_a_panel_without_a_network_leaves_it_in_the_legend():
    study = read_study(HEAD + PLAIN + "regimes: [mtrl, scratch]", None)
    runs = [run(cell) for cell in study.cells()]
    stopped = [r for r in runs if r.cell.regime == "scratch" or r.cell.architecture.name == "dense"]
    figure = figures.dormant_neurons(stopped)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["Dense", "SoftMoE-Big"]


@pytest.mark.parametrize(("random", "level", "ratio"), [(-200.0, -100.0, np.nan), (2.0, 5.0, 2.45)])
def test_returns_are_in_multiples_of_a_random_return_above_zero_only(
    tmp_path, random, level, ratio
):
    folder = report(HEAD + PLAIN + "regimes: [mtrl]", tmp_path, random, level)
    for row in read_csv(folder / "summary.csv"):
        assert float(row["ratio"]) == pytest.approx(ratio, nan_ok=True)
    assert "a dash stands where that return is not above 0" in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("n_envs", "words"),
    [
        (63, "so all tasks get the same number of steps."),
        (
            64,
            "here 22 of 64 SpaceInvaders, 21 of 64 Breakout, 21 of 64 Asterix, and of the steps "
            "too.",
        ),
    ],
)
def test_the_page_says_which_share_of_the_steps_each_game_gets(tmp_path, n_envs, words):
    text = HEAD.replace("81920", str(128 * n_envs * 10)) + PLAIN
    folder = report(text + f"regimes: [mtrl]\nn_envs: {n_envs}", tmp_path)
    assert words in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("deterministic", "words"), [("true", "takes its most likely"), ("false", "samples its")]
)
def test_the_page_says_how_actions_are_taken_in_evaluations(tmp_path, deterministic, words):
    text = HEAD.replace("episodes: 4", f"episodes: 4, deterministic: {deterministic}") + PLAIN
    last = sentences("choices.txt.j2", study=facts(read_study(text, tmp_path)))[-1]
    assert last.startswith(f"Evaluation: the policy {words} ")


def test_the_page_and_the_readme_say_that_tests_are_one_sided(tmp_path):
    claims = """
claims:
  - name: a|b
    text: One | is _better_.
    contrasts:
      - measure: block_end
        plus: [{architecture: soft-big}]
        minus: [{architecture: dense}]
        expects: greater
        smallest_effect: 0.1
"""
    (tmp_path / "claims.yaml").write_text(claims)
    text = HEAD + PLAIN + "regimes: [mtrl]\nseeds: 2\nclaims: claims.yaml"
    folder = report(text, tmp_path)
    for name in ("index.html", "README.md"):
        assert "one-sided" in (folder / name).read_text()
    rows = [line for line in (folder / "README.md").read_text().splitlines() if "One" in line]
    assert [cells(row)[0] for row in rows] == [r" One \| is \_better\_. "]
