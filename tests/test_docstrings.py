"""The examples in docstrings run, and those that people call most have one."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import sb3_moe
import sb3_moe_envs

ROOT = Path(__file__).parents[1]


def with_examples():
    for root, package in ((ROOT, "sb3_moe"), (ROOT / "envs", "sb3_moe_envs")):
        for path in sorted((root / package).rglob("*.py")):
            if re.search(r"^ *>>> ", path.read_text(), re.MULTILINE):
                yield ".".join(path.relative_to(root).with_suffix("").parts)


@pytest.mark.parametrize("module", list(with_examples()))
def test_the_examples_in_docstrings_do_what_they_say(module):
    found = doctest.testmod(import_module(module))
    assert found.attempted
    assert not found.failed


CALLED_MOST = [
    sb3_moe.describe,
    sb3_moe.load,
    sb3_moe.make_multitask_vec_env,
    sb3_moe.routing,
    sb3_moe.to_dense,
    sb3_moe.upcycle,
    sb3_moe.watch,
    sb3_moe.without_expert,
    sb3_moe_envs.Cycle,
    sb3_moe_envs.MultiTaskEnv,
    sb3_moe_envs.make_multitask_vector,
]


def test_what_people_call_most_shows_how():
    assert not [called.__name__ for called in CALLED_MOST if ">>> " not in called.__doc__]
