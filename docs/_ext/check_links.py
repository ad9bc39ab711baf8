"""Follow every link of the built site that needs no network: `python docs/_ext/check_links.py`."""

import sys
import tomllib
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"


class Page(HTMLParser):
    """What a page links to, and the places in it that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = [], {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Note an element's address and name."""
        given = dict(attrs)
        self.places.add(given.get("id", ""))
        target = given.get("href" if tag in ("a", "link") else "src")
        if target:
            self.links.append(target)


page_at = cache(Page)


def is_broken(page, link, repository):
    """Tell whether a link of a page leads nowhere; links to other sites are not checked."""
    address, place = urldefrag(unquote(link))
    address = address.partition("?")[0]
    for kind in ("blob", "tree"):
        ours = f"{repository}/{kind}/main/"
        if address.startswith(ours):
            return not (ROOT / address.removeprefix(ours)).exists()
    if ":" in address or address.startswith("//"):
        return False
    target = page.parent / address if address else page
    target = target / "index.html" if target.is_dir() else target
    if not target.is_file():
        return True
    return target.suffix == ".html" and place not in page_at(target).places


def broken(site, repository):
    """List the links of all pages that lead nowhere."""
    return [
        f"{page.relative_to(site)}: {link}"
        for page in sorted(site.rglob("*.html"))
        for link in page_at(page).links
        if is_broken(page, link, repository)
    ]


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = broken(SITE, project["urls"]["Repository"])
    sys.exit("\n".join(["These links lead nowhere:", *found]) if found else 0)
