"""``sb3-moe study`` and the words before it, as they are typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_study import write

import sb3_moe_cli as cli
from sb3_moe.study import commands
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.grid import changed, load_study

SB3S = "stable_baselines3.common.policies:MultiInputActorCriticPolicy"
SMOKE = Path(commands.__file__).parent / "presets" / "smoke.yaml"


def study(*words):
    return cli.main(["study", *map(str, words)])


def test_help_needs_no_torch_and_takes_about_a_second():
    program = (
        "import sys\nfrom sb3_moe_cli import main\n"
        "for words in (['--help'], ['--version'], ['study', 'run', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert all(f"sb3-moe {word} " in ended.stdout for word in ("study", "watch", "card", "suites"))
    assert "--slurm" in ended.stdout


def test_suites_are_listed_with_their_tasks_and_extra(capsys):
    assert cli.main(["suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Classic/Mixed3: CartPole, Acrobot, MountainCar; extra: none" in lines
    assert "MinAtar/CRL3: SpaceInvaders, Breakout, Asterix; extra: minatar" in lines
    assert any(line.startswith("Atari/Two: ") and line.endswith("atari") for line in lines)


def test_an_unknown_first_word_is_told_what_there_is(capsys):
    assert cli.main(["train"]) == 2
    assert "usage: sb3-moe study" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "nope"], "a study must be one of smoke, .* got 'nope', which doesn't exist"),
        (["plan", "--seeds", "0"], "`seeds` must be a list, or 1 to 10,000 of them, got 0"),
        (["plan", "--steps-per-task", "-5"], "`steps_per_task` must be greater than .*, got -5"),
        (["plan", "--processes", "0"], "`processes` must be at least 1, got 0"),
        (["run", "--processes", "-2"], "`processes` must be at least 1, got -2"),
        (["run", "--gpus", "2"], "`--gpus` must be left out with `--engine local`, got 2.0"),
        (["run", "--slurm", "a=1"], "`--slurm` must be left out with `--engine local`"),
        (["run", "--engine", "ray", "--processes", "2"], "`--processes` must be left out with"),
        (["status", "smoke", "--only"], r"`--only` must name networks .*'dense', .*got \[\]"),
        (["status", "--only", "huge"], r"`--only` must name networks .*got \['huge'\]"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(words, message, capsys, tmp_path):
    assert study(*words, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: {message}.*\n", error)
    assert not (tmp_path / "out").exists()


def test_a_changed_study_is_refused_with_the_difference(capsys, tmp_path):
    write(tmp_path, load_study("smoke"), lambda cell: 5.0)
    assert study("run", "smoke", "--out", tmp_path, "--steps-per-task", 8192) == 2
    assert "steps_per_task: 65536 -> 8192" in capsys.readouterr().err


def test_a_study_for_a_device_of_another_machine_is_read_here_and_not_trained(capsys, tmp_path):
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(SMOKE.read_text().replace("claims: claims.yaml", "device: cuda:7"))
    assert study("status", file, "--out", out) == 0
    assert study("run", file, "--out", out) == 2
    assert "`device` must be one that torch has, got 'cuda:7'" in capsys.readouterr().err
    for engine in ("ray", "slurm"):
        assert study("run", file, "--out", out, "--engine", engine) == 2
        assert "`--gpus` must be above 0 where `device` is cuda" in capsys.readouterr().err
    assert not out.exists()


def test_only_some_networks_run_and_the_others_go_on_later(capsys, tmp_path, monkeypatch):
    whole = load_study("smoke")
    dense = changed(whole, only=("dense",))
    assert {cell.architecture.name for cell in dense.cells()} == {"dense"}
    write(tmp_path, dense, lambda cell: 5.0)
    assert study("status", "smoke", "--out", tmp_path, "--only", "dense") == 0
    assert study("status", "smoke", "--out", tmp_path) == 0
    assert capsys.readouterr().out == "3 done\n3 done, 3 missing\n"
    told = []
    monkeypatch.setattr(commands, "prepare", lambda study, root: None)
    monkeypatch.setattr(commands, "report", lambda study, *args, **kwargs: told.append(study))
    assert study("run", "smoke", "--out", tmp_path, "--only", "dense") == 0
    assert told[0].cells() == whole.cells()  # a report is of all that are done


def test_a_network_that_starts_from_another_comes_with_the_runs_that_it_needs(tmp_path):
    path = tmp_path / "went-on.yaml"
    path.write_text("""
        name: went-on
        games: [Breakout, SpaceInvaders]
        architectures:
          dense:
          wide: {placement: none, net_arch: [128]}
          mine: {placement: none, start_from: {architecture: dense, regime: mtrl, order: []}}
    """)
    whole = load_study(str(path))
    mine = changed(whole, only=("mine",))
    assert [cell.name for cell in mine.cells()] == [
        "mtrl-Breakout.SpaceInvaders-dense-s0",
        "mtrl-Breakout.SpaceInvaders-mine-s0",
        "crl-Breakout.SpaceInvaders-mine-s0",
    ]
    assert mine.only(()) == whole
    assert mine.to_dict() == whole.to_dict()


def test_networks_and_seeds_can_be_given_on_the_command_line():
    found = changed(load_study("smoke"), seeds=3, architecture=("task-big", SB3S))
    assert found.seeds == (0, 1, 2)
    names = [each.name for each in found.architectures]
    assert names == ["dense", "soft-big", "task-big", SB3S.split(":")[1]]
    assert found.architectures[-1].policy == SB3S


OWN_POLICY = """
from stable_baselines3.common.policies import MultiInputActorCriticPolicy

class Own(MultiInputActorCriticPolicy): ...
"""


def test_the_console_script_finds_a_policy_in_the_working_directory(capsys, tmp_path, monkeypatch):
    (tmp_path / "found_here.py").write_text(OWN_POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    words = ["sb3-moe", "study", "status", "smoke", "--architecture", "found_here:Own"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        cli.console_script()
    assert stopped.value.code == 0, capsys.readouterr().err
    # Processes of runs are given this path by multiprocessing and by Ray.
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("engine", "extra"), [("ray", "RayEngine needs ray"), ("slurm", "SlurmEngine needs submitit")]
)
def test_an_engine_that_is_not_installed_is_an_error_that_names_the_extra(
    engine, extra, monkeypatch, tmp_path
):
    monkeypatch.setattr("sb3_moe.extras.find_spec", lambda module: None)
    make = commands.engine_maker(cli.Run(engine=engine), "cpu")
    with pytest.raises(ImportError, match=rf"{extra}: pip install 'sb3-moe\["):
        make(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(None, "dummy"), ("own", "own")])
def test_no_sound_and_no_screen_are_asked_for_unless_told_to(before, after, monkeypatch):
    drivers = ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER")
    for driver in drivers:
        monkeypatch.delenv(driver, raising=False)
        if before is not None:
            monkeypatch.setenv(driver, before)
    cli.main(["watch", "agent.moe"])
    assert [os.environ[driver] for driver in drivers] == [after, after]


def test_status_of_an_untouched_study_is_all_missing(capsys, tmp_path):
    assert study("status", "smoke", "--out", tmp_path) == 0
    assert len(survey(load_study("smoke").cells(), tmp_path)) == 6
    assert "6 missing" in capsys.readouterr().out
