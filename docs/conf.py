"""The site: docs/*.md, as they are read on GitHub too, and a reference from the docstrings.

``make docs`` builds it into build/site; every warning is an error.
"""

import os
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
# In notebooks pygame draws into memory; it need not look for a screen and a loudspeaker.
os.environ |= {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}

PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
copyright = author
version = release = PROJECT["version"]

extensions = ["sphinx.ext.autodoc", "myst_nb", "sphinx_copybutton", "pages", "public_names"]
exclude_patterns = ["README.md", "_ext", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]  # pages begin sections at the depth that suits them on GitHub
repository = PROJECT["urls"]["Repository"]

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
}

copybutton_exclude = ".linenos, .gp, .go"  # a prompt and its output stay behind

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Types in signatures may be of others, or bases that nobody imports; what texts name must be here.
nitpicky = True
nitpick_ignore_regex = [(r"py:(class|exc)", r".*")]

default_role = "code"  # single backticks in docstrings are code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

nb_execution_mode = "cache"
nb_execution_timeout = 300  # each takes seconds; a machine may be busy
nb_execution_raise_on_error = True
nb_merge_streams = True
