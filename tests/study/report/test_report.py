"""A report is written from a study's folder alone: its table, summary, page and README."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up_study import GAMES, architecture, cell, run, study, write, write_arrays

from sb3_moe.saving.files import write_json
from sb3_moe.study.report.measures import MEASURES, WHOLE
from sb3_moe.study.report.page import interval, number
from sb3_moe.study.report.results import as_table, check_level, load_results
from sb3_moe.study.report.writing import check_report_folder, write_report
from sb3_moe.study.run.jobs import ChangedConfigError, survey
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.spec.grid import About, load_study

EXAMPLES = Path(__file__).parents[3] / "examples"
LEVELS = {"dense": 5.0, "soft-big": 9.0}


def made_up(root, the_study, level=lambda cell: 5.0):
    """Write the folder of a study whose runs are all done."""
    write(root, the_study, level)
    write_json(root / "study.json", {"study": the_study.to_dict(), **provenance()})
    write_json(root / "random.json", {game: [0.5, 1.5] * 35 for game in the_study.games})
    return the_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("made-up")
    the_study = study(claims=load_study("smoke").claims)
    made_up(root, the_study, lambda cell: LEVELS[cell.architecture.name] + 0.01 * cell.seed)
    write_report(the_study, root)
    return root


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.targets, self.tags = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = self.targets if tag == "a" else self.loaded
        found |= {value for name, value in attrs if name in ("src", "href")}


def read(page):
    links = Links()
    links.feed(page.read_text())
    return links


def test_the_page_needs_no_other_file_and_runs_nothing(folder):
    links = read(folder / "report" / "index.html")
    assert all(each.startswith("data:") for each in links.loaded)
    assert links.tags.count("img") == 4
    assert not {"script", "iframe", "object", "embed", "form"} & set(links.tags)


def test_all_that_lies_beside_the_page_is_linked_there(folder):
    links = read(folder / "report" / "index.html")
    names = {path.name for path in (folder / "report").iterdir()}
    assert links.targets == names - {"index.html", "README.md"}
    assert {"measures.csv", "summary.csv", "verdicts.csv", "README.md"} <= names
    drawn = {"return", "dormant", "expert_weights", "differences"}
    assert {f"{name}.{ending}" for name in drawn for ending in ("png", "svg", "pdf")} <= names


def test_the_summary_has_the_made_up_returns_with_interval_difference_and_verdict(folder):
    rows = pd.read_csv(folder / "report" / "summary.csv")
    rows = rows.set_index(["regime", "measure", "architecture", "task"]).sort_index()
    row = rows.loc["crl", "block_end", "soft-big", GAMES[0]]
    assert row["mean"] == row.iqm == pytest.approx(9.02)
    assert (row.low, row.high) == pytest.approx((9.02 - 0.01963, 9.02 + 0.01963), abs=1e-4)
    assert (row.seeds, row.difference, row.verdict) == (5, 4.0, "higher")
    assert rows.loc["crl", "block_end", "dense", GAMES[0]].isna().p


def test_the_table_has_every_measure_of_every_run_and_every_evaluation(folder):
    table = pd.read_csv(folder / "report" / "measures.csv", keep_default_na=False)
    ended = table[table.step == ""]
    told = {name for name in MEASURES if not name.startswith(("success", "inactive"))}
    assert set(ended.measure[ended.value != ""]) == told
    assert set(ended.measure) == set(MEASURES)
    curve = table[(table.measure == "return") & (table.regime == "mtrl")]
    own = curve[(curve.architecture == "dense") & (curve.seed == 3) & (curve.task == GAMES[1])]
    assert own.step.astype(int).tolist() == list(range(0, 20 * 8192 + 1, 8192))
    assert own.value.astype(float).iloc[-1] == pytest.approx(5.03)


def test_a_run_that_is_not_there_is_in_the_table_without_values():
    cells = [cell("mtrl"), cell("mtrl", seed=1)]
    table = as_table(cells, [run(cells[0])], dict.fromkeys(GAMES, 1.0))
    missing = table[table.seed == 1]
    assert missing.value.isna().all()
    assert set(missing.measure) == {m for m in MEASURES if MEASURES[m].tasks(cells[0])}


def test_the_readme_has_the_verdicts_and_the_first_tables(folder):
    text = (folder / "report" / "README.md").read_text()
    verdicts = pd.read_csv(folder / "report" / "verdicts.csv")
    for verdict in verdicts.groupby("claim").claim_verdict.first():
        assert f"**{verdict}**" in text
    assert "| soft-big | 9.02 [9.00, 9.04] | 9.02 [9.00, 9.04] | 9.02 [9.00, 9.04] | 5 |" in text
    assert "![Return of each task while training goes on](return.png)" in text


def test_the_first_table_of_the_page_compares_networks_on_every_task_and_over_all(folder):
    text = (folder / "report" / "index.html").read_text()
    answer = text.split("<h3>")[1]
    assert answer.startswith("Interleaved: mean return over the last tenth")
    assert re.findall(r'scope="col">([^<]*)<', answer) == ["network", WHOLE, *GAMES]
    assert re.findall(r'scope="row">([^<]*)<', answer) == ["dense", "soft-big", "random policy"]
    assert "3.90 [3.90, 3.90], p " in answer
    assert answer.count('class="higher">higher') == 3


def test_every_claim_is_on_the_page_with_its_verdict(folder):
    text = (folder / "report" / "index.html").read_text()
    claims = text.split("<h2>Claims</h2>")[1].split("<h2>")[0]
    assert claims.count('class="text" rowspan') == 6
    # Routing, and the actor against the critic, were not run.
    verdicts = re.findall(r'rowspan="\d+" class="([^"]*)"', claims)
    assert (len(verdicts), verdicts.count("not tested")) == (6, 2)
    assert text.count("smallest_effect: ") >= 6  # the file is quoted


def test_the_resolved_configuration_is_a_table_at_the_end(folder):
    text = (folder / "report" / "index.html").read_text().split("<h2>Configuration</h2>")[1]
    assert '<th scope="row">steps_per_task</th><td>81920</td>' in text
    assert '<th scope="row">gamma</th><td>0.9</td><td>0.9</td>' in text
    assert '<th scope="row">policy_kwargs.placement</th><td>none</td><td>none</td>' in text
    assert f'<th scope="row">study</th><td>{study().name}</td>' in text


def test_the_same_folders_give_the_same_files(folder):
    names = ("measures.csv", "verdicts.csv", "return.svg", "index.html")
    before = [(folder / "report" / name).read_bytes() for name in names]
    write_report(study(claims=load_study("smoke").claims), folder)
    assert [(folder / "report" / name).read_bytes() for name in names] == before


def test_a_study_without_claims_has_the_same_comparison_and_no_verdicts(
    folder, tmp_path, no_drawing
):
    write_report(study(claims=None), folder, tmp_path)
    assert not (tmp_path / "verdicts.csv").exists()
    summary = (folder / "report" / "summary.csv").read_text()
    assert (tmp_path / "summary.csv").read_text() == summary
    assert "<h2>Claims</h2>" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("name", ["README.md", "index.html", "summary.csv", "differences.png"])
def test_a_file_that_is_no_reports_is_neither_written_over_nor_deleted(folder, tmp_path, name):
    (tmp_path / name).write_text("mine")
    rule = rf"`to` must be a folder of its own.*got {re.escape(str(tmp_path))}, whose {name} would"
    with pytest.raises(ValueError, match=rule):
        write_report(study(claims=None), folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_runs_folder_is_never_a_reports(folder, tmp_path):
    (tmp_path / "measures.csv").write_bytes((folder / "report" / "measures.csv").read_bytes())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"earlier report's, got .*, whose config.json would"):
        check_report_folder(tmp_path)


def test_the_folder_is_asked_about_without_being_made(tmp_path):
    check_report_folder(tmp_path / "report", "out")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("page", sorted(EXAMPLES.rglob("index.html")), ids=lambda p: p.parent.name)
def test_the_published_reports_are_known_as_reports(page):
    check_report_folder(page.parent)


def test_a_report_that_was_stopped_can_be_written_again(folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sb3_moe.study.report.writing.save_figure", stop)
        with pytest.raises(KeyboardInterrupt):
            write_report(study(claims=None), folder, tmp_path)
    assert write_report(study(claims=None), folder, tmp_path).exists()


def test_a_report_over_an_earlier_one_leaves_nothing_of_it_and_all_that_is_not_its_own(
    folder, tmp_path, no_drawing
):
    shutil.copytree(folder / "report", tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    write_report(study(claims=None), folder, tmp_path)
    left = {path.name for path in tmp_path.iterdir() if path.suffix not in (".png", ".svg", ".pdf")}
    assert left == {"index.html", "README.md", "measures.csv", "summary.csv", "notes.txt"}
    assert not (tmp_path / "differences.png").exists()


def test_a_folder_that_a_report_cant_be_written_to_is_refused_with_its_name(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`to` must be a folder that can be written, got .*file"):
        write_report(study(claims=None), folder, tmp_path / "file")


def problems(page):
    found = page.read_text().split("<h3>Runs to look at</h3>")
    return (
        re.findall(r"<tr><td>(.*?)</tr>", found[1].split("</table>")[0]) if len(found) > 1 else []
    )


def test_runs_that_end_below_random_are_listed(tmp_path, no_drawing):
    the_study = made_up(tmp_path, study(claims=None), lambda cell: 0.5 if cell.seed == 4 else 5.0)
    rows = problems(write_report(the_study, tmp_path))
    assert rows
    assert all("-s4" in row and "below the random policy" in row for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_return_that_is_no_number_spoils_no_page_and_is_listed(tmp_path, value, no_drawing):
    made = made_up(tmp_path, study(seeds=2, claims=load_study("smoke").claims, regimes=("mtrl",)))
    job = survey(made.cells(), tmp_path)[0]
    arrays = job.folder.scores()
    arrays["score"][-3:, 1] = value
    write_arrays(job.folder, "scores.npz", arrays)
    job.folder.finish({"steps": job.cell.total_steps, "last_attempt": {}})
    rows = problems(write_report(made, tmp_path))
    odd = [row for row in rows if "returns that are not numbers" in row]
    assert [job.cell.name in row and "3 of 21" in row for row in odd] == [True]


def test_runs_that_failed_or_ended_early_are_listed_with_why(tmp_path, no_drawing):
    made = made_up(tmp_path, study(claims=None, regimes=("mtrl",)))
    failed, early, *_ = survey(made.cells(), tmp_path)
    failed.folder.fail(RuntimeError("out of <memory>"))
    arrays = {name: values[:5] for name, values in early.folder.scores().items()}
    write_arrays(early.folder, "scores.npz", arrays)
    early.folder.finish({"steps": int(arrays["steps"][-1]), "last_attempt": {}})
    rows = problems(write_report(made, tmp_path))
    assert "RuntimeError: out of &lt;memory&gt;" in rows[0]
    assert "ended early" in rows[1]
    assert "9 of 10 runs are done" in (tmp_path / "report" / "index.html").read_text()


def test_words_and_names_of_a_study_are_escaped_where_they_stand(tmp_path, no_drawing):
    about = About(title="<b>A*B</b>", introduction="1 < 2\n\nand more", notes=("<i>x</i>",))
    made = study(claims=None, architectures=("dense", "<svg>"), about=about, seeds=1)
    text = write_report(made_up(tmp_path, made), tmp_path).read_text()
    assert "<h1>&lt;b&gt;A*B&lt;/b&gt;</h1>" in text
    assert "<p>1 &lt; 2</p>" in text
    assert "<li>&lt;i&gt;x&lt;/i&gt;</li>" in text
    assert not {"svg", "i"} & set(read(tmp_path / "report" / "index.html").tags)
    readme = (tmp_path / "report" / "README.md").read_text()
    assert readme.startswith("# \\<b\\>A\\*B\\</b\\>")


def test_success_is_shown_where_tasks_say_what_it_is(tmp_path, no_drawing):
    made = made_up(tmp_path, study(claims=None, regimes=("mtrl",)))
    for job in survey(made.cells(), tmp_path):
        arrays = job.folder.scores()
        successes = np.full((*arrays["returns"].shape,), np.nan)
        successes[:, 0] = job.cell.architecture.name == "soft-big"
        write_arrays(job.folder, "scores.npz", {**arrays, "successes": successes})
        job.folder.finish({"steps": job.cell.total_steps, "last_attempt": {}})
    write_report(made, tmp_path)
    rows = pd.read_csv(tmp_path / "report" / "summary.csv")
    found = rows[rows.measure == "success"].set_index("architecture")["mean"]
    assert found.to_dict() == {"dense": 0.0, "soft-big": 1.0}


def test_a_study_of_one_seed_one_network_and_tasks_alone_is_reported(tmp_path, no_drawing):
    made = study(seeds=1, claims=None, regimes=("scratch",), architectures=("dense",))
    made_up(tmp_path, made)
    write_report(made, tmp_path)
    rows = pd.read_csv(tmp_path / "report" / "summary.csv")
    final = rows[rows.measure == "final"]
    assert set(final.task) == {WHOLE, *GAMES}
    assert final.low.isna().all()


def test_a_random_level_of_another_environment_is_in_no_report(folder):
    last = {"study": {"env": {"task_id": "onehot"}}}
    with pytest.raises(ValueError, match=r"random.json must be of .* got .*onehot"):
        check_level(study(), last)


def test_a_random_level_that_is_no_number_says_which_and_what_to_do(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "copy")
    levels = {"SpaceInvaders": [1.0] * 70, "Breakout": [1.0] * 69 + [float("nan")]}
    write_json(root / "random.json", levels)
    with pytest.raises(
        ValueError, match=r"random.json must .* of Breakout, .* got 69 of 70: run the study"
    ):
        load_results(study(claims=None), root)


def test_a_report_without_runs_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"needs a run that is done, .* has none: run the study"):
        load_results(study(), tmp_path)


def test_a_report_of_a_changed_study_is_refused_with_the_difference(folder):
    changed = study(claims=None, arguments={"learning_rate": 0.1})
    with pytest.raises(ChangedConfigError, match=r"arguments.learning_rate: None -> 0.1"):
        load_results(changed, folder)


def test_what_networks_have_of_their_own_is_told_by_network(tmp_path):
    own = replace(architecture("soft-big"), arguments={"learning_rate": 1e-3})
    the_study = replace(study(claims=None), architectures=(architecture("dense"), own))
    made_up(tmp_path, the_study)
    assert load_results(the_study, tmp_path).arguments == {
        "dense": {"gamma": 0.9},
        "soft-big": {"gamma": 0.9, "learning_rate": 1e-3},
    }


def test_numbers_have_as_many_digits_as_a_reader_needs():
    texts = [number(x) for x in (0.123, 12.34, 1234.5, float("nan"), -0.0032, 9.1e-05, 0.0)]
    assert texts == ["0.12", "12.3", "1,234", "-", "-0.0032", "9.1e-05", "0.00"]
    # On both sides of what is usually asked of a p-value, which two digits don't show.
    assert [number(x) for x in (0.0491, 0.0549, 0.0051)] == ["0.049", "0.055", "0.0051"]
    assert interval(1.0, 0.5, 1.5) == "1.00 [0.50, 1.50]"
    assert interval(0.0161, -0.1812, 0.2134) == "0.02 [-0.18, 0.21]"
    assert interval(-0.0404, -0.0597, -0.0211) == "-0.040 [-0.060, -0.021]"
    assert interval(1.0, float("nan"), float("nan")) == "1.00"
