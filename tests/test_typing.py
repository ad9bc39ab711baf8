"""A typed user finds every public name typed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typed_program

ROOT = Path(__file__).parent.parent


def test_a_users_program_passes_the_strictest_types_and_a_wrong_argument_is_found(tmp_path):
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import sb3_moe\n\nsb3_moe.routing('model', 3)\n")
    cache = ROOT / ".pytest_cache" / "mypy"
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={cache}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, typed_program.__file__, str(wrong)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYPYPATH": f"{ROOT}{os.pathsep}{ROOT / 'envs'}"},
    )
    first, second, summary = done.stdout.splitlines()
    assert "wrong.py" in first
    assert 'Argument 1 to "routing" has incompatible type "str"' in first
    assert 'Argument 2 to "routing" has incompatible type "int"' in second
    assert summary.startswith("Found 2 errors in 1 file")


def test_the_program_runs():
    assert typed_program.main().shape == (4,)
