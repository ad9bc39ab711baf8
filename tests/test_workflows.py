"""What GitHub is told is what there is: targets, extras, versions, addresses."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from sb3_moe import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
MAKE = re.compile(r"\bmake ([\w-]+)")


def name_of(path):
    return str(path.relative_to(ROOT))


def jobs(path):
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path):
    return [step for job in jobs(path).values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_a_workflow_runs_targets_that_there_are(path):
    asked = [target for step in steps(path) for target in MAKE.findall(step.get("run", ""))]
    assert set(asked) <= TARGETS
    for step in steps(path):
        assert ("run" in step) != ("uses" in step)
        assert "uses" not in step or re.search(r"@(v\d+|release/v1)$", step["uses"])
    for job in jobs(path).values():
        assert "timeout-minutes" in job


def test_every_python_that_is_promised_is_tried():
    promised = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if ":: 3." in each}
    matrix = jobs(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]
    assert set(matrix["python"]) == promised
    assert min(promised) == PROJECT["requires-python"].removeprefix(">=")


def test_only_the_step_that_publishes_may_sign():
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    assert [name for name, job in release.items() if "permissions" in job] == ["publish"]
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert release["publish"]["needs"] == "build"
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


def test_a_tag_is_compared_with_the_packages_version():
    done = subprocess.run(
        [sys.executable, str(ROOT / ".github" / "version.py")], capture_output=True, text=True
    )
    assert done.stdout.strip() == __version__ == PROJECT["version"]
