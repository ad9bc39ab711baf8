"""A report is written from a study's folder alone: its table, summary, page and README."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from made_up_study import GAMES, planned, run, study, write

from sb3_moe.saving.files import read_npz, write_json, write_npz
from sb3_moe.saving.model_file import save
from sb3_moe.study.building import Named, build
from sb3_moe.study.commands import write as report
from sb3_moe.study.config import About, Architecture, Evaluation, StudyConfig
from sb3_moe.study.folder import survey
from sb3_moe.study.preparing import measure_random_policy
from sb3_moe.study.report import write_replays, write_report
from sb3_moe.study.results import MEASURES, WHOLE, as_table, load_results
from sb3_moe.study.training import train_run

SCRIPT = "</title><script>alert(1)</script>"


class Page(HTMLParser):
    """What a page loads, links, and has in its tables, row by row, by the heading before."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.targets, self.tags, self.tables = set(), set(), [], {}
        self._heading, self._cell, self.text = "", None, path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = self.targets if tag == "a" else self.loaded
        found |= {value for name, value in attrs if name in ("src", "href")}
        if tag in ("h2", "h3"):
            self._heading = ""
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
        if tag == "br":
            self.handle_data("\n")
        else:
            self._cell = tag

    def handle_data(self, data):
        if self._cell in ("h2", "h3"):
            self._heading += data
        elif self._cell in ("td", "th"):
            self.tables[self._heading][-1][-1] += data

    def handle_endtag(self, tag):
        self._cell = None

    def rows(self, heading):
        found = next((each for name, each in self.tables.items() if heading in name), [])
        return [[text for text in row if text.strip()] for row in found]


@pytest.fixture(scope="module")
def page(finished):
    return Page(finished[1] / "report" / "index.html")


@pytest.fixture(scope="module")
def written(finished):
    return finished[1] / "report"


def test_the_page_needs_no_other_file_runs_nothing_and_links_all_that_lies_beside(page, written):
    assert all(each.startswith("data:") for each in page.loaded)
    assert page.tags.count("img") == 3
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    names = {path.name for path in written.iterdir()}
    assert page.targets == names - {"index.html", "README.md"}
    assert {"measures.csv", "summary.csv", "verdicts.csv", "README.md"} <= names
    drawn = {"return", "dormant", "expert_weights"}
    assert {f"{name}.{ending}" for name in drawn for ending in ("png", "svg", "pdf")} <= names


def test_the_summary_has_the_made_up_returns_with_interval_difference_and_verdict(written):
    rows = pd.read_csv(written / "summary.csv")
    rows = rows.set_index(["regime", "measure", "architecture", "task"]).sort_index()
    row = rows.loc["crl", "block_end", "soft-big", GAMES[0]]
    assert row["mean"] == row.iqm == pytest.approx(9.02)
    assert (row.low, row.high) == pytest.approx((9.02 - 0.01963, 9.02 + 0.01963), abs=1e-4)
    assert (row.seeds, row.difference, row.verdict) == (5, 4.0, "higher")
    assert rows.loc["crl", "block_end", "dense", GAMES[0]].isna().p


def test_the_table_has_every_measure_of_every_run_and_every_evaluation(written):
    table = pd.read_csv(written / "measures.csv", keep_default_na=False)
    ended = table[table.step == ""]
    told = {name for name in MEASURES if not name.startswith(("success", "inactive"))}
    assert set(ended.measure[ended.value != ""]) == told
    assert set(ended.measure) == set(MEASURES)
    curve = table[(table.measure == "return") & (table.regime == "mtrl")]
    own = curve[(curve.architecture == "dense") & (curve.seed == 3) & (curve.task == GAMES[1])]
    assert own.step.astype(int).tolist() == list(range(0, 20 * 8192 + 1, 8192))
    assert own.value.astype(float).iloc[-1] == pytest.approx(5.03)


def test_a_run_that_is_not_there_is_in_the_table_without_values():
    both = [planned("mtrl"), planned("mtrl", seed=1)]
    table = as_table(both, [run(both[0])], dict.fromkeys(GAMES, 1.0))
    missing = table[table.seed == 1]
    assert missing.value.isna().all()
    assert set(missing.measure) == {m for m in MEASURES if MEASURES[m].tasks(both[0])}


def test_the_first_table_of_the_page_compares_networks_on_every_task_and_over_all(page):
    head, dense, soft, random = page.rows("Interleaved: mean return over the last tenth")
    assert head == ["network", WHOLE, *GAMES]
    assert [each[0] for each in (dense, soft, random)] == ["dense", "soft-big", "random policy"]
    assert dense[1] == "4.92 [4.90, 4.94]\nIQM 4.92, n 5"
    mean, iqm, difference, verdict, p = soft[1].splitlines()
    assert (mean, iqm) == ("8.82 [8.80, 8.84]", "IQM 8.82, n 5")
    assert (difference, verdict, p) == ("3.90 [3.90, 3.90]", "▲ higher", "p (Holm) < 0.001")
    assert random[1:] == ["1.00", "1.00"]


def test_a_sentence_above_the_tables_names_the_networks_that_are_better_than_the_first(
    page, tmp_path, no_drawing
):
    found = re.search("<h2>Networks compared</h2>\n<p><b>(.*)</b></p>", page.text)[1]
    assert found.startswith(
        "Shown to be better than dense, the first network, in the mean over all tasks: soft-big "
        "(interleaved: mean return over the last tenth of the task&#39;s last block of training); "
    )
    alike = write_report(made_up(tmp_path), tmp_path).read_text()
    no_network = "No network is shown to be better than dense, the first network, in the mean over"
    assert f"<p><b>{no_network} all tasks.</b></p>" in alike
    few = made_up(tmp_path / "few", seeds=4)
    assert "<b>Fewer than 5 seeds show" in write_report(few, tmp_path / "few").read_text()
    one = made_up(tmp_path / "one", lambda run: len(run.architecture.name), games=GAMES[:1])
    page = write_report(one, tmp_path / "one").read_text()
    assert "Shown to be better than dense, the first network: soft-big (" in page
    alone = made_up(tmp_path / "alone", architectures=("dense",))
    assert "shown to be better" not in write_report(alone, tmp_path / "alone").read_text()


def test_every_claim_is_on_the_page_with_its_verdict(page, written):
    verdicts = pd.read_csv(written / "verdicts.csv")
    for (text, verdict), rows in verdicts.groupby(["text", "claim_verdict"]):
        assert f"<h3>{text} <mark>{verdict}</mark></h3>" in page.text
        _, *shown = page.rows(text)
        assert [row[1:3] for row in shown] == rows[["measure", "task"]].to_numpy().tolist()
        assert [row[-1] for row in shown] == rows["verdict"].tolist()
    # Routing, and the actor against the critic, were not run.
    whole = verdicts.groupby("claim").claim_verdict.first()
    assert (len(whole), (whole == "not tested").sum()) == (6, 2)
    assert page.text.count("smallest_effect: ") >= 6  # the file is quoted


def test_the_readme_has_the_verdicts_and_the_first_tables(written):
    text = (written / "README.md").read_text()
    assert "<table" in text
    assert "supported" in text
    assert "9.02 [9.00, 9.04]; IQM 9.02, n 5" in text
    assert "![Return of each task while training goes on](return.png)" in text


def test_the_resolved_configuration_is_a_table_at_the_end(page):
    assert ["steps_per_task", "81920"] in page.rows("Configuration")
    assert ["policy_kwargs.placement", "none", "none"] in page.rows("Networks")[1:]
    assert ["gamma", "0.9", "0.9"] in page.rows("Arguments of the algorithm")
    assert ["command", "sb3-moe <b>"] in page.rows("To check this page")


def test_a_report_over_an_earlier_one_leaves_nothing_of_it_and_all_that_is_not_its_own(
    finished, written, tmp_path, no_drawing
):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    without = Page(write_report(study(claims=None), finished[1], tmp_path))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"index.html", "README.md", "measures.csv", "summary.csv", "notes.txt"}
    # A study without claims has the same comparison and no verdicts.
    assert (tmp_path / "summary.csv").read_text() == (written / "summary.csv").read_text()
    assert "<h2>Claims</h2>" not in without.text


def test_a_report_goes_to_no_folder_of_others(finished, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`to` must be empty, or hold an earlier report"):
        write_report(study(claims=None), finished[1], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def made_up(root, level=lambda run: 5.0, **changes):
    """Write a study of which every run is done, and give what its page says of single runs."""
    the_study = study(**{"claims": None, **changes})
    write(root, the_study, level)
    return the_study


def problems(the_study, root, **options):
    page = Page(write_report(the_study, root, **options))
    return [" ".join(row) for row in page.rows("Runs to look at")[1:]]


def test_runs_that_end_below_random_or_in_no_number_are_listed(tmp_path, no_drawing):
    the_study = made_up(tmp_path, lambda run: 5.0 - 4.5 * run.seed, seeds=2, regimes=("mtrl",))
    job = survey(the_study.runs(), tmp_path)[0]
    arrays = job.folder.scores()
    arrays["score"][-3:, 1] = np.inf
    write_npz(job.folder.path / "scores.npz", arrays)
    (row, *others) = problems(the_study, tmp_path)
    assert "returns that are not numbers 3 of 21" in row
    assert len(others) == 2 * 2
    assert all("-s1" in other and "below the random policy" in other for other in others)


def test_runs_that_are_not_done_are_listed_and_count_only_if_asked_to(tmp_path, no_drawing):
    the_study = made_up(tmp_path, seeds=2, regimes=("mtrl",))
    failed, cut, *_ = survey(the_study.runs(), tmp_path)
    (failed.folder.path / "done.json").unlink()
    failed.folder.fail(ValueError("no luck"))
    (cut.folder.path / "done.json").unlink()
    arrays = {name: values[:5] for name, values in read_npz(cut.folder.path / "scores.npz").items()}
    write_npz(cut.folder.path / "scores.npz", arrays)
    rows = problems(the_study, tmp_path)
    assert any("failed ValueError: no luck" in row for row in rows)
    assert any("interrupted" in row for row in rows)
    assert len(load_results(the_study, tmp_path).runs) == 2
    partial = load_results(the_study, tmp_path, partial=True)
    assert len(partial.runs) == 3
    rows = partial.table[(partial.table.seed == 0) & (partial.table.architecture == "soft-big")]
    assert rows[rows.step.isna()].value.isna().all()  # it has curves, and nothing that is tested
    assert (rows.step.notna() & rows.value.notna()).any()
    rows = problems(the_study, tmp_path, partial=True)
    assert any("ended early step 32768 of 163840" in row for row in rows)


def test_runs_that_others_begin_with_count_neither_in_tables_nor_for_claims(tmp_path, no_drawing):
    first = {"architecture": "dense", "order": GAMES[:1]}
    starts = Architecture(name="soft-big", policy_kwargs={"placement": "none"}, start_from=first)
    claim = {"measure": "final", "plus": [{"architecture": "dense"}], "minus": []}
    claim |= {"expects": "greater", "smallest_effect": 1}
    claims = [{"name": name, "text": "of dense", "contrasts": [claim]} for name in "ab"]
    file = tmp_path / "claims.yaml"
    file.write_text(json.dumps({"claims": claims}))
    alone = study(1, ("dense",), regimes=("crl",), orders="given", claims=file)
    both = replace(alone, architectures=(*alone.architectures, starts))
    write(tmp_path, both, lambda run: 10.0 if run.order == GAMES else 99.0)
    page = write_report(both, tmp_path)
    assert set(pd.read_csv(page.parent / "verdicts.csv").difference) == {10.0}
    assert page.read_text().count("<h3>of dense") == 2  # two claims of one text
    page = write_report(replace(both, only=("soft-big",)), tmp_path)
    assert set(pd.read_csv(page.parent / "summary.csv").architecture) == {"soft-big"}


def test_a_value_at_the_edge_of_its_grid_is_shown(tmp_path, no_drawing):
    the_study = made_up(tmp_path, seeds=2, regimes=("mtrl",))
    scores = [[0.001, 0.5], [0.01, 0.75], [0.1, None]]
    edges = {"dense": (0.001, True), "soft-big": (0.01, False)}
    networks = {
        name: {"value": value, "at_the_edge": edge, "scores": scores}
        for name, (value, edge) in edges.items()
    }
    tune = {"argument": "learning_rate"}
    write_json(tmp_path / "tune.json", {"tune": tune, "networks": networks})
    head, dense, soft = Page(write_report(the_study, tmp_path)).rows("Tuned on development seeds")
    assert head[:3] == ["network", "learning_rate", "best at the grid's edge"]
    assert dense == ["dense", "0.001", "yes", "0.500", "0.750", "-"]
    assert soft[:3] == ["soft-big", "0.01", "no"]


def test_a_report_needs_a_run_that_is_done_of_this_configuration(tmp_path):
    with pytest.raises(ValueError, match="a report needs a run that is done"):
        write_report(study(claims=None), tmp_path)
    the_study = made_up(tmp_path, seeds=1)
    with pytest.raises(ValueError, match=r"arguments.gamma: 'not given' -> 0.5"):
        write_report(study(seeds=1, claims=None, arguments={"gamma": 0.5}), tmp_path)
    level = json.loads((tmp_path / "random.json").read_text())
    level["of"]["episodes"] = 7
    write_json(tmp_path / "random.json", level)
    with pytest.raises(
        ValueError, match=r"random.json is of other environments: `study run` measures it"
    ):
        write_report(the_study, tmp_path)


def test_no_text_is_read_as_markup(tmp_path, no_drawing):
    names = ("dense", "<svg,onload=alert(1)>", "a&b*c_d")
    about = About(title=SCRIPT, introduction=SCRIPT, notes=(SCRIPT,), reproduce=SCRIPT)
    the_study = made_up(tmp_path, seeds=2, architectures=names, about=about)
    page = Page(write_report(the_study, tmp_path))
    assert not {"script", "svg"} & set(page.tags)
    assert page.rows("Interleaved")[2][0] == names[1]
    readme = (tmp_path / "report" / "README.md").read_text()
    assert "<script>" not in readme
    assert "<svg" not in readme


LIMIT = '{"max_episode_steps": 5}'
TASKS = tuple((name, json.loads(LIMIT)) for name in ("CartPole-v1", "Acrobot-v1"))
SEEN = StudyConfig(
    name="seen",
    tasks=TASKS,
    regimes=("mtrl",),
    architectures=tuple(
        Architecture(name=name, policy_kwargs={"placement": placement, "net_arch": [8]})
        for name, placement in (("dense", "none"), ("soft-middle", "middle"))
    ),
    seeds=(0, 1),
    n_envs=2,
    steps_per_task=32,
    arguments={"n_steps": 16, "batch_size": 32},
    normalize=Named(name="PerTaskVecNormalize"),
    evaluation=Evaluation(points=1, episodes=1),
    random_episodes=10,
)


def test_a_report_links_a_page_of_each_network_at_play(tmp_path, capsys, no_drawing):
    measure_random_policy(SEEN, tmp_path)
    write_json(tmp_path / "study.json", {})
    done = [job for job in survey(SEEN.runs(), tmp_path) if job.run.seed == 1]
    for job in done:  # of the first seed nothing is done
        train_run(job.run, job.folder)
    capsys.readouterr()
    report(SEEN, tmp_path, replays=True)
    said = capsys.readouterr().out.splitlines()
    page = Page(tmp_path / "report" / "index.html")
    for name, line in zip(("dense", "soft-middle"), said, strict=False):
        assert f"replays/{name}.html" in page.targets
        assert re.search(rf"<th>{name}<br>[\d,]+ parameters<br>[\d,]+ FLOPs</th>", page.text)
        path = tmp_path / "report" / "replays" / f"{name}.html"
        assert line == f"replay: {path}"
        text = path.read_text()
        assert f"<title>mtrl-CartPole.Acrobot-{name}-s1</title>" in text
        data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
        assert [track["steps"] for track in data["runs"][0]["tracks"]] == [5, 5]
    # What is not safe to open, or would see other observations, is left out with a word.
    (done[0].folder.path / "model.moe").rename(done[0].folder.path / "model.zip")
    done[0].folder.finish({"steps": 64, "last_attempt": {"start": 0, "seconds": 1.0}})
    bare, _ = build(replace(done[1].run, normalize=None))
    save(bare, done[1].folder.path / "model.moe")
    lines = list(write_replays(SEEN, tmp_path, tmp_path / "again"))
    assert lines[1].endswith("soft-middle: model.moe lacks the statistics of its normalizer")
    assert lines[0].startswith("no replay of dense: ")
    assert "has no model.moe, since code of your own is in its model" in lines[0]
    assert lines[0].endswith("open its model.zip with PPO.load, and call sb3_moe.watch")
    assert not (tmp_path / "again").exists()
