"""SECURITY.md stays true: what unpickles, reads arrays or runs text is known by module."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [*sorted((ROOT / "sb3_moe").rglob("*.py")), *sorted((ROOT / "envs").rglob("*.py"))]
# What SECURITY.md says of snapshots and of environments' states.
PICKLES = {
    "sb3_moe/saving/environment.py",
    "sb3_moe/saving/snapshot.py",
    "sb3_moe/vec_env/make.py",
    "envs/sb3_moe_envs/snapshot.py",
    # Of its own errors alone, between processes that it started.
    "envs/sb3_moe_envs/vector/workers.py",
}
# What imports a module for a name that a user gave, in a study's file or in code.
IMPORTERS = {
    "sb3_moe/layers/classes.py",
    "sb3_moe/study/building.py",
    "sb3_moe/integrations/zoo.py",
    # And those that import from lists of this package's own.
    "sb3_moe/policies/registration.py",
    "sb3_moe/saving/values.py",
}


def name_of(path):
    return str(path.relative_to(ROOT))


@cache
def nodes(path):
    return list(ast.walk(ast.parse(path.read_text())))


def calls(path):
    """Yield (what is called, the call), such as ``eval`` or ``np.load``."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def imports(path):
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_no_module_runs_text_and_only_those_named_here_unpickle_or_import_by_name():
    forbidden = {
        *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
        *("yaml.unsafe_load", "yaml.full_load", "th.load", "torch.load"),
    }
    pickles = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
    runs_text, unpickle, import_by_name = set(), set(), set()
    for path in MODULES:
        names = {name for name, _ in calls(path)}
        if names & forbidden:
            runs_text.add(name_of(path))
        if set(imports(path)) & pickles:
            unpickle.add(name_of(path))
        if names & {"import_module", "importlib.import_module"}:
            import_by_name.add(name_of(path))
    assert not runs_text
    assert unpickle <= PICKLES
    assert import_by_name <= IMPORTERS


def test_arrays_are_read_without_pickle_and_yaml_by_the_safe_loader():
    for path in MODULES:
        for name, call in calls(path):
            if name in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(call), path
            if name == "yaml.load":
                assert ast.unparse(call).endswith(", _Loader)")
                assert "class _Loader(yaml.SafeLoader)" in path.read_text()


def test_the_security_notes_say_that_a_studys_file_can_run_code():
    notes = (ROOT / "SECURITY.md").read_text()
    nothing, code = notes.split("### These can run code")
    assert "| a study's `*.yaml` |" in code
    assert "a study's `*.yaml`" not in nothing
