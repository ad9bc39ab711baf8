"""Pages as GitHub shows them, made to lead somewhere on the site too."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\(([^)\s:#]+)(#[^)\s]*)?\)")
# Pages of the site that hold a file from outside `docs`, and how GitHub's index is called here.
HERE = {"README.md": "index.md", "../CHANGELOG.md": "changelog.md"}


def is_page(path):
    """Tell whether a link's target is a page of the site."""
    return (DOCS / path).resolve().is_relative_to(DOCS) and path.endswith((".md", ".ipynb"))


def on_the_site(text, repository):
    """Lead links that leave `docs` to the repository, and keep those between pages."""

    def lead(link):
        label, path, heading = link.groups(default="")
        path = HERE.get(path, path)
        if is_page(path):
            return f"{label}({path}{heading})"
        target = (DOCS / path).resolve()
        kind = "tree" if target.is_dir() else "blob"
        return f"{label}({repository}/{kind}/main/{target.relative_to(ROOT)}{heading})"

    parts = FENCE.split(text)  # every second one is code
    return "".join(part if i % 2 else LINK.sub(lead, part) for i, part in enumerate(parts))


def tables_of_contents():
    """Make the site's navigation from the index that GitHub shows: a group for each heading."""
    index = (DOCS / "README.md").read_text()
    for group in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        pages = [path for _, path, _ in LINK.findall(group) if is_page(path)]
        entries = "\n".join(Path(path).with_suffix("").as_posix() for path in dict.fromkeys(pages))
        title = group.partition("\n")[0]
        yield f"```{{toctree}}\n:caption: {title}\n:hidden:\n\n{entries}\n```"


def below_the_title(text):
    """Return a page's sections and what stands before them, without the title."""
    return text.partition("\n")[2]


def added():
    """Return what the site shows below a page's own words, and the files that it comes from."""
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
    if str(app.env.doc2path(page)).endswith(".md"):
        source[0] = on_the_site(f"{source[0]}\n{text}", app.config.repository)


def setup(app):
    """Enter the rewriting."""
    app.add_config_value("repository", "", "env")
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
