"""A report says what the study's configuration says, and nothing else."""

import re
import shutil
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from made_up_study import ROLLOUT, run, study, write

from sb3_moe.files.json_file import write_json
from sb3_moe.study.report import figures, rendering, sections
from sb3_moe.study.report.facts import facts, shared_arguments
from sb3_moe.study.report.rendering import render, sentences
from sb3_moe.study.report.writing import write_report
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.config import Architecture, Evaluation
from sb3_moe.study.spec.grid import About, read_study

pytestmark = pytest.mark.usefixtures("no_drawing")

ONE = {"games": ("CartPole-v1",), "architectures": ("dense",), "regimes": ("mtrl",), "seeds": 1}
TWO = {"games": ("CartPole-v1", "Acrobot-v1"), "architectures": ("dense", "soft-big")}
SAC = {"algorithm": "SAC", "library": "Stable-Baselines3", "preset": "", "samples": False}


def mine(architectures=("dense",), **changes):
    columns = tuple(
        Architecture(name=name) if isinstance(name, str) else name for name in architectures
    )
    return replace(study(), architectures=columns, **changes)


def reported(the_study, root, level=5.0, random=1.0):
    """Report made-up runs: as :func:`report_of`."""
    write(root, the_study, lambda cell: level, random=random)
    return report_of(the_study, root, random)


def report_of(the_study, root, random=1.0):
    """Give a report's texts: the page's without tags, figures and files, and the README."""
    write_json(root / "study.json", {})
    write_json(root / "random.json", {game: [random] * 70 for game in the_study.games})
    html = write_report(the_study, root).read_text()
    html = re.sub(
        r"<style>.*?</style>|<pre>.*?</pre>|<script.*?</script>", "", html, flags=re.DOTALL
    )
    return unescape(re.sub(r"<.*?>", "\n", html)), (root / "report" / "README.md").read_text()


def choices(the_study, **changes):
    return sentences("choices.txt.j2", study=replace(facts(the_study), **changes))


@pytest.mark.parametrize("changes", [ONE, TWO], ids=["one", "two"])
def test_a_study_of_another_algorithm_speaks_of_no_other(changes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sections, "facts", lambda the_study: replace(facts(the_study), **SAC, normalize="Per task")
    )
    page, readme = reported(study(**changes), tmp_path, level=-100.0, random=-200.0)
    assert "SAC of Stable-Baselines3 with its default values" in page
    assert "Normalisation: Per task." in page
    for word in ("ppo", "minatar", "atari", "game", "six actions", "samples its", "paper"):
        assert word not in page.lower()
        assert word not in readme.lower()


DQN_YAML = """
name: mine
algorithm: DQN
tasks: [CartPole-v1, Acrobot-v1]
architectures:
  dense: {placement: none, net_arch: [8]}
  redo: {placement: none, callbacks: [{ReDoCallback: {every: 500, tau: 0.1}}]}
  own: {placement: middle, arguments: {gamma: 0.5}}
n_envs: 2
steps_per_task: 2000
arguments: {learning_rate: 1e-3, buffer_size: 50_000, gamma: 0.99, train_freq: [2, step]}
annealing: block
evaluation: {deterministic: true}
callbacks: [{TaskSwitchCallback: {}}]
"""
SAC_YAML = """
name: mine
algorithm: SAC
tasks: Classic/Pendulum4
regimes: [mtrl]
architectures: [{soft-middle-qf: {placement: {pi: none, qf: middle}, num_experts: 3}}]
n_envs: 8
steps_per_task: 2000
env: {task_id: onehot}
normalize: {PerTaskVecNormalize: {clip_obs: 5.0}}
"""
SCHEDULE_YAML = """
name: mine
preset: none
games: [CartPole-v1, Acrobot-v1]
schedule: {Adaptive: {rule: "return>=200"}}
architectures: {dense: {placement: none}}
n_envs: 2
steps_per_task: 4000
arguments:
  n_steps: 100
  learning_rate:
    "stable_baselines3.common.utils:LinearSchedule": {start: 0.1, end: 0.0, end_fraction: 1.0}
normalize: {VecNormalize: {norm_reward: false}}
seeds: 1
"""
OTHERS = {
    "DQN": (
        DQN_YAML,
        "mine: DQN on CartPole, Acrobot",
        "Algorithm: DQN of Stable-Baselines3 with its default values, but learning_rate 0.001, "
        "buffer_size 50000, train_freq [2, 'step']; 2 copies",
        "Learning rate: 0.001, the same for all networks, though each may have a best one of its "
        "own. It falls to zero over each task's training, and starts again with the next task. "
        "In runs without a given order of tasks it falls to zero over the run.",
        "Callbacks while training: TaskSwitchCallback.",
        "the policy acts without chance (deterministic=True), in",
        "Dense: no experts; hidden layers of [8]",
        "no experts; trained with ReDoCallback (every 500, tau 0.1)",
        "gamma 0.5",
    ),
    "SAC": (
        SAC_YAML,
        "Algorithm: SAC of Stable-Baselines3 with its default values, but replay_buffer_class "
        "sb3_moe.buffers.multitask.MultiTaskReplayBuffer; 8 copies",
        "Environment: task_id onehot.",
        "Learning rate: 0.0003. It is constant.",
        "Interleaving: every task has a fixed share of the parallel environments, so all tasks",
        "Normalisation: observations and rewards, each task's by statistics of its own, "
        "PerTaskVecNormalize (clip_obs 5.0).",
        "actor: no experts; critic: experts in place of the last hidden layer, 3 of them",
    ),
    "schedule": (
        SCHEDULE_YAML,
        "1 seed and 8,000 environment steps in each run.",
        "SCHEDULE means that a schedule says which task is played when.",
        "Algorithm: PPO of Stable-Baselines3 with its default values, but n_steps 100, ",
        "Learning rate: LinearSchedule({'start': 0.1, 'end': 0.0, 'end_fraction': 1.0}). It "
        "changes as this schedule says, over the run.",
        "Schedule: Adaptive (rule return>=200) says which task is played when.",
        "Normalisation: observations, by the same statistics for all tasks, VecNormalize "
        "(norm_reward False).",
        "20 times while training, and whenever the task changes.",
        "what is left of it after other tasks were trained",
    ),
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_study_read_from_a_file_is_told_as_it_is_and_as_no_other(name, tmp_path):
    text, *sentences_of_it = OTHERS[name]
    page, readme = reported(read_study(text, tmp_path), tmp_path, level=-100.0, random=-200.0)
    for sentence in sentences_of_it:
        assert sentence in page
    others = {"ppo", "dqn", "sac"} - {"ppo" if name == "schedule" else name.lower()}
    for word in ("minatar", "atari", "game", "six actions", "no-ops", *others):
        assert word not in page.lower()
        assert word not in readme.lower()
    assert ("Shading" in page) == (name == "DQN")


def test_rates_that_are_numbers_and_rates_that_are_schedules_are_told_apart():
    shape = {"start": 0.1, "end": 0.0, "end_fraction": 1.0}
    falling = {"learning_rate": {"stable_baselines3.common.utils:LinearSchedule": shape}}
    own = Architecture(name="own", arguments=falling)
    (rate,) = (line for line in choices(mine(["dense", own])) if line.startswith("Learning"))
    assert rate.endswith("Where it is a number it is constant; a schedule changes it over the run.")


def test_a_study_of_both_says_which_of_its_runs_a_schedule_plays(tmp_path):
    text = SCHEDULE_YAML + "regimes: [mtrl, schedule]\n"
    page, _ = reported(read_study(text, tmp_path), tmp_path)
    assert "4,000 environment steps per task and visit, or 8,000 in all where a schedule" in page
    assert "Interleaving (MTRL): every task has a fixed share" in page


def test_games_that_begin_with_no_ops_are_told_so_and_others_not():
    (line,) = (each for each in choices(study(no_op_max=30)) if each.startswith("Starts:"))
    assert line == "Starts: an episode of MinAtar's games begins with up to 30 no-ops."
    for changes in ({}, {"games": ("CartPole-v1",), "no_op_max": 30}):
        assert not [each for each in choices(study(**changes)) if each.startswith("Starts:")]


def test_a_study_of_one_task_and_one_network_speaks_of_no_others(tmp_path):
    page, readme = reported(study(**ONE), tmp_path)
    assert "Task: CartPole-v1. 1 of 1 training runs are done, with 1 seed and" in page
    assert "The network:" in page
    for words in (
        "for all networks",
        "Interleaving:",
        "From scratch:",
        "later tasks",
        "CRL",
        "Shading marks",
        "bands reach",
        "all tasks",
        "other tasks",
        "did not help",
        "claim",
    ):
        assert words not in page
    assert "bootstrap" not in readme


PLAIN = {"regimes": ("crl",), "orders": "given", "seeds": 2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page of a study that is another in each of the facts."""
    return reported(study(**PLAIN), tmp_path_factory.mktemp("plain"))[0]


FACTS = [
    ({"steps_per_task": 20 * ROLLOUT}, "163,840 environment steps per task and visit"),
    ({"seeds": (3, 8)}, "Seeds: 3, 8."),
    ({"cycles": 2}, "each sequence played 2 times"),
    (
        {"arguments": {"gamma": 0.9}},
        "PPO of Stable-Baselines3 with .* MINATAR_PPO, but gamma 0.9; ",
    ),
    ({"arguments": {"gamma": 0.99, "n_epochs": 2}}, "MINATAR_PPO, but n_epochs 2; "),
    ({"arguments": {"learning_rate": 1e-4}}, "Learning rate: 0.0001, the same for all networks"),
    ({"n_envs": 32}, "32 copies of the environment step together"),
    ({"annealing": "run"}, "It falls to zero over the run, so that later tasks"),
    ({"annealing": "block"}, "It falls to zero over each task's training, and starts again"),
    ({"evaluation": Evaluation(points=5, episodes=7)}, "samples its .*: 7 episodes .* 5 times per"),
    (
        {"evaluation": Evaluation(points=1, deterministic=True)},
        "takes its most likely actions, .* 1 time p",
    ),
    ({"games": ("CartPole-v1", "Acrobot-v1")}, "Tasks: CartPole-v1, Acrobot-v1"),
    ({"regimes": ("mtrl",)}, "In what follows, MTRL means that tasks are interleaved. The net"),
    ({"regimes": ("crl", "scratch")}, "CRL means that .*, SCRATCH that each task has runs of its"),
    ({"about": About(title="Why & how?")}, "^\\s*Why & how\\?"),
    ({"about": About(introduction="One.\n\nTwo.")}, "One.\n+Two\\."),
    ({"about": About(notes=("A note.",))}, "A note."),
    ({"about": About(reproduce="Run it.")}, "Run it."),
]


@pytest.mark.parametrize(("changes", "words"), FACTS, ids=range(len(FACTS)))
def test_each_fact_of_the_configuration_is_on_the_page(changes, words, plain, tmp_path):
    page, _ = reported(study(**{**PLAIN, **changes}), tmp_path)
    assert re.search(words, page)
    assert not re.search(words, plain)


def test_a_value_that_is_the_presets_own_is_no_change():
    assert facts(study(arguments={"gamma": 0.99, "n_epochs": 2})).changed == {"n_epochs": 2}


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"placement": "none"}, "no experts; hidden layers of [64, 64]"),
        ({"placement": "none", "net_arch": [8]}, "no experts; hidden layers of [8]"),
        (
            {"placement": "big", "router": "task"},
            "each expert a whole network, 2 of them; the task picks its own; "
            "hidden layers of [64, 64]",
        ),
        (
            {"placement": {"pi": "middle", "vf": "none"}},
            "actor: experts in place of the last hidden layer, 4 of them; "
            "a learned router weighs all of them; hidden layers of [64, 64]; "
            "critic: no experts; hidden layers of [64, 64]",
        ),
    ],
)
def test_a_network_is_told_with_what_it_got_by_default(kwargs, words):
    (network,) = facts(mine([Architecture(name="any", policy_kwargs=kwargs)])).networks
    assert network.meaning == words


def test_rates_of_their_own_are_told_apart_from_the_rate_of_the_others():
    own = Architecture(name="own", arguments={"learning_rate": 0.001})
    (rate,) = (line for line in choices(mine(["dense", own])) if line.startswith("Learning"))
    assert "networks have their own, " in rate
    assert "where none is given it is 0.005." in rate


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"samples": False}, "the policy acts with what chance it has of its own"),
        (
            {"samples": False, "evaluation": Evaluation(deterministic=True)},
            "the policy acts without chance",
        ),
        ({"callbacks": ("ReDo", "Reset")}, "Callbacks while training: ReDo, Reset."),
        ({"n_envs": 1}, "; 1 copy of the environment."),
    ],
)
def test_other_facts_have_sentences_of_their_own(changes, line):
    assert [each for each in choices(study(), **changes) if line in each]
    assert not [each for each in choices(study()) if line in each]


@pytest.mark.parametrize(
    ("expected", "words", "others"),
    [
        ({"greater"}, "one-sided", "two-sided"),
        ({"not_greater"}, "one-sided", "two-sided"),
        ({"different"}, "two-sided", "one-sided"),
        ({"greater", "different"}, "one-sided (is the mean difference above 0?), but two-", "no"),
    ],
)
def test_the_sides_of_the_tests_are_those_that_the_claims_take(expected, words, others):
    (line,) = sentences("tests.txt.j2", expected=expected)
    assert words in line
    assert others not in line


CLAIMS = """
rule: {interval: 0.975, alpha: 0.01}
claims:
  - name: <b>
    text: 1 < 2 & "3" | _4_.
    contrasts:
      - measure: block_end
        plus: [{architecture: soft-big}]
        minus: [{architecture: dense}]
        expects: EXPECTS
        smallest_effect: 0.1
"""


@pytest.mark.parametrize(
    ("expects", "words"),
    [
        ("greater", "To the right is what the claim says."),
        ("not_greater", "except that for “<b>” (no better) it speaks against the claim."),
        ("different", "except that for “<b>” either side counts."),
    ],
)
def test_claims_are_told_by_their_own_rule(expects, words, tmp_path):
    (tmp_path / "claims.yaml").write_text(CLAIMS.replace("EXPECTS", expects))
    page, readme = reported(study(seeds=2, claims=tmp_path / "claims.yaml"), tmp_path)
    assert words in page
    assert '1 < 2 & "3" | _4_.' in page
    assert "97.5% bootstrap intervals over seeds" in page
    assert "is below 0.01;" in page
    assert ("A claim of “no better”" in page) == (expects == "not_greater")
    assert "Further comparisons" not in page
    assert "Difference, with its 97.5% bootstrap interval" in readme
    assert r'| 1 \< 2 \& "3" \| \_4\_. |' in readme
    assert "A mean over tasks is of returns" not in page
    assert "supported only where every comparison is" not in page


def test_units_and_claims_that_need_all_are_told(tmp_path):
    text = CLAIMS.replace("EXPECTS", "greater").replace("    text:", "    needs: all\n    text:")
    (tmp_path / "claims.yaml").write_text(f"units: {{SpaceInvaders: 9, Breakout: 3.5}}\n{text}")
    page, _ = reported(study(seeds=2, claims=tmp_path / "claims.yaml"), tmp_path)
    assert "A mean over tasks is of returns divided by 9, 3.5 (SpaceInvaders, Breakout)." in page
    assert "“<b>”: supported only where every comparison is," in page


def test_words_of_a_study_are_escaped_where_they_stand(tmp_path):
    odd = "<script>alert('a & b')</script> {{ 7 * 7 }} *c*"
    about = About(title=odd, introduction=odd, notes=(odd,), reproduce=odd)
    page, readme = reported(study(seeds=1, about=about), tmp_path)
    html = (tmp_path / "report" / "index.html").read_text()
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(&#39;a &amp; b&#39;)&lt;/script&gt; {{ 7 * 7 }}") == 5
    assert page.count(odd) == 5
    assert readme.startswith(r"# \<script\>alert('a \& b')\</script\> {{ 7 \* 7 }} \*c\*")


def test_a_heading_is_escaped_once_in_text_and_attribute():
    template = '{% from "parts.html.j2" import table %}{{ table([row], {"a": name}) }}'
    environment = rendering._environment()
    made = environment.overlay(autoescape=True).from_string(template)
    html = made.render(row={"a": 1}, name="a's \"<i>&")
    assert html.count("a&#39;s &#34;&lt;i&gt;&amp;") == 2


def reproduced(page):
    """Give the page's last part on one line."""
    return " ".join(page.read_text().split("<h2>To check this page</h2>")[1].split())


def test_a_command_that_ran_another_study_in_the_folder_is_said_to_have(tmp_path):
    the_study = mine(["dense", "soft-big"], regimes=("mtrl",))
    write(tmp_path, the_study, lambda cell: 5.0)
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})

    def said(**changes):
        last = {"study": replace(the_study, **changes).to_dict(), "command": "sb3-moe"}
        write_json(tmp_path / "study.json", last)
        return reproduced(write_report(the_study, tmp_path))

    assert "That command ran" not in said()
    about = About(title="Before it was called otherwise")
    assert "That command ran" not in said(about=about, claims=tmp_path / "claims.yaml")
    page = said(seeds=(0, 1), arguments={"gamma": 0.5})
    assert "<p>That command ran this study with other arguments, seeds.</p>" in page
    networks = (Architecture(name="dense"), Architecture(name="top_k-big"))
    page = said(name="a<b", architectures=networks)
    differs = "which differs in architectures."
    assert f"<p>That command ran another study, a&lt;b, {differs}</p>" in page
    assert "<p>That command ran another study, b.</p>" in said(name="b")


def test_a_random_level_of_another_world_is_in_no_report(tmp_path):
    the_study = mine(["dense"], regimes=("mtrl",))
    write(tmp_path, the_study, lambda cell: 5.0)
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    other = replace(the_study, name="other", no_op_max=7)
    write_json(tmp_path / "study.json", {"study": other.to_dict()})
    rule = (
        r"random.json must be of {}, got {'no_op_max': 7}: run the study, which measures it again"
    )
    with pytest.raises(ValueError, match=rule):
        write_report(the_study, tmp_path)


@pytest.mark.parametrize("said", [None, "text", {"architectures": 5}, {"architectures": [None]}])
def test_a_study_json_that_says_nothing_of_a_study_spoils_no_page(tmp_path, said):
    the_study = mine(["dense"], regimes=("mtrl",), seeds=(0,))
    write(tmp_path, the_study, lambda cell: 5.0)
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    write_json(tmp_path / "study.json", {"study": said})
    assert write_report(the_study, tmp_path).exists()


def test_runs_that_were_stopped_are_not_counted_as_done():
    context = {"study": facts(study()), "done": 3, "interrupted": 1, "cells": 5, "seeds": 2}
    context |= {"ended_early": 0, "failed": {}, "fewest": 2}
    assert "3 of 5 training runs are done, 1 more counts as far as it has come, with" in (
        render("extent.txt.j2", **context).replace("\n", " ")
    )


def test_a_tower_whose_router_is_fixed_has_no_picture_of_its_weights():
    routers = {"pi": "task", "vf": "soft"}
    kwargs = {"placement": "big", "router": routers}
    cells = mine([Architecture(name="mixed", policy_kwargs=kwargs)], regimes=("mtrl",)).cells()
    runs = [run(cell) for cell in cells]
    for each in runs:
        each.diagnostics["gates/vf.big"] = each.diagnostics["gates/pi.big"]
    ((caption, *_),) = figures.expert_panels(runs)
    assert "critic (vf.big)" in caption


@pytest.mark.parametrize(("moved", "shown"), [(0.0, 0), (0.1, 1)])
def test_a_head_by_task_has_no_picture_but_the_towers_own_router_has(moved, shown):
    kwargs = {"placement": "body", "router": "embedding", "head_router": "task"}
    (cell, *_) = study(regimes=("mtrl",)).cells()
    made = run(replace(cell, architecture=Architecture(name="mixed", policy_kwargs=kwargs)))
    gates = np.array(made.diagnostics["gates/pi.big"])
    gates[-1] += moved
    steps = made.diagnostics["steps"]
    made = replace(made, diagnostics={"steps": steps, "gates/pi.body.0": gates})
    assert len(figures.expert_panels([made])) == shown


@pytest.mark.parametrize(("other", "signed"), [(-0.001, True), (0.001, False)])
def test_weights_of_both_signs_are_said_to_be_turned_and_none_is_minus_zero(other, signed):
    panel = figures.Panel("soft", ("Breakout",), np.array([[0.9, other]]))
    page = render(
        "insides.html.j2",
        pictures=(),
        experts=[panel],
        largest=0.9,
        signed=signed,
        shares=not signed,
    )
    said = "sign is chance too: each is turned to count above zero for the first task."
    assert (said in page) == signed
    assert ">0.90</td>" in page
    assert ">0.00</td>" in page


def test_each_of_several_critics_is_known_by_what_routes_it():
    kwargs = {"placement": "big", "router": {"pi": "soft", "qf": "task"}}
    (cell, *_) = study(regimes=("mtrl",)).cells()
    mixed = Architecture(name="mixed", policy_kwargs=kwargs)
    made = run(replace(cell, algorithm="SAC", preset="none", architecture=mixed))
    gates = made.diagnostics["gates/pi.big"]
    shown = {"steps": made.diagnostics["steps"], "gates/pi.big": gates, "gates/qf1.big": gates}
    ((caption, *_),) = figures.expert_panels([replace(made, diagnostics=shown)])
    assert "actor (pi.big)" in caption


def test_a_value_of_a_whole_run_is_of_all_tasks_to_readers_and_of_all_games_in_files(tmp_path):
    claims = CLAIMS.replace("block_end", "dormant").replace("EXPECTS", "greater")
    (tmp_path / "claims.yaml").write_text(claims)
    page, readme = reported(study(seeds=2, claims=tmp_path / "claims.yaml"), tmp_path)
    assert "all tasks: 0.00" in page
    assert "dormant:<br>all tasks 0.00" in readme
    assert "all games" not in page + readme
    assert ",all games," in (tmp_path / "report" / "verdicts.csv").read_text()


def test_what_networks_have_of_their_own_is_not_shared():
    own = Architecture(name="own", arguments={"gamma": 0.5})
    config = {"arguments": {"gamma": 0.9, "n_steps": 128, "policy_kwargs": {}}}
    assert shared_arguments(mine(["dense", own]), config) == {"n_steps": 128}


def test_a_policy_of_another_package_is_told_by_its_name():
    text = (
        "name: a\ngames: [Breakout]\nsteps_per_task: 8192\narchitectures: [x: {policy: MlpPolicy}]"
    )
    (network,) = facts(read_study(text, Path())).networks
    assert network.meaning == "the policy MlpPolicy; net arch [64, 64]"
    assert not network.has_experts


def test_all_templates_are_part_of_the_package():
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = list((root / "sb3_moe" / "study" / "report" / "templates").iterdir())
    assert len(files) > 5
    for file in files:
        name = str(file.relative_to(root / "sb3_moe"))
        assert any(fnmatch(name, pattern) for pattern in data["package-data"]["sb3_moe"])


def test_runs_that_a_callback_ended_are_said_to_have_ended_early(tmp_path):
    the_study = mine(["dense", "soft-big"], regimes=("mtrl",), seeds=(0,))
    write(tmp_path, the_study, lambda cell: 5.0)
    ended = CellFolder(next((tmp_path / "cells").glob("*dense*")))
    ended.finish({"steps": the_study.cells()[0].total_steps - ROLLOUT, "last_attempt": {}})
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    write_report(the_study, tmp_path)
    readme = (tmp_path / "report" / "README.md").read_text()
    assert (
        "2 of 2 training runs are done (1 was ended by a callback before its last step, and lacks "
        "areas from there on), with" in (readme.replace("\n", " "))
    )


def test_runs_that_failed_are_named_with_why_and_counted(tmp_path):
    the_study = mine(["dense", "soft-big"], regimes=("mtrl",), seeds=(0, 1))
    write(tmp_path, the_study, lambda cell: 5.0)
    for folder in (tmp_path / "cells").glob("*soft-big-s1"):
        CellFolder(folder).fail(ValueError("it <diverged>"))
    write_json(tmp_path / "study.json", {})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    page = unescape(write_report(the_study, tmp_path).read_text())
    readme = (tmp_path / "report" / "README.md").read_text()
    for text in (page, readme):
        assert "3 of 4 training runs are done (1 failed, and is in no number)" in (
            text.replace("\n", " ")
        )
    assert "soft-big-s1: ValueError: it <diverged>" in page


def test_the_page_says_what_its_runs_ran_on_and_not_what_looked_at_them_last(tmp_path):
    the_study = mine(["dense", "soft-big"], regimes=("mtrl",), seeds=(0, 1))
    write(tmp_path, the_study, lambda cell: 5.0)
    for folder in map(CellFolder, (tmp_path / "cells").iterdir()):
        torch = "2.9" if folder.name.endswith("big-s1") else "2.8"
        write_json(folder.path / "config.json", {**folder.config(), "versions": {"torch": torch}})
        folder.finish({"steps": the_study.cells()[0].total_steps, "last_attempt": {}})
    write_json(tmp_path / "study.json", {"command": "sb3-moe", "versions": {"torch": "9"}})
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in the_study.games})
    page = unescape(write_report(the_study, tmp_path).read_text())
    assert page.index("3 runs:") < page.index('"torch": "2.8"') < page.index("1 run:")
    assert page.index("1 run:") < page.index('"torch": "2.9"')
    assert '"torch": "9"' not in page


def test_intervals_of_few_seeds_rule_nothing_out_and_are_said_to_be_of_few(tmp_path):
    (tmp_path / "claims.yaml").write_text(CLAIMS.replace("EXPECTS", "greater"))
    columns = ["dense", "soft-big"]
    for seeds in (1, 2, 5):
        root = tmp_path / str(seeds)
        the_study = mine(columns, seeds=tuple(range(seeds)), claims=tmp_path / "claims.yaml")
        page, readme = reported(the_study, root)
        text = "which says next to nothing of so few"
        assert (text in page) == (text in readme.replace("\n", " ")) == (seeds == 2)
        text = "differences between networks may be chance"
        assert (text in page) == (text in readme.replace("\n", " ")) == (seeds == 1)
        assert ("rules out the smallest benefit" in page.replace("\n", " ")) == (seeds == 5)


@pytest.mark.parametrize(
    ("seeds", "extent", "words"),
    [
        ((7, 2), "with 2 to 7 seeds", ["says next to nothing of so few as 2"]),
        ((7, 5), "with 5 to 7 seeds", []),
        ((7, 1), "with 1 to 7 seeds", ["one seed alone it has none"]),
        ((3, 1), "with 1 to 3 seeds", ["nothing of so few as 3", "one seed alone it has none"]),
        ((2, 2), "with 2 seeds", ["says next to nothing of so few"]),
    ],
)
def test_what_is_said_of_few_seeds_goes_by_the_network_with_the_fewest(
    tmp_path, seeds, extent, words
):
    the_study = mine(["dense", "soft-big"], regimes=("mtrl",), seeds=tuple(range(7)))
    write(tmp_path, the_study, lambda cell: 5.0)
    wanted = dict(zip(("dense", "soft-big"), seeds, strict=True))
    for job in survey(the_study.cells(), tmp_path):
        if job.cell.seed >= wanted[job.cell.architecture.name]:
            shutil.rmtree(job.folder.path)
    for text in report_of(the_study, tmp_path):
        said = " ".join(text.split())
        assert extent in said
        assert [word for word in words if word not in said] == []
        assert ("so few" in said) == (any("so few" in word for word in words))
        assert ("one seed" in said.lower()) == (min(seeds) == 1)


def test_a_claim_that_is_not_tested_stays_in_the_headline(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        CLAIMS.replace("block_end", "plasticity").replace("EXPECTS", "greater")
    )
    the_study = mine(["dense", "soft-big"], seeds=(0,), claims=tmp_path / "claims.yaml")
    _, readme = reported(the_study, tmp_path, level=1.0, random=5.0)
    assert "| - | not tested in this study | - |" in readme


MIXED = """
claims:
  - name: both
    text: Both.
    contrasts:
      - {measure: block_end, plus: [{architecture: b}], minus: [{architecture: B}],
         expects: not_greater, smallest_effect: 0.1}
      - {measure: dormant, plus: [{architecture: b}], minus: [{architecture: B}],
         expects: different, smallest_effect: 0.1}
      - {measure: success_area, plus: [{architecture: b}], minus: [{architecture: B}],
         expects: greater, smallest_effect: 0.1}
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "claims.yaml").write_text(MIXED)
    the_study = study(architectures=("b", "B"), seeds=2, claims=folder / "claims.yaml")
    return reported(the_study, folder)


def test_a_primary_comparison_without_values_is_named_beside_those_that_have_some(mixed):
    page, readme = mixed
    assert "; b - B, success_area: not tested" in page
    assert "<br>b - B, success area: not tested |" in readme


def test_of_a_claim_with_several_kinds_of_comparisons_those_of_each_kind_are_named(mixed):
    page, _ = mixed
    assert (
        "except that for “both” (b - B, block_end) (no better) it speaks against the claim, "
        "and that for “both” (b - B, dormant) either side counts."
    ) in page


def test_a_task_alone_is_the_reference_where_there_is_one():
    alone, first = "a task's run alone is its reference", "the first task of a sequence, which"
    for regimes, said, other in ((("crl",), first, alone), (("crl", "scratch"), alone, first)):
        text = " ".join(choices(mine(regimes=regimes)))
        assert said in text
        assert other not in text


def test_a_schedules_returns_are_of_the_last_tenth_of_the_run(tmp_path):
    page, readme = reported(read_study(SCHEDULE_YAML, tmp_path), tmp_path)
    for text in (page.replace("\n", " "), readme):
        assert "the evaluations in the last tenth of the run" in text
        assert "tenth of the task's" not in text


def test_a_claim_without_values_to_compare_is_not_said_to_lack_runs(tmp_path):
    (tmp_path / "claims.yaml").write_text(
        CLAIMS.replace("block_end", "plasticity").replace("EXPECTS", "greater")
    )
    the_study = mine(["dense", "soft-big"], seeds=(0,), claims=tmp_path / "claims.yaml")
    page, _ = reported(the_study, tmp_path, level=1.0, random=5.0)
    assert "or without a value of the measure, as where a reference is no better" in page


def test_a_claim_without_a_primary_comparison_says_so(tmp_path):
    text = CLAIMS.replace("EXPECTS", "greater\n        primary: false")
    (tmp_path / "claims.yaml").write_text(text)
    the_study = mine(["dense", "soft-big"], claims=tmp_path / "claims.yaml")
    page, _ = reported(the_study, tmp_path, level=1.0)
    assert "none of its comparisons is primary, so that no verdict rests on any" in page


def test_no_more_evaluations_are_told_than_rollouts_end(tmp_path):
    text = SCHEDULE_YAML.replace('schedule: {Adaptive: {rule: "return>=200"}}', "regimes: [mtrl]")
    the_study = read_study(text + "evaluation: {points: 50}", tmp_path)
    assert the_study.cells()[0].rollout == 200
    assert any("before training and 20 times per task" in line for line in choices(the_study))


def test_evaluations_where_a_schedule_changes_the_task_are_told(tmp_path):
    text = "20 times while training, and whenever the task changes."
    assert any(text in line for line in choices(read_study(SCHEDULE_YAML, tmp_path)))
