"""SECURITY.md stays true: what unpickles, reads arrays or runs text is known by module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [*sorted((ROOT / "sb3_moe").rglob("*.py")), *sorted((ROOT / "envs").rglob("*.py"))]
# What SECURITY.md says of snapshots and of environments' states.
PICKLES = {
    "sb3_moe/saving/environment.py",
    "sb3_moe/saving/snapshot.py",
    "sb3_moe/vec_env/make.py",
    "sb3_moe/study/run/cell.py",
    "envs/sb3_moe_envs/snapshot.py",
    # Of its own errors alone, between processes that it started.
    "envs/sb3_moe_envs/vector/workers.py",
}
# What imports a module for a name that a user gave, in a study's file or in code.
IMPORTERS = {
    "sb3_moe/layers/classes.py",
    "sb3_moe/study/spec/algorithms.py",
    "sb3_moe/study/spec/named.py",
    "sb3_moe/study/spec/tasks.py",
    "sb3_moe/zoo/given.py",
}
# Those that import from lists of this package's own.
OF_LISTS = {
    "sb3_moe/policies/registration.py",
    "sb3_moe/saving/values.py",
    "sb3_moe/study/agent.py",
}


def name_of(path):
    return str(path.relative_to(ROOT))


def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_runs_no_text_and_unpickles_only_where_it_says_so(path):
    names = {ast.unparse(call.func) for call in calls(path)}
    assert not names & {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
    assert not names & {"yaml.unsafe_load", "yaml.full_load", "th.load", "torch.load"}
    if set(imports(path)) & {"pickle", "cloudpickle", "dill", "marshal", "shelve"}:
        assert name_of(path) in PICKLES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrays_are_read_without_pickle_and_yaml_by_the_safe_loader(path):
    for call in calls(path):
        text = ast.unparse(call)
        if text.startswith(("np.load(", "numpy.load(")):
            assert "allow_pickle=False" in text
        if text.startswith("yaml.load("):
            assert text.endswith(", _Loader)")
            assert "class _Loader(yaml.SafeLoader)" in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_by_name_only_where_it_is_known(path):
    names = {ast.unparse(call.func) for call in calls(path)}
    if names & {"import_module", "importlib.import_module"}:
        assert name_of(path) in IMPORTERS | OF_LISTS


def test_the_security_notes_say_that_a_studys_file_can_run_code():
    notes = (ROOT / "SECURITY.md").read_text()
    nothing, code = notes.split("### These can run code")
    assert "| a study's `*.yaml` |" in code
    assert "a study's `*.yaml`" not in nothing


def test_the_security_notes_name_the_files_that_are_written():
    notes = (ROOT / "SECURITY.md").read_text()
    for name in (
        "*.moe",
        "state.pkl",
        "manifest.json",
        "replay_buffer.pkl",
        "scores.npz",
        "done.json",
        "model.zip",
    ):
        assert f"`{name}`" in notes or name in notes
    listed = {name for name in PICKLES if (ROOT / name).exists()}
    assert listed == PICKLES
