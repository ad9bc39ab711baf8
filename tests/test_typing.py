"""A typed user finds every public name typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typed_program

ROOT = Path(__file__).parent.parent


def strict_mypy(path):
    """Return what mypy has to say about a program, but not about what it imports."""
    pytest.importorskip("mypy")
    cache = ROOT / ".pytest_cache" / "mypy"
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{ROOT / 'envs'}"},
    )
    return done.stdout + done.stderr


def test_a_users_program_passes_the_strictest_types():
    assert strict_mypy(typed_program.__file__).startswith("Success")


def test_a_wrong_argument_is_found_before_the_program_runs(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import sb3_moe\n\nsb3_moe.routing('model', 3)\n")
    found = strict_mypy(wrong)
    assert 'Argument 1 to "routing" has incompatible type "str"' in found
    assert 'Argument 2 to "routing" has incompatible type "int"' in found


def test_the_program_runs():
    assert typed_program.main().shape == (4,)
