"""The README as PyPI shows it: links and pictures, relative in a checkout, get their addresses."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
# Of links and of pictures: what stands between the brackets may hold a picture itself.
TARGET = re.compile(r"(!?)(\[[^\[\]]*\])\((?!https?:|mailto:|#)([^)\s]+)\)")


def with_addresses(text, repository):
    """Make the relative links of a Markdown text absolute.

    :param text: of a file that lies in the repository's root
    :param repository: its address
    """
    raw = repository.replace("//github.com/", "//raw.githubusercontent.com/")

    def absolute(link):
        picture, label, path = link.groups()
        place = f"{raw}/main" if picture else f"{repository}/blob/main"
        return f"{picture}{label}({place}/{path})"

    return TARGET.sub(absolute, text)


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=with_addresses(readme, project["urls"]["Repository"]),
        long_description_content_type="text/markdown",
    )
