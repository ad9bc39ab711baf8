import csv
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_study import study, write, write_arrays

from sb3_moe.files.json_file import write_json
from sb3_moe.study.report.facts import facts
from sb3_moe.study.report.folder import check_report_folder
from sb3_moe.study.report.headline import claims_table, returns_table
from sb3_moe.study.report.measures import MEASURES, collapsed
from sb3_moe.study.report.page import field, interval, number
from sb3_moe.study.report.references import References
from sb3_moe.study.report.rendering import sentences
from sb3_moe.study.report.results import load_results
from sb3_moe.study.report.tables import by_setting, summary
from sb3_moe.study.report.verdict import Rule
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.run.jobs import ChangedConfigError, survey
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.grid import load_study
from sb3_moe.study.spec.named import Named

EXAMPLES = Path(__file__).parents[3] / "examples"
LEVELS = {"dense": 5.0, "soft-big": 9.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("made-up")
    the_study = study(claims=load_study("smoke").claims)
    write(root, the_study, lambda cell: LEVELS[cell.architecture.name] + 0.01 * cell.seed)
    write_json(root / "study.json", {"study": the_study.to_dict(), **provenance()})
    write_json(root / "random.json", {game: [0.5, 1.5] * 35 for game in the_study.games})
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


def test_the_page_needs_no_other_file(folder):
    links = Links()
    links.feed((folder / "report" / "index.html").read_text())
    assert links.loaded == {"data:,"}
    assert not {"img", "iframe", "object", "embed"} & set(links.tags)


def test_all_that_lies_beside_the_page_is_linked_there(folder):
    links = Links()
    links.feed((folder / "report" / "index.html").read_text())
    names = {path.name for path in (folder / "report").iterdir()}
    assert links.targets == names - {"index.html", "README.md"}
    assert {"summary.csv", "verdicts.csv", "scores.csv", "curves.csv", "scores.npz"} <= names
    drawn = {"learning_curves", "dormant_neurons", "expert_weights", "differences"}
    assert {f"{name}.{ending}" for name in drawn for ending in ("png", "svg", "pdf")} <= names


def test_the_page_is_small(folder):
    assert (folder / "report" / "index.html").stat().st_size < 300_000


def test_the_summary_has_the_made_up_returns_with_their_intervals(folder):
    with (folder / "report" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    row = next(r for r in rows if (r["regime"], r["architecture"]) == ("crl", "soft-big"))
    assert float(row["random"]) == 1.0
    assert float(row["return"]) == pytest.approx(9.02)
    assert float(row["ratio"]) == pytest.approx(9.02)
    assert float(row["low"]) <= 9.02 <= float(row["high"])
    assert row["seeds"] == "5"


def test_the_return_of_every_episode_lies_beside_the_page(folder):
    arrays = np.load(folder / "report" / "scores.npz")
    assert list(arrays["games"]) == ["SpaceInvaders", "Breakout"]
    assert arrays["mtrl/soft-big/returns"].shape == (5, 21, 2, 4)
    assert list(arrays["crl/SpaceInvaders.Breakout/dense/seeds"]) == [0, 1, 2, 3, 4]
    assert arrays["crl/SpaceInvaders.Breakout/dense/steps"][-1] == 20 * 64 * 128
    last = arrays["crl/SpaceInvaders.Breakout/dense/returns"][2, -1]
    assert last == pytest.approx(np.full((2, 4), 5.02))


def test_the_headline_is_what_the_csv_files_say(folder):
    text = (folder / "report" / "README.md").read_text()
    # The files hold nothing of comparisons without values, of which this study has one.
    missing = re.findall(r"<br>[^<|]*, average performance: not tested", text)
    assert len(missing) == 1
    assert claims_table(folder / "report") in text.replace(missing[0], "")
    assert returns_table(folder / "report") in text
    assert "![Return of each task while training goes on](learning_curves.png)" in text


def test_the_headline_shows_interleaved_games_and_both_ends_of_each_order(tmp_path):
    lines = [
        "regime,order,architecture,game,seeds,return,low,high",
        "mtrl,,dense,Breakout,2,5,4,6.5",
        "crl,Pong Breakout,dense,Breakout,2,3,2,4",
        "crl,Pong Breakout,dense,Pong,2,9,8,10",
        "crl,Pong Breakout,soft-big,Breakout,1,7,nan,nan",
    ]
    (tmp_path / "summary.csv").write_text("\n".join(lines))
    assert returns_table(tmp_path).splitlines() == [
        "| Network | Breakout, interleaved | Breakout after Pong | Pong first | Seeds |",
        "| --- | --- | --- | --- | --- |",
        "| Dense | 5.00 [4.00, 6.50] | 3.00 [2.00, 4.00] | 9.00 [8.00, 10.0] | 2 |",
        "| SoftMoE-Big | - | 7.00 | - | 1 |",
    ]


def test_the_headline_names_seeds_where_they_differ_between_networks_or_returns(tmp_path):
    def last(*seeds):
        lines = ["regime,order,architecture,game,seeds,return,low,high"]
        for network, game, count in zip(("dense", "dense", "soft-big"), "ABA", seeds, strict=True):
            lines.append(f"mtrl,,{network},{game},{count},1,0,2")
        (tmp_path / "summary.csv").write_text("\n".join(lines))
        heading, _, *rows = returns_table(tmp_path).splitlines()
        return [line.strip("| ").split(" | ")[-1] for line in (heading, *rows)]

    assert last(7, 7, 2) == ["Seeds", "7", "2"]
    assert last(7, 3, 7) == ["Seeds", "3 to 7", "7"]
    assert last(7, 7, 7)[0] == "B, interleaved"


def headings(folder, lines, cycles):
    (folder / "summary.csv").write_text(
        "\n".join(["regime,order,architecture,game,seeds,return,low,high", *lines])
    )
    return returns_table(folder, cycles).splitlines()[0].strip("| ").split(" | ")[1:]


def test_a_heading_of_a_long_sequence_says_the_place_of_the_last_training(tmp_path):
    games = [f"CartPole{k}" for k in range(8)]
    lines = [f"crl,{' '.join(games)},dense,{game},5,1,0,2" for game in games]
    found = headings(tmp_path, lines, cycles=2)
    assert found == [f"CartPole{k}, block {k + 9} of 16" for k in range(8)]


def test_headings_of_several_long_orders_stay_apart(tmp_path):
    orders = ["A B", "B A"]
    lines = [f"crl,{order},dense,{game},5,1,0,2" for order in orders for game in "AB"]
    assert headings(tmp_path, lines, cycles=2) == [
        "A, block 3 of 4 of order 1",
        "B, block 4 of 4 of order 1",
        "A, block 4 of 4 of order 2",
        "B, block 3 of 4 of order 2",
    ]
    assert headings(tmp_path, lines, cycles=1) == ["A first", "B after A", "A after B", "B first"]


@pytest.mark.parametrize(("seeds", "shown"), [((5, 3), 1), ((5, 5), 1), ((3, 5), 2)])
def test_of_orders_with_the_same_before_a_game_the_one_with_the_most_seeds_counts(
    tmp_path, seeds, shown
):
    orders = zip(("A B C", "A C B"), seeds, (1, 2), strict=True)
    lines = [f"crl,{order},dense,A,{count},{value},nan,nan" for order, count, value in orders]
    (tmp_path / "summary.csv").write_text(
        "\n".join(["regime,order,architecture,game,seeds,return,low,high", *lines])
    )
    assert returns_table(tmp_path).splitlines()[2] == f"| Dense | {shown}.00 |"
    assert returns_table(tmp_path).splitlines()[0] == "| Network | A first |"


def test_the_headline_shows_the_differences_that_a_verdict_rests_on(tmp_path):
    lines = [
        "claim,text,claim_verdict,claim_verdict_by_t,contrast,measure,primary,game,difference,low,"
        "high",
        "a,It helps.,supported,undecided,MoE - Dense,relative_area,True,Pong,0.5,0.4,0.6",
        "a,It helps.,supported,undecided,MoE - Dense,relative_area,True,Breakout,0.3,0.2,0.4",
        "a,It helps.,supported,undecided,MoE - Wide,relative_area,False,Breakout,0.9,0.8,1",
        "b,It helps.,contradicted,undecided,MoE - Wide,final,True,Pong,0.1,0,0.2",
    ]
    (tmp_path / "verdicts.csv").write_text("\n".join(lines))
    assert claims_table(tmp_path).splitlines()[2:] == [
        "| It helps. | MoE - Dense, relative area:<br>Pong 0.50 [0.40, 0.60]<br>"
        "Breakout 0.30 [0.20, 0.40] | **supported** | undecided |",
        # Another claim in the same words.
        "| It helps. | MoE - Wide, final:<br>Pong 0.10 [0.00, 0.20] | **contradicted** | "
        "undecided |",
    ]
    # A claim whose text is a block in its file ends in a new line.
    (tmp_path / "verdicts.csv").write_text("\n".join(lines).replace("It helps.", '"It helps.\n"'))
    assert len(claims_table(tmp_path).splitlines()) == 4
    # What has no value is named beside the rest, and a claim without any is in a row of its own.
    (tmp_path / "verdicts.csv").write_text("\n".join(lines))
    untested = {
        ("a", "It helps."): ["MoE - A_B, final"],
        ("c", "It helps."): ["MoE - Dense, final"],
    }
    first, _, last = claims_table(tmp_path, untested=untested).splitlines()[2:]
    assert first.endswith(
        r"0.30 [0.20, 0.40]<br>MoE - A\_B, final: not tested | **supported** | undecided |"
    )
    assert last == "| It helps. | - | not tested in this study | - |"
    # Welch's intervals are Student's already.
    heading, *_, last = claims_table(tmp_path, Rule(interval=0.9, paired=False)).splitlines()
    assert heading == "| Claim | Difference, with its 90% Welch interval | Verdict |"
    assert last.endswith("Pong 0.10 [0.00, 0.20] | **contradicted** |")


def test_the_same_folders_give_the_same_tables(folder):
    before = (folder / "report" / "verdicts.csv").read_bytes()
    write_report(study(claims=load_study("smoke").claims), folder)
    assert (folder / "report" / "verdicts.csv").read_bytes() == before


def test_a_report_can_be_written_elsewhere(folder, tmp_path):
    page = write_report(study(claims=None), folder, tmp_path / "results")
    assert page == tmp_path / "results" / "index.html"
    assert (tmp_path / "results" / "scores.csv").exists()


MINE = ["README.md", "index.html", "summary.csv", "verdicts.csv", "scores.npz", "differences.png"]


@pytest.mark.parametrize("name", MINE)
def test_a_file_that_is_no_reports_is_neither_written_over_nor_deleted(folder, tmp_path, name):
    (tmp_path / name).write_text("mine")
    rule = rf"`to` must be a folder of its own.*got {re.escape(str(tmp_path))}, whose {name} would"
    with pytest.raises(ValueError, match=rule):
        write_report(study(claims=None), folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_table_called_summary_makes_no_folder_a_reports(folder, tmp_path):
    for name in ("README.md", "index.html", "summary.csv"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=r"`to` must be a folder of its own.*whose README.md"):
        write_report(study(claims=None), folder, tmp_path)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_tables_alone_are_known_as_a_reports(folder, tmp_path):
    for name in ("README.md", "summary.csv"):
        (tmp_path / name).write_bytes((folder / "report" / name).read_bytes())
    check_report_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "done.json", "diagnostics.npz"])
def test_a_runs_folder_is_never_a_reports(folder, tmp_path, name):
    (tmp_path / "index.html").write_bytes((folder / "report" / "index.html").read_bytes())
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"earlier report's, got .*, where a run has its {name}"):
        check_report_folder(tmp_path)


def test_a_runs_scores_are_kept(folder):
    run = next((folder / "cells").iterdir())
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ValueError, match=r"`to` must be .*, where a run has its config.json"):
        write_report(study(claims=None), folder, run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_folder_is_asked_about_without_being_made(tmp_path):
    check_report_folder(tmp_path / "report", "out")
    assert not (tmp_path / "report").exists()
    (tmp_path / "summary.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder of its own.*whose summary.csv"):
        check_report_folder(tmp_path, "out")


@pytest.mark.parametrize("page", sorted(EXAMPLES.rglob("index.html")), ids=lambda p: p.parent.name)
def test_reports_of_every_version_are_known_as_such(page):
    check_report_folder(page.parent)


def test_files_of_other_names_are_in_no_reports_way(folder, tmp_path, no_drawing):
    (tmp_path / "notes.txt").write_text("mine")
    write_report(study(claims=None), folder, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_report_that_was_stopped_can_be_written_again(folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_moe.study.report.writing.save_figure", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(study(claims=None), folder, tmp_path)
    assert (tmp_path / "summary.csv").exists()
    monkeypatch.setattr("sb3_moe.study.report.writing.save_figure", lambda *_, **__: None)
    assert write_report(study(claims=None), folder, tmp_path).exists()


def test_a_report_over_an_earlier_one_leaves_nothing_behind_that_is_not_its_own(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("sb3_moe.study.report.writing.save_figure", lambda *_, **__: None)
    (tmp_path / "index.html").write_bytes((folder / "report" / "index.html").read_bytes())
    stale = {"verdicts.csv", "differences.png", "differences.svg", "differences.pdf"}
    for name in {*stale, "summary.csv", "README.md", "learning_curves.png", "notes.txt"}:
        (tmp_path / name).write_text("")
    before = {path.name for path in tmp_path.iterdir()}
    write_report(study(claims=None), folder, tmp_path)
    assert before - {path.name for path in tmp_path.iterdir()} == stale


def test_a_folder_that_a_report_cant_be_written_to_is_refused_with_its_name(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`to` must be a folder that can be written, got .*file"):
        write_report(study(claims=None), folder, tmp_path / "file")


def test_a_study_without_claims_has_no_table_of_verdicts(folder, tmp_path):
    write_report(study(claims=None), folder, tmp_path)
    assert not (tmp_path / "verdicts.csv").exists()


def test_what_every_run_is_compared_by_lies_beside_the_page(folder):
    with (folder / "report" / "measures.csv").open() as file:
        rows = list(csv.DictReader(file))
    (plastic,) = (
        float(row["value"])
        for row in rows
        if (row["measure"], row["regime"], row["architecture"], row["seed"], row["game"])
        == ("plasticity", "crl", "soft-big", "3", "Breakout")
    )
    assert plastic == pytest.approx(1.0)
    told = {name for name in MEASURES if not name.startswith(("success", "inactive"))}
    assert {row["measure"] for row in rows} == told


def test_runs_that_end_below_random_are_named_on_the_page(tmp_path):
    the_study = study(claims=None)
    write(tmp_path, the_study, lambda cell: 0.5 if cell.seed == 4 else 5.0)
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    results = load_results(the_study, tmp_path)
    assert {run.cell.seed for run, _ in collapsed(results.runs, results.random)} == {4}
    html = write_report(the_study, tmp_path).read_text()
    assert "crl-SpaceInvaders.Breakout-dense-s4, Breakout: 0.50" in html
    assert "dense-s3, Breakout" not in html


def with_returns(job, game, value, at):
    """Put a value in place of some of a game's returns."""
    arrays = job.folder.scores()
    arrays["score"][at, job.cell.games.index(game)] = value
    write_arrays(job.folder, "scores.npz", arrays)
    job.folder.finish({"steps": job.cell.total_steps, "last_attempt": {"start": 0, "seconds": 1.0}})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_return_that_is_no_number_spoils_no_page_and_is_named_there(tmp_path, value, no_drawing):
    made = study(seeds=2, claims=load_study("smoke").claims, regimes=("mtrl",))
    write(tmp_path, made, level=lambda cell: 5.0)
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in made.games})
    write_json(tmp_path / "study.json", {})
    first, *_, last = survey(made.cells(), tmp_path)
    with_returns(first, "Breakout", value, slice(-3, None))
    with_returns(last, "SpaceInvaders", value, 3)
    _, limits = write_report(made, tmp_path).read_text().split("<h2>What did not help</h2>")
    assert "Runs with returns that are no numbers" in limits
    assert f"{first.cell.name}, Breakout: 3 of 21 returns, the last among them<" in limits
    assert f"{last.cell.name}, SpaceInvaders: 1 of 21 returns<" in limits
    assert "below the random policy" not in limits


@pytest.mark.parametrize("value", [None, "text", float("nan")])
def test_a_random_level_that_is_no_number_says_which_and_what_to_do(folder, tmp_path, value):
    root = shutil.copytree(folder, tmp_path / "copy")
    levels = {"SpaceInvaders": [1.0] * 70, "Breakout": [1.0] * 69 + [value]}
    write_json(root / "random.json", levels)
    with pytest.raises(ValueError, match=r"random.json must .* got .* of Breakout: run the study"):
        load_results(study(claims=None), root)


def test_runs_that_have_every_return_are_not_named_as_if_they_lacked_one(folder):
    page = (folder / "report" / "index.html").read_text()
    assert "Runs with returns that are no numbers" not in page


def test_the_page_says_from_which_tau_on_a_neuron_counts_as_dormant(tmp_path):
    own = Named(name="PlasticityCallback", arguments={"taus": [0.5, 0]})
    for callbacks, tau in ((), "0.025"), ((own,), "0.5"):
        made, root = study(seeds=1, claims=None, callbacks=callbacks), tmp_path / tau
        write(root, made, level=lambda cell: 5.0)
        write_json(root / "random.json", {game: [1.0] * 70 for game in made.games})
        write_json(root / "study.json", {})
        page = write_report(made, root)
        assert f"with tau {tau}," in " ".join(page.read_text().split())


def test_every_network_is_explained_on_the_page(folder):
    text = (folder / "report" / "index.html").read_text()
    assert "Dense: no experts" in text


def test_every_claim_is_on_the_page_with_its_verdict(folder):
    text = (folder / "report" / "index.html").read_text()
    assert text.count("not tested in this study") == 2  # routing, and the actor against the critic
    assert len(re.findall(r'class="verdict (supported|contradicted|undecided)"', text)) >= 4


def test_games_lie_side_by_side_in_the_wide_table(folder):
    results = load_results(study(claims=None), folder)
    wide = by_setting(summary(results.runs, results.random))
    assert list(wide) == [
        "interleaved",
        "one after the other: SpaceInvaders, then Breakout",
        "one after the other: Breakout, then SpaceInvaders",
    ]
    dense, soft_big = wide["interleaved"]
    assert (dense["network"], soft_big["network"]) == ("Dense", "SoftMoE-Big")
    assert {"return SpaceInvaders", "return Breakout"} <= set(dense)


def test_what_returns_are_compared_with_is_found_once(folder, tmp_path, monkeypatch, no_drawing):
    made = []

    def counted(*values):
        made.append(References(*values))
        return made[-1]

    monkeypatch.setattr("sb3_moe.study.report.results.References", counted)
    write_report(study(claims=load_study("smoke").claims), folder, tmp_path)
    assert len(made) == 1


def test_a_report_without_runs_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"needs a cell that is done, .* has none: run the study"):
        load_results(study(), tmp_path)


def test_a_report_of_a_changed_study_is_refused_with_the_difference(folder):
    changed = study(claims=None, arguments={"learning_rate": 0.1})
    with pytest.raises(ChangedConfigError, match=r"ppo.learning_rate: None -> 0.1"):
        load_results(changed, folder)


def test_a_report_with_another_number_of_random_episodes_says_what_to_do(folder):
    with pytest.raises(ValueError, match=r"must hold 100 episodes .* got 70: run the study"):
        load_results(study(claims=None, random_episodes=100), folder)


@pytest.mark.parametrize(
    "text",
    ["5.03", "-5.03", "1,234", "4e-05", "9.1e-05", "1.00e+30", "9.0 [8.1, 9.9]", "-1 [-2, 0]"],
)
def test_a_number_that_is_written_already_is_one(text):
    assert field(text).css == "number"


@pytest.mark.parametrize("text", ["-", "soft-big", "2 seeds", "Task 1 [new]", ""])
def test_a_word_is_no_number(text):
    assert field(text).css == ""


def test_numbers_have_as_many_digits_as_a_reader_needs():
    assert [number(x) for x in (0.123, 12.34, 1234.5, float("nan"))] == [
        "0.12",
        "12.3",
        "1,234",
        "-",
    ]
    assert [number(x) for x in (-0.0032, 9.1e-05, 0.0)] == ["-0.0032", "9.1e-05", "0.00"]
    # On both sides of what is usually asked of a p-value, which two digits don't show.
    assert [number(x) for x in (0.0491, 0.0549, 0.0051)] == ["0.049", "0.055", "0.0051"]
    assert number(7.78500000001) == number(float("7.785"))  # as it is in a CSV file
    # More digits than anyone counts.
    assert [number(x) for x in (123_456_789.0, 1e9, -1.2345e10, 1e30, 1e300)] == [
        "123,457,000",
        "1.00e+09",
        "-1.23e+10",
        "1.00e+30",
        "1.00e+300",
    ]
    assert interval(1e30, -5.0, 2e30) == "1.00e+30 [-5.00, 2.00e+30]"
    assert interval(1.0, 0.5, 1.5) == "1.00 [0.50, 1.50]"
    assert interval(0.0161, -0.1812, 0.2134) == "0.02 [-0.18, 0.21]"
    assert interval(0.3412, 0.0041, 0.6783) == "0.34 [0.004, 0.68]"
    assert interval(-0.0404, -0.0597, -0.0211) == "-0.040 [-0.060, -0.021]"
    assert interval(1.0, float("nan"), float("nan")) == "1.00"


def choices(the_study):
    return sentences("choices.txt.j2", study=facts(the_study))


@pytest.mark.parametrize(
    ("own", "annealing", "words"),
    [
        ({}, "none", "Learning rate: 0.005. It is constant: annealing"),
        (
            {"learning_rate": 1e-3},
            "block",
            "Learning rate: 0.001. It falls to zero over each task's",
        ),
        ({"n_epochs": 2}, "run", "Learning rate: 0.005. It falls to zero over the run, so"),
    ],
)
def test_the_page_says_how_learning_rates_were_chosen(own, annealing, words):
    column = Architecture(name="dense", policy_kwargs={"placement": "none"}, arguments=own)
    one = replace(study(annealing=annealing), architectures=(column,))
    (rate,) = (line for line in choices(one) if line.startswith("Learning rate"))
    assert rate.startswith(words)


def test_values_that_a_network_has_of_its_own_are_not_listed_as_shared(tmp_path):
    column = Architecture(name="dense", arguments={"learning_rate": 1e-3})
    the_study = replace(study(claims=None), architectures=(column,))
    write(tmp_path, the_study, lambda cell: 5.0)
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    assert load_results(the_study, tmp_path).arguments == {"gamma": 0.9}
