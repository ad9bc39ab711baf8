"""Rewrite the links of pages that are written for GitHub, so that they work on the site too."""

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\(([^)\s:#]+)(#[^)\s]*)?\)")
# Pages of the site that take the place of GitHub's index, and of a file outside `docs`.
HERE = {DOCS / "README.md": DOCS / "index.md", ROOT / "CHANGELOG.md": DOCS / "changelog.md"}


def is_page(path):
    """Tell whether a file is a page of the site."""
    return path.is_relative_to(DOCS) and path.suffix in (".md", ".ipynb")


def on_the_site(text, repository, folder=DOCS, shown_in=None):
    """Point links that leave `docs` to the repository, and keep those between pages.

    :param text: of a page, Markdown
    :param repository: its address
    :param folder: in which the text lies, to which its links are relative
    :param shown_in: the folder of the page that shows it; ``folder`` unless another page does
    """
    shown_in = shown_in or folder

    def lead(link):
        label, path, heading = link.groups(default="")
        target = (folder / path).resolve()
        target = HERE.get(target, target)
        if is_page(target):
            return f"{label}({os.path.relpath(target, shown_in)}{heading})"
        kind = "tree" if target.is_dir() else "blob"
        return f"{label}({repository}/{kind}/main/{target.relative_to(ROOT)}{heading})"

    parts = FENCE.split(text)  # every second one is code
    return "".join(part if i % 2 else LINK.sub(lead, part) for i, part in enumerate(parts))


def tables_of_contents():
    """Make the site's navigation from the index that GitHub shows: a group for each heading."""
    index = (DOCS / "README.md").read_text()
    for group in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        pages = [path for _, path, _ in LINK.findall(group) if is_page((DOCS / path).resolve())]
        entries = "\n".join(Path(path).with_suffix("").as_posix() for path in dict.fromkeys(pages))
        title = group.partition("\n")[0]
        yield f"```{{toctree}}\n:caption: {title}\n:hidden:\n\n{entries}\n```"


def below_the_title(text):
    """Return a page's sections and what stands before them, without the title."""
    return text.partition("\n")[2]


def added():
    """Return by page the text that the site adds below it, and the file that it is from."""
    index, changes = DOCS / "README.md", ROOT / "CHANGELOG.md"
    lists = index.read_text()[index.read_text().index("\n## ") :]
    navigation = "\n".join(tables_of_contents())
    return {
        "index": (f"{lists}\n{navigation}", index),
        "changelog": (below_the_title(changes.read_text()), changes),
    }


def read(app, page, source):
    """Rewrite a page's source before it is parsed."""
    text, file = added().get(page, ("", None))
    if file:
        app.env.note_dependency(str(file), docname=page)
    path = Path(app.env.doc2path(page))
    if path.suffix == ".md":
        repository, here = app.config.repository, path.parent
        below = on_the_site(text, repository, file.parent, here) if file else ""
        source[0] = f"{on_the_site(source[0], repository, here)}\n{below}"


def setup(app):
    """Register the rewriting with Sphinx."""
    app.add_config_value("repository", "", "env")
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
