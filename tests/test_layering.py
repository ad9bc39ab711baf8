"""Imports run one way, and what is optional stays optional."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = sorted((ROOT / "sb3_moe").rglob("*.py"))
ENVS = sorted((ROOT / "envs" / "sb3_moe_envs").rglob("*.py"))
# Each subpackage or module at the top, and all that it may import. None names one below itself, so
# there is no cycle. Take out what is no longer needed: there should be no more than 45.
MAY_IMPORT = {
    "layers": "",
    "vec_env": "layers",
    "policies": "layers vec_env",
    "measures": "layers policies vec_env",
    "saving": "layers policies vec_env",
    "growing": "layers policies saving vec_env",
    "watching": "layers measures policies saving vec_env",
    "integrations": "layers measures policies saving vec_env watching",
    "callbacks": "growing layers measures policies saving vec_env watching",
    "study": "callbacks growing layers measures policies saving vec_env watching",
    "__init__": "growing measures policies saving vec_env watching",
    "__main__": "",
}


def imports(node, inside=""):
    """Yield (module, name, function around it) of every import that runs; a module has no name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, "", inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((child.module, alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.FunctionDef):
            yield from imports(child, child.name)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imports(child, inside)


def area_of(path):
    return path.relative_to(ROOT / "sb3_moe").parts[0].removesuffix(".py")


def name_of(path):
    return str(path.relative_to(ROOT))


IMPORTS = {path: list(imports(ast.parse(path.read_text()))) for path in [*OURS, *ENVS]}


def packages_of(path):
    return {module.split(".")[0] for module, *_ in IMPORTS[path]}


def test_a_subpackage_imports_only_what_the_table_allows():
    wrong = [
        (name_of(path), module)
        for path in OURS
        for module, name, _ in IMPORTS[path]
        # `from sb3_moe import x` imports the module sb3_moe.x.
        for first, _, rest in [f"{module}.{name}".partition(".")]
        if first == "sb3_moe"
        and (other := rest.split(".")[0] or "__init__") != area_of(path)
        and other not in MAY_IMPORT[area_of(path)].split()
    ]
    assert not wrong


def test_the_table_has_no_cycle():
    areas = list(MAY_IMPORT)
    for area, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= set(areas[: areas.index(area)]), area


def test_what_is_private_stays_in_its_module():
    wrong = [
        (name_of(path), module, name)
        for path in [*OURS, *ENVS]
        for module, name, _ in IMPORTS[path]
        if module.partition(".")[0] in ("sb3_moe", "sb3_moe_envs")
        and name.startswith("_")
        and not name.startswith("__")
    ]
    assert not wrong


def test_packages_of_others_are_imported_where_they_belong():
    contrib = ROOT / "sb3_moe" / "policies" / "contrib"
    learning = {"sb3_moe", "torch", "stable_baselines3", "sb3_contrib"}
    layers = [path for path in OURS if area_of(path) == "layers"]
    of_torch = sys.stdlib_module_names | {"torch", "sb3_moe"}
    wrong = {
        "layers need more than torch": [p for p in layers if packages_of(p) - of_torch],
        "environments know policies": [p for p in ENVS if packages_of(p) & learning],
        "sb3_contrib outside its own policies": [
            p for p in OURS if "sb3_contrib" in packages_of(p) and p.parent != contrib
        ],
    }
    assert not any(wrong.values()), wrong


# Building, playing and judging environments; their infos, and the past beside observations.
KNOW_ENVIRONMENTS = {
    "make.py", "evaluating.py", "gymnasium_vec_env.py", "past.py", "belief.py", "model_parts.py"
}  # fmt: skip


def test_only_the_study_and_what_builds_plays_or_judges_environments_know_them():
    wrong = [
        name_of(path)
        for path in OURS
        for module, _, function in IMPORTS[path]
        if module.split(".")[0] == "sb3_moe_envs" and area_of(path) != "study"
        # Inside a function only: the policies do without.
        if not function or path.name not in KNOW_ENVIRONMENTS
    ]
    assert not wrong


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_without_sb3_contrib_the_rest_works():
    code = """
import sys
sys.modules["sb3_contrib"] = None  # as if it were not installed
import sb3_moe
from stable_baselines3 import PPO
print(*PPO.policy_aliases)
"""
    assert {"MoeMlpPolicy", "MoeCnnPolicy", "MoeMultiInputPolicy"} <= set(run(code))


ADDED = """
import sys
sys.path.insert(0, "envs")
import {first}
packages = lambda: {{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names
before = packages()
import {package}
print(*sorted(packages() - before))
"""


@pytest.mark.parametrize(
    ("package", "first", "added"),
    [
        ("sb3_moe", "stable_baselines3, sb3_contrib", ["safetensors", "sb3_moe"]),
        ("sb3_moe_envs", "cloudpickle, gymnasium, numpy", ["sb3_moe_envs"]),
    ],
    ids=["sb3_moe", "sb3_moe_envs"],
)
def test_an_import_brings_nothing_but_what_it_stands_on(package, first, added):
    assert run(ADDED.format(package=package, first=first)) == added
