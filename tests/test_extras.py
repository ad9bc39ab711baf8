"""What is not installed is named in one line, with the extra that brings it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium as gym
import pytest

from sb3_moe.layers import extras
from sb3_moe_envs import checks as env_extras

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What a base install has: the requirements, and what they bring.
BASE = {
    "gymnasium",
    "numpy",
    "stable_baselines3",
    "torch",
    "cloudpickle",
    "typing_extensions",
    "safetensors",
}
# Modules that are called otherwise than what installs them.
REQUIREMENTS = {
    "PIL": "pillow",
    "mujoco": "gymnasium[mujoco]",
    "pygame": "gymnasium[classic-control]",
    "yaml": "pyyaml",
}


def imported(folder):
    """List the packages of others that a package imports, wherever in its files."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("folder", "table"),
    [("sb3_moe", extras.EXTRAS), ("envs/sb3_moe_envs", env_extras.EXTRAS)],
    ids=["sb3_moe", "sb3_moe_envs"],
)
def test_every_optional_package_that_is_imported_has_an_extra(folder, table):
    ours = {"sb3_moe", "sb3_moe_cli", "sb3_moe_envs"} | set(sys.stdlib_module_names)
    optional = set(imported(ROOT / folder)) - ours - BASE - {"pydantic_core"}
    assert optional <= set(table)


def test_an_extra_brings_the_packages_that_it_is_named_for():
    for module, extra in (extras.EXTRAS | env_extras.EXTRAS).items():
        name = re.escape(REQUIREMENTS.get(module, module.replace("_", "-")))
        listed = PROJECT["optional-dependencies"][extra]
        assert any(re.match(rf"{name}\b|{name}$", each) for each in listed), module


@pytest.mark.parametrize("require", [extras.require, env_extras.require_extra])
def test_all_that_is_missing_is_named_with_the_command_that_installs_it(require, monkeypatch):
    table = sys.modules[require.__module__].EXTRAS
    first, *_, last = table
    require("this", "sys")
    monkeypatch.setitem(sys.modules, first, None)
    monkeypatch.setitem(sys.modules, last, None)
    both = ",".join(dict.fromkeys([table[first], table[last]]))
    message = f"this needs {first}, {last}: pip install 'sb3-moe[{both}]'"
    with pytest.raises(ImportError, match=re.escape(message)):
        require("this", first, "sys", last)


BARE = """
import sys
for name in {optional}:
    sys.modules[name] = None  # as if it were not installed
import importlib
for part in {parts}:
    try:
        importlib.import_module(part)
    except ImportError as error:
        print(error)
sys.argv = ["sb3-moe", "--help"]
importlib.import_module("sb3_moe_cli").console_script()
"""


def test_a_base_install_says_in_one_line_what_its_parts_need():
    parts = ["sb3_moe.watching.figures", "sb3_moe.study", "sb3_moe.policies.contrib.tqc"]
    optional = [*extras.EXTRAS, *env_extras.EXTRAS]
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(optional=optional, parts=parts)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "sb3_moe.watching.figures needs matplotlib: pip install 'sb3-moe[cli]'",
        "sb3_moe.study needs filelock, jinja2, matplotlib, pandas, pydantic, rich, scipy, tyro, "
        "yaml: pip install 'sb3-moe[cli]'",
        "sb3_moe.policies.contrib needs sb3_contrib: pip install 'sb3-moe[contrib]'",
    ]
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == "error: sb3-moe needs tyro, and more: pip install 'sb3-moe[cli]'"


@pytest.mark.parametrize(
    ("env_id", "module", "message"),
    [
        ("MinAtar-Breakout-v1", "gymnax", r"a MinAtar game needs gymnax: .*\[minatar\]"),
        ("Atari-Pong-v0", "ale_py", r"an Atari game needs ale_py: .*\[atari\]"),
        ("MetaWorld-v0", "metaworld", r"a Meta-World task needs metaworld: .*\[metaworld\]"),
        ("Hopper-v0", "mujoco", r"a MuJoCo environment needs mujoco: .*\[mujoco\]"),
    ],
)
def test_a_task_says_which_extra_it_needs(env_id, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        gym.make(f"sb3_moe_envs:SB3MoE/{env_id}")
