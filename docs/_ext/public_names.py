"""Write the reference: every name in a module's `__all__`, once, where it is shortest to import.

`{public} module` in a page of `docs/api` shows the names of that module, and links to those that
are shown with another module.
"""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"
DIRECTIVE = re.compile(r"^```\{public\} ([\w.]+)$", re.MULTILINE)


def named(path, root):
    """Return how the module in a file is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules():
    """List the modules with an `__all__`, those with the shortest names first."""
    found = [
        named(path, root)
        for root, package in ((ROOT, "sb3_moe"), (ROOT / "envs", "sb3_moe_envs"))
        for path in sorted((root / package).rglob("*.py"))
        if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE)
    ]
    return sorted(found, key=lambda name: name.count("."))


@cache
def homes():
    """Return where each class and function is shown: with the first module that lists it."""
    found = {}
    for name in modules():
        module = import_module(name)
        for each in module.__all__:
            found.setdefault(id(getattr(module, each)), (name, each))
    return found


def home(module, name):
    """Return the module with which a name is shown, and the name there.

    Classes and functions are shown once, other values with each module that lists them.
    """
    value = getattr(import_module(module), name)
    shared = inspect.isclass(value) or inspect.isroutine(value)
    return homes()[id(value)] if shared else (module, name)


def documented_modules():
    """List the modules that the pages of the reference ask for."""
    pages = (page.read_text() for page in sorted(API.glob("*.md")))
    return [name for text in pages for name in DIRECTIVE.findall(text)]


@cache
def comments():
    """Return the `#:` comments above values, by the value's name."""
    above = re.compile(r"((?:^#: .*\n)+)^(\w+)\b", re.MULTILINE)
    files = (path for root in ("sb3_moe", "envs") for path in (ROOT / root).rglob("*.py"))
    found = (match for path in files for match in above.finditer(path.read_text()))
    return {match[2]: match[1].replace("#: ", "   ") for match in found}


def entry(module, name):
    """Write the reStructuredText of one name; a value needs a `#:` where it is defined."""
    value = getattr(import_module(module), name)
    if isinstance(value, ModuleType):
        return f".. automodule:: {module}.{name}\n   :members:\n"
    if inspect.isclass(value):
        return f".. autoclass:: {module}.{name}\n   :members:\n   :show-inheritance:\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {module}.{name}\n"
    return f".. py:data:: {module}.{name}\n\n{comments()[name]}\n"


def reference(module):
    """Write a module's reStructuredText: a line of links to names shown elsewhere, then its own."""
    names = import_module(module).__all__
    elsewhere = [home(module, name) for name in names if home(module, name)[0] != module]
    led = ", ".join(f":py:obj:`{place}.{name}`" for place, name in elsewhere)
    mine = [name for name in names if home(module, name)[0] == module]
    mine.sort(key=lambda name: not inspect.isroutine(getattr(import_module(module), name)))
    here = [entry(module, name) for name in mine]  # functions first
    return "\n".join([f"Also here: {led}.\n" if led else "", *here])


def missing(found):
    """List the public names that no page shows, given those that pages show."""
    every = {home(module, name) for module in modules() for name in import_module(module).__all__}
    return sorted({f"{module}.{name}" for module, name in every} - found)


def check(app, env):
    """Warn of public names that no page shows."""
    from sphinx.util import logging

    found = {name for name, *_ in env.get_domain("py").get_objects()}
    for name in missing(found):
        logging.getLogger(__name__).warning("%s is public and not in the reference", name)


def setup(app):
    """Register the directive and the check with Sphinx."""
    from sphinx.util.docutils import SphinxDirective

    class Public(SphinxDirective):
        """Show the names of a module."""

        required_arguments = 1

        def run(self):
            text = f"````{{eval-rst}}\n{reference(self.arguments[0])}\n````\n"
            return self.parse_text_to_nodes(text)

    app.add_directive("public", Public)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
