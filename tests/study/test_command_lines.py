"""``sb3-moe study`` and the words before it, as they are typed."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from made_up_study import write

import sb3_moe_cli as cli
from sb3_moe.study import commands, preparing
from sb3_moe.study.config import load_study

SMOKE = Path(commands.__file__).parent / "presets" / "smoke.yaml"


def study(*words):
    return cli.main(["study", *map(str, words)])


def test_help_needs_no_torch():
    program = (
        "import sys\nfrom sb3_moe_cli import main\n"
        "for words in (['--help'], ['--version'], ['study', 'run', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert all(f"• {word}" in ended.stdout for word in ("study", "suites"))
    assert "--slurm" in ended.stdout
    assert version("sb3-moe") in ended.stdout.splitlines()


def test_suites_are_listed_with_their_tasks_and_extra(capsys):
    assert cli.main(["suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Classic/Mixed3: CartPole, Acrobot, MountainCar; extra: none" in lines
    assert "MinAtar/CRL3: SpaceInvaders, Breakout, Asterix; extra: minatar" in lines
    assert any(line.startswith("Atari/Two: ") and line.endswith("atari") for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "nope"], "a study must be one of smoke, .* got 'nope': No such file"),
        (["plan", "--seeds", "0"], ".* `orders` and `seeds` must each have one or more"),
        (["plan", "--steps-per-task", "-5"], "`steps_per_task` must be greater than .*, got -5"),
        (["plan", "--processes", "0"], "`processes` must be at least 1, got 0"),
        (["run", "--processes", "-2"], "`processes` must be at least 1, got -2"),
        (["run", "--gpus", "2"], "`--gpus` must be left out with `--engine local`, got 2.0"),
        (["run", "--engine", "ray", "--processes", "2"], "`--processes` must be left out with"),
        (["status", "--only", "huge"], r"`only` must name networks .*got \('huge',\)"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(words, message, capsys, tmp_path):
    assert study(*words, "--out", tmp_path / "out") == 2
    assert re.fullmatch(f"error: {message}.*\n", capsys.readouterr().err)


def test_a_changed_study_is_refused_with_the_difference(capsys, tmp_path):
    write(tmp_path, load_study("smoke"), lambda run: 5.0)
    assert study("run", "smoke", "--out", tmp_path, "--steps-per-task", 8192) == 2
    assert "steps_per_task: 65536 -> 8192" in capsys.readouterr().err


def test_a_study_for_a_device_of_another_machine_is_read_here_and_not_trained(capsys, tmp_path):
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(SMOKE.read_text().replace("claims: claims.yaml", "device: cuda:7"))
    assert study("status", file, "--out", out) == 0
    assert study("run", file, "--out", out) == 2
    assert "`device` must be one that torch has" in capsys.readouterr().err
    for engine in ("ray", "slurm"):
        assert study("run", file, "--out", out, "--engine", engine) == 2
        assert "`--gpus` must be above 0 where `device` is cuda" in capsys.readouterr().err


def test_only_some_networks_run_and_the_others_go_on_later(capsys, tmp_path, monkeypatch):
    whole, dense = load_study("smoke"), load_study("smoke", only=["dense"])
    write(tmp_path, dense, lambda run: 5.0)
    assert study("status", "smoke", "--out", tmp_path, "--only", "dense") == 0
    assert study("status", "smoke", "--out", tmp_path) == 0
    assert capsys.readouterr().out == "3 done\n3 done, 3 missing\n"
    told = []
    monkeypatch.setattr(preparing, "measure_random_policy", lambda study, root: None)
    monkeypatch.setattr(commands, "write", lambda study, *args, **kwargs: told.append(study))
    assert study("run", "smoke", "--out", tmp_path, "--only", "dense") == 0
    assert told[0].runs() == whole.runs()  # a report is of all that are done


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
    assert "9 missing" in capsys.readouterr().out
    # Processes of runs are given this path by multiprocessing and by Ray.
    assert sys.path[0] == str(tmp_path)


def test_slurms_times_and_names_stay_texts():
    values = {"600": 600, "12:00:00": "12:00:00", "0123": "0123", '{"a": 1}': {"a": 1}}
    assert {text: commands._slurm_value(text) for text in values} == values


@pytest.mark.parametrize(
    ("engine", "extra"), [("ray", "RayEngine needs ray"), ("slurm", "SlurmEngine needs submitit")]
)
def test_an_engine_that_is_not_installed_is_an_error_that_names_the_extra(
    engine, extra, monkeypatch, tmp_path
):
    monkeypatch.setattr("sb3_moe.layers.extras.find_spec", lambda module: None)
    with pytest.raises(ImportError, match=rf"{extra}: pip install 'sb3-moe\["):
        commands.make_engine(cli.Run(engine=engine), load_study("smoke"), tmp_path)


@pytest.mark.parametrize(("before", "after"), [(None, "dummy"), ("own", "own")])
def test_no_sound_and_no_screen_are_asked_for_unless_told_to(before, after, monkeypatch):
    drivers = ("SDL_AUDIODRIVER", "SDL_VIDEODRIVER")
    for driver in drivers:
        monkeypatch.delenv(driver, raising=False)
        if before is not None:
            monkeypatch.setenv(driver, before)
    cli.main(["study", "schema"])
    assert [os.environ[driver] for driver in drivers] == [after, after]


def test_ctrl_c_is_no_traceback(monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sb3_moe.study.commands.schema", interrupted)
    assert cli.main(["study", "schema"]) == 130
