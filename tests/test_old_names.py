"""What programs import from version 0.1.0, and what its files ask for, is where it was."""

import json
from importlib import import_module
from pathlib import Path

import pytest

NAMES = json.loads((Path(__file__).parent / "fixtures" / "v0_1_0" / "names.json").read_text())
PLACES = sorted(
    (module, name)
    for modules in NAMES.values()
    for module, names in modules.items()
    for name in ["", *names]
)


@pytest.mark.parametrize(("module", "name"), sorted(set(PLACES)))
def test_an_old_name_can_be_imported_from_where_it_was(module, name):
    found = import_module(module)
    # An installed copy beside this one would answer for a module that is gone here.
    package = import_module(module.partition(".")[0])
    assert Path(str(found.__file__)).is_relative_to(Path(str(package.__file__)).parent)
    if name and not hasattr(found, name):
        import_module(f"{module}.{name}")


def test_the_list_of_old_names_is_not_empty():
    assert len(PLACES) > 200


@pytest.mark.parametrize("name", ["Contrast", "Finding", "Row", "estimate", "judge_claims"])
def test_what_reads_and_what_judges_claims_was_one_module(name):
    assert hasattr(import_module("sb3_moe.study.claims"), name)
