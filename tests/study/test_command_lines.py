import io
import os
import re
import sys
from pathlib import Path

import pytest
from made_up_study import run, write, write_arrays
from rich.console import Console

from sb3_moe.saving.files import write_json
from sb3_moe.study import cli, commands, first_run
from sb3_moe.study.run import runner
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import survey

SB3S = "stable_baselines3.common.policies:MultiInputActorCriticPolicy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--games", "Pong"], "`games` must be among Asterix, .*, got 'Pong'"),
        (["--placements", "top"], "`placement` must be one of \\['none', .*, got 'top'"),
        (["--routers", "hard"], "`router` must be one of \\['soft', .*, got 'hard'"),
        (["--steps", "0"], "`steps` must be at least 1, got 0"),
        (["--processes", "0"], "`processes` must be at least 1, got 0"),
        (["--device", "abacus"], "`device` must be a device that torch has, got 'abacus'"),
        (["--out", "/proc/none"], "`out` must be a folder that can be written, got /proc/none"),
    ],
)
def test_a_bad_option_is_one_line_before_any_training(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert first_run.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_dense_is_trained_once_however_many_routers_there_are():
    options = first_run.FirstRun(placements=("none", "big", "middle"), routers=("soft", "task"))
    names = [a.name for a in options.architectures()]
    assert names == ["dense", "soft-big", "task-big", "soft-middle", "task-middle"]


def test_steps_are_rounded_up_to_whole_rollouts():
    assert first_run.FirstRun(steps=8193).study().steps_per_task == 2 * 8192


class InterruptedEngine:
    """One cell ends, the next is half done when Ctrl-C comes."""

    capacity = 1

    def __init__(self):
        self.count, self.stopped = 0, False

    def start(self, cell, path):
        folder, made = CellFolder(path), run(cell)
        folder.start({"cell": cell.to_dict()})
        keep = len(made.steps) if self.count == 0 else 4
        for name, arrays in (("scores", made.scores), ("diagnostics", made.diagnostics)):
            cut = {key: value[:keep] for key, value in arrays.items()}
            write_arrays(folder, f"{name}.npz", cut)
        if self.count == 0:
            folder.finish({"steps": 1, "last_attempt": {"start": 0, "seconds": 1.0}})
        self.count, self.name = self.count + 1, cell.name

    def ended(self):
        if self.count == 2:
            raise KeyboardInterrupt
        return {self.name: ""}

    def stop(self):
        self.stopped = True


def test_ctrl_c_leaves_what_is_there_readable_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "POLL_SECONDS", 0)
    study = first_run.FirstRun(games=("SpaceInvaders", "Breakout"), steps=81920).study()
    write_json(tmp_path / "random.json", {game: [1.0] * 70 for game in study.games})
    console, engine = Console(file=io.StringIO(), width=500), InterruptedEngine()
    assert first_run._train(study, tmp_path, engine, console) == 130
    assert engine.stopped
    text = console.file.getvalue().replace("\n", " ")
    assert "stopped: 1 of 4 runs finished" in text
    assert text.split()[-1] == str(tmp_path / "report" / "index.html")
    assert f"--out {tmp_path}" in text
    assert (tmp_path / "report" / "summary.csv").exists()
    assert (tmp_path / "report" / "return.png").exists()


def test_a_study_that_is_not_there_is_a_one_line_error(capsys):
    assert cli.main(["plan", "nope"]) == 2
    assert capsys.readouterr().err.startswith("error: a study must be one of smoke, paper-small")


def test_a_changed_study_is_refused_with_the_difference(capsys, tmp_path):
    study = cli.StudyOptions("smoke").load()
    write(tmp_path, study, lambda cell: 5.0)
    options = ["smoke", "--out", str(tmp_path), "--steps-per-task", "8192"]
    assert cli.main(["run", *options]) == 2
    assert "steps_per_task: 65536 -> 8192" in capsys.readouterr().err


def test_a_study_for_a_device_of_another_machine_is_read_here_and_not_trained(capsys, tmp_path):
    preset = (Path(cli.__file__).parent / "presets" / "smoke.yaml").read_text()
    file, out = tmp_path / "study.yaml", str(tmp_path / "out")
    file.write_text(preset.replace("claims: claims.yaml", "device: cuda:7"))
    assert cli.main(["status", str(file), "--out", out]) == 0
    for command in ("plan", "run"):
        assert cli.main([command, str(file), "--out", out]) == 2
        error = capsys.readouterr().err
        assert "`device` must be a device that torch has, got 'cuda:7'" in error
    assert cli.main(["run", str(file), "--out", out, "--engine", "ray"]) == 2
    assert "`--gpus` must be above 0 where `device` is cuda" in capsys.readouterr().err
    assert not Path(out).exists()


def test_only_some_networks_run_and_the_others_go_on_later(capsys, tmp_path):
    dense, *others = (each.name for each in cli.StudyOptions("smoke").load().architectures)
    chosen = cli.StudyOptions("smoke", only=(dense,)).load()
    assert {cell.architecture.name for cell in chosen.cells()} == {dense}
    write(tmp_path, chosen, lambda cell: 5.0)
    smoke = ["status", "smoke", "--out", str(tmp_path)]
    assert cli.main([*smoke, "--only", dense]) == 0
    assert capsys.readouterr().out == f"{len(chosen.cells())} done\n"
    assert cli.main(smoke) == 0
    left = len(cli.StudyOptions("smoke", only=tuple(others)).load().cells())
    assert capsys.readouterr().out == f"{len(chosen.cells())} done, {left} missing\n"


def test_a_report_after_some_networks_is_of_all_that_are_done(monkeypatch, capsys, tmp_path):
    whole = cli.StudyOptions("smoke").load()
    write(tmp_path, whole, lambda cell: 5.0)
    told = []
    monkeypatch.setattr(commands, "prepare", lambda study, root: None)
    monkeypatch.setattr(commands, "report", lambda study, *args, **kwargs: told.append(study))
    dense = whole.architectures[0].name
    assert cli.main(["run", "smoke", "--out", str(tmp_path), "--only", dense]) == 0
    assert [cell.name for cell in told[0].cells()] == [cell.name for cell in whole.cells()]
    assert "leaves alone" not in capsys.readouterr().out


def test_only_a_network_that_starts_from_another_comes_with_the_runs_that_it_needs(tmp_path):
    path = tmp_path / "went-on.yaml"
    path.write_text("""
        name: went-on
        games: [Breakout, SpaceInvaders]
        regimes: [mtrl, crl]
        architectures:
          dense:
          wide: {placement: none, net_arch: [128]}
          mine: {placement: none, start_from: {architecture: dense, regime: mtrl, order: []}}
    """)
    chosen = cli.StudyOptions(str(path), only=("mine",)).load()
    assert [cell.name for cell in chosen.cells()] == [
        "mtrl-Breakout.SpaceInvaders-dense-s0",
        "mtrl-Breakout.SpaceInvaders-mine-s0",
        "crl-Breakout.SpaceInvaders-mine-s0",
    ]
    whole = cli.StudyOptions(str(path)).load()
    assert chosen.only(()) == whole
    assert chosen.to_dict() == whole.to_dict()
    path.write_text(path.read_text() + "    _only: [mine]")
    with pytest.raises(ValueError, match=r"there is no entry `_only`; there are [^_]*games"):
        cli.StudyOptions(str(path)).load()


def test_only_none_of_the_networks_is_a_slip(capsys):
    assert cli.main(["status", "smoke", "--only"]) == 2
    assert re.match(
        r"error: `--only` must name networks of the study, \['dense', .*\], got \[\]\n",
        capsys.readouterr().err,
    )


def test_only_a_network_of_the_study_can_be_chosen(capsys):
    assert cli.main(["status", "smoke", "--only", "dense", "huge"]) == 2
    assert re.match(
        r"error: `--only` must name networks of the study, \['dense', .*\], got \['huge'\]\n",
        capsys.readouterr().err,
    )


OWN_POLICY = """
from stable_baselines3.common.policies import MultiInputActorCriticPolicy

class Own(MultiInputActorCriticPolicy): ...
"""


def test_the_console_script_finds_a_policy_in_the_working_directory(capsys, tmp_path, monkeypatch):
    (tmp_path / "found_here.py").write_text(OWN_POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(
        "sys.argv", ["sb3-moe", "study", "status", "smoke", "--architecture", "found_here:Own"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.console_script()
    assert stopped.value.code == 0, capsys.readouterr().err
    # Processes of cells are given this path by multiprocessing and by Ray.
    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--seeds", "0"], "`--seeds` must be at least 1, got 0"),
        (["plan", "--steps-per-task", "-5"], "`--steps-per-task` must be at least 1, got -5"),
        (["plan", "--processes", "0"], "`--processes` must be at least 1, got 0"),
        (["run", "--processes", "-2"], "`--processes` must be at least 1, got -2"),
        (["run", "--engine", "ray", "--cpus", "-1"], "`--cpus` must be above 0, got -1.0"),
        (["run", "--engine", "ray", "--gpus", "-1"], "`--gpus` must be at least 0, got -1.0"),
        (["run", "--engine", "ray", "--cpus", "nan"], "`--cpus` must be above 0, got nan"),
        (
            ["run", "--gpus", "2"],
            "`--gpus` must be left out with `--engine local`, which doesn't ask for it, got 2.0",
        ),
        (
            ["run", "--address", "node:1"],
            "`--address` must be left out with `--engine local`, which doesn't ask for it, got "
            "node:1",
        ),
        (
            ["run", "--engine", "ray", "--processes", "2"],
            "`--processes` must be left out with `--engine ray`, which doesn't ask for it, got 2",
        ),
    ],
)
def test_a_number_out_of_range_names_the_option(arguments, message, capsys, tmp_path):
    assert cli.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_a_wrong_entry_is_an_error_of_the_command(capsys, tmp_path):
    (tmp_path / "study.yaml").write_text("name: [1")
    assert cli.main(["plan", str(tmp_path / "study.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: the YAML can't be read: line 1, column 9")


def test_ray_that_is_not_installed_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = cli.Run(cli.StudyOptions(), engine="ray")
    with pytest.raises(ImportError, match=r"RayEngine needs ray: pip install 'sb3-moe\[study\]'"):
        command.make_engine(tmp_path)


def test_a_folder_of_a_first_run_that_cannot_be_written_is_one_line(capsys, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(first_run, "_train", full)
    assert first_run.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: no space left\n"


def test_columns_can_be_added_on_the_command_line():
    options = cli.StudyOptions("smoke", seeds=3, architecture=("task-big", SB3S))
    study = options.load()
    assert study.seeds == (0, 1, 2)
    assert [a.name for a in study.architectures] == [
        "dense",
        "soft-big",
        "task-big",
        SB3S.split(":")[1],
    ]
    assert study.architectures[-1].policy == SB3S


def test_status_of_an_untouched_study_is_all_missing(capsys, tmp_path):
    assert cli.main(["status", "smoke", "--out", str(tmp_path)]) == 0
    assert len(survey(cli.StudyOptions("smoke").load().cells(), tmp_path)) == 6
    assert "6 missing" in capsys.readouterr().out


def test_the_console_script_says_what_it_can_do(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sb3-moe", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.console_script()
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert all(f"sb3-moe {word} " in text for word in ("study", "watch", "card"))


@pytest.mark.parametrize(("before", "after"), [(None, "dummy"), ("own", "own")])
def test_the_console_script_asks_for_no_sound_and_no_screen_unless_told_to(
    before, after, monkeypatch
):
    drivers = ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER")
    for driver in drivers:
        monkeypatch.delenv(driver, raising=False)
        if before is not None:
            monkeypatch.setenv(driver, before)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("sys.argv", ["sb3-moe", "watch", "agent.moe"])
    with pytest.raises(SystemExit):
        cli.console_script()
    assert [os.environ[driver] for driver in drivers] == [after, after]


def test_the_console_script_wants_its_first_word(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sb3-moe", "train"])
    with pytest.raises(SystemExit) as stopped:
        cli.console_script()
    assert stopped.value.code == 2
    assert "usage: sb3-moe study" in capsys.readouterr().err


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit):
        first_run.main(["--help"])
    text = capsys.readouterr().out
    for option in ("games", "steps", "seeds", "placements", "routers", "device", "out"):
        assert f"--{option}" in text


def test_a_study_that_is_not_there_is_said_not_to_be(capsys):
    assert cli.main(["run", "nofile.yaml"]) == 2
    assert "got 'nofile.yaml', which doesn't exist" in capsys.readouterr().err
