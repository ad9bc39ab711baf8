"""What the charts are given, and that no name can become more than text."""

import json
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from made_up_study import GAMES, cell, run, study, write, write_arrays

from sb3_moe.plots.style import look_of
from sb3_moe.saving.files import embedded, write_json
from sb3_moe.study.report import charts as charts_module
from sb3_moe.study.report.charts import charts, curves, networks
from sb3_moe.study.report.page import ground
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Run
from sb3_moe.study.report.script import policy, script
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.run.jobs import survey

pytestmark = pytest.mark.usefixtures("no_drawing")

RANDOM = dict.fromkeys(GAMES, 1.0)


def drawn_of(runs):
    return charts(runs, References(runs, RANDOM))


def rows_of(runs):
    return curves(runs, References(runs, RANDOM))


def named(drawn, key, kind="lines"):
    (found,) = (each for each in drawn[kind] if each["key"] == key)
    return found


def with_scores(made, **arrays):
    return replace(made, scores={**made.scores, **arrays})


def test_a_curve_has_the_values_of_its_network_and_seed_at_its_steps():
    runs = [run(cell(name=name, seed=seed)) for name in ("dense", "soft-big") for seed in (3, 5)]
    drawn = drawn_of(runs)
    assert [each["name"] for each in drawn["networks"]] == ["Dense", "SoftMoE-Big"]
    assert drawn["seeds"] == [3, 5]
    first, second = named(drawn, "return")["panels"]
    assert (first["task"], second["task"]) == GAMES
    assert second["setting"] == "one after the other: SpaceInvaders, then Breakout"
    assert second["blocks"] == [(81920, 163840)]
    assert second["level"] == ["random policy", 1.0]
    network, seed, steps, values = second["curves"][3]
    assert (network, seed) == (1, 5)
    assert second["steps"][steps] == runs[3].steps.tolist()
    np.testing.assert_allclose(values, runs[3].returns("Breakout"))


def test_interleaved_tasks_have_no_blocks():
    (panel, _) = named(drawn_of([run(cell("mtrl"))]), "return")["panels"]
    assert panel["blocks"] == []


def test_normalised_returns_are_0_at_random_and_1_where_dense_ends_from_scratch():
    dense, soft = run(cell(), level=11.0), run(cell(name="soft-big"), level=6.0)
    (panel,) = named(drawn_of([dense, soft]), "normalised_return")["panels"]
    assert panel["task"] == "SpaceInvaders"  # nothing says how well Breakout is learned alone
    assert panel["curves"][0][3][0] == 0.0
    assert panel["curves"][1][3][-1] == pytest.approx(0.5)


def test_success_is_shown_only_where_a_task_says_what_it_is():
    made = run(cell())
    assert "success" not in [each["key"] for each in drawn_of([made])["lines"]]
    successes = np.full((len(made.steps), 2, 4), np.nan)
    successes[:, 1] = [1.0, 0.0, 0.0, 0.0]
    (panel,) = named(drawn_of([with_scores(made, successes=successes)]), "success")["panels"]
    assert panel["task"] == "Breakout"
    assert set(panel["curves"][0][3]) == {0.25}


def test_the_inside_of_a_network_is_averaged_over_its_layers():
    made = run(cell(), dormant=0.2)
    made.diagnostics["dormant/vf.0"] = made.diagnostics["dormant/pi.0"] + 0.2
    (panel,) = named(drawn_of([made]), "dormant")["panels"]
    assert set(panel["curves"][0][3]) == {0.3}


def test_a_run_that_was_stopped_has_a_shorter_curve_of_its_own_steps():
    whole, made = run(cell(seed=0)), run(cell(seed=1))
    cut = Run(made.cell, {name: values[:-3] for name, values in made.scores.items()}, {})
    (panel, _) = named(drawn_of([whole, cut]), "return")["panels"]
    assert [len(steps) for steps in panel["steps"]] == [21, 18]
    assert [curve[2] for curve in panel["curves"]] == [0, 1]


def test_each_run_has_a_dot_for_its_one_value():
    runs = [run(cell(name=name, seed=4)) for name in ("dense", "soft-big")]
    (panel,) = named(drawn_of(runs), "dormant", "dots")["panels"]
    assert panel["task"] == "all tasks"
    assert panel["dots"] == [[0, 4, 0.2], [1, 4, 0.2]]


def test_many_values_are_thinned_but_for_the_last(monkeypatch):
    monkeypatch.setattr(charts_module, "MOST_VALUES", 100)
    made = run(cell())
    drawn = drawn_of([made])
    assert drawn["every"] == 3  # 21 evaluations of 13 values
    (panel, _) = named(drawn, "return")["panels"]
    assert panel["steps"] == [made.steps[::-1][::3][::-1].tolist()]
    assert len(rows_of([made])) == 2 * 21


def test_the_file_has_what_the_charts_show_besides_returns():
    rows = rows_of([run(cell(seed=2))])
    assert {row["measure"] for row in rows} == {"normalised_return", "dormant"}
    assert rows[-1] == {
        "measure": "dormant",
        "regime": "crl",
        "order": "SpaceInvaders Breakout",
        "game": "all games",
        "architecture": "dense",
        "seed": 2,
        "step": 163840,
        "value": 0.2,
    }


def test_every_network_has_a_look_of_its_own_and_neighbours_share_neither_colour_nor_dash():
    looks = [look_of(k) for k in range(100)]
    assert len(set(looks)) == 100
    for one, next_one in pairwise(looks):
        assert one.colour != next_one.colour
        assert one.dashes != next_one.dashes


def test_networks_that_would_be_called_alike_keep_their_own_names():
    assert [each["name"] for each in networks(["b", "B", "dense"])] == ["b", "B", "Dense"]


def test_what_is_embedded_cannot_end_its_element():
    text = embedded(["</script><script>alert(1)</script>", "<!--", "&lt;"])
    assert not set(text) & set("<>&")
    assert json.loads(text) == ["</script><script>alert(1)</script>", "<!--", "&lt;"]


def test_only_the_pages_own_script_may_run_and_nothing_may_be_loaded():
    assert "</script" not in script()
    rules = dict(rule.split(" ", 1) for rule in policy().split("; "))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", rules["script-src"])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("share", np.linspace(-1, 1, 81))
def test_weights_can_be_read_on_their_ground(share, signed):
    style = ground(share, signed)
    channels = [int(each) / 255 for each in re.findall(r"\d+", style.partition(")")[0])]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    bright = np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05
    assert (1.05 / bright if style.endswith("#fff") else bright / 0.05) >= 4.5


def test_replays_that_lie_beside_the_page_are_linked(tmp_path):
    the_study = study(claims=None, seeds=1)
    write(tmp_path, the_study, lambda each: 5.0)
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    page = write_report(the_study, tmp_path)
    assert "Agents at play" not in page.read_text()
    (page.parent / "replays").mkdir()
    (page.parent / "replays" / "soft-big.html").write_text("")
    text = write_report(the_study, tmp_path).read_text()
    assert '<a href="replays/soft-big.html">SoftMoE-Big</a>' in text
    assert "replays/dense.html" not in text


def test_differences_lie_right_of_the_middle_by_their_share_of_the_widest(tmp_path):
    claims = """
claims:
  - name: better
    text: One is better.
    contrasts:
      - measure: block_end
        plus: [{regime: mtrl, architecture: soft-big}]
        minus: [{regime: mtrl, architecture: dense}]
        expects: greater
        smallest_effect: 1.0
"""
    (tmp_path / "claims.yaml").write_text(claims)
    the_study = study(regimes=("mtrl",), claims=tmp_path / "claims.yaml")
    write(tmp_path, the_study, lambda each: 5.0 + 2 * (each.architecture.name == "soft-big"))
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    text = write_report(the_study, tmp_path).read_text()
    assert text.count('<span class="estimate" style="left:97.62%">') == 2  # 50 + 50 / 1.05
    assert text.count('<span class="small" style="left:25.58%;width:48.84%">') == 2  # of 1 / 1.95
    assert "<h3>block_end</h3>" not in text  # there is no other


def test_differences_in_several_measures_have_a_scale_each_and_say_what_is_compared(tmp_path):
    groups = """
        plus: [{regime: mtrl, architecture: soft-big}]
        minus: [{regime: mtrl, architecture: dense}]
        expects: greater
        smallest_effect: 1.0
        over: tasks
"""
    contrasts = "".join(f"      - measure: {each}{groups}" for each in ("block_end", "area"))
    claims = f"claims:\n  - name: better\n    text: One.\n    contrasts:\n{contrasts}"
    (tmp_path / "claims.yaml").write_text(claims)
    the_study = study(regimes=("mtrl",), claims=tmp_path / "claims.yaml")
    # Ends are 2 apart, and the areas below them half as much.
    write(tmp_path, the_study, lambda each: 5.0 + 2 * (each.architecture.name == "soft-big"))
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    text = write_report(the_study, tmp_path).read_text()
    assert text.count('<span class="estimate" style="left:97.62%">') == 2  # 50 + 50 / 1.05
    assert "<h3>block_end</h3>" in text
    assert "<h3>area</h3>" in text
    for measure, number in (("block_end", "1.95 [1.95, 1.95]"), ("area", "1.00 [1.00, 1.00]")):
        label = f"MTRL SoftMoE-Big - MTRL Dense, {measure}, all tasks"
        assert f"<div>better: {label}</div>" in text
        assert f"{label}: {number}" in text  # because


def page_with_gates(root, gates_NE):
    the_study = study(claims=None, seeds=1, regimes=("mtrl",))
    write(root, the_study, lambda each: 5.0)
    for job in survey(the_study.cells(), root):
        saved = job.folder.diagnostics()
        if "gates/pi.big" in saved:
            gates = np.tile(np.array(gates_NE), (len(saved["steps"]), 1, 1))
            write_arrays(job.folder, "diagnostics.npz", {**saved, "gates/pi.big": gates})
            job.folder.finish({"steps": job.cell.total_steps, "last_attempt": {}})
    write_json(root / "study.json", {})
    write_json(root / "random.json", {game: [1.0] * 70 for game in the_study.games})
    return write_report(the_study, root).read_text()


def test_weights_that_are_shares_are_called_so_and_experts_are_numbered_from_0(tmp_path):
    text = page_with_gates(tmp_path, [[0.75, 0.25], [0.0, 1.0]])
    assert "(rows sum to at most one)" in text
    assert "sorted by their weight" in text
    assert "purple" not in text
    assert '<th scope="col">task</th><th scope="col">0</th><th scope="col">1</th></tr>' in text
    assert f'<td data-label="1" style="{ground(1.0)}">1.00</td>' in text


@pytest.mark.parametrize(("low", "signed"), [(-2.0, True), (0.5, False)])
def test_weights_that_are_no_shares_are_not_called_so(tmp_path, low, signed):
    text = page_with_gates(tmp_path, [[4.0, low], [low, 1.0]])
    assert "rows sum to" not in text
    assert ("Orange is above zero, and purple below." in text) == signed
    assert ("sorted by the size of their weight" in text) == signed
    assert f'style="{ground(1.0, signed)}">4.00</td>' in text
    assert f'style="{ground(low / 4.0, signed)}">{low:.2f}</td>' in text
