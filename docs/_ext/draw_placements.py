"""Draw where experts stand, from the rows of placements: `python docs/_ext/draw_placements.py`."""

from pathlib import Path

from sb3_moe.policies.placements import PLACEMENTS

FILE = Path(__file__).parents[1] / "placements.svg"
EXPERTS = 3
HIDDEN = 2
# What a network is made of, from left to right: encoder, hidden layers, head.
NAMES = ["encoder", *(f"hidden {n + 1}" for n in range(HIDDEN)), "head"]
LEFT, TOP, STEP, WIDE, HIGH = 96, 44, 132, 100, 54
STYLE = """
text { font: 15px system-ui, sans-serif; fill: #24292f }
.name { font-family: ui-monospace, monospace; font-weight: 600 }
.part { fill: #6e7781; text-anchor: middle }
.dense { fill: #d0d7de; stroke: #6e7781 }
.expert { fill: #54aeff; stroke: #0a3069 }
.router { fill: #0a3069 }
path { stroke: #6e7781; fill: none }
.page { fill: #ffffff }
"""


def spans(place):
    """Return which parts of a network consist of experts, as (first, last) numbers of parts."""
    head = HIDDEN + 1
    if place.whole:
        return [(0, head)]
    layers = [(n + 1, n + 1) for n in range(HIDDEN) if place.takes(n, HIDDEN)]
    body = [(1, HIDDEN)] if place.hidden == "one" else layers
    return [*body, (head, head)] if place.head == "own" else body


def box(kind, first, last, y, height):
    """Draw a rectangle over parts of the network."""
    x, width = LEFT + first * STEP, (last - first) * STEP + WIDE
    return f'<rect class="{kind}" x="{x}" y="{y:g}" width="{width}" height="{height:g}" rx="4"/>'


def mixture(first, last, y):
    """Draw experts one above the other, with their router before them."""
    height = HIGH / EXPERTS - 3
    experts = [box("expert", first, last, y + k * HIGH / EXPERTS, height) for k in range(EXPERTS)]
    x = LEFT + first * STEP - 9
    router = f'<rect class="router" x="{x}" y="{y - 2}" width="5" height="{HIGH + 1}" rx="2"/>'
    return [*experts, router]


def row(place, y):
    """Draw one placement."""
    middle = y + HIGH / 2
    mixtures = spans(place)
    inside = {part for first, last in mixtures for part in range(first, last + 1)}
    parts = [
        box("dense", part, part, y, HIGH - 3) for part in range(len(NAMES)) if part not in inside
    ]
    line = f'<path d="M{LEFT - 24} {middle}H{LEFT + len(NAMES) * STEP - 14}"/>'
    name = f'<text class="name" x="8" y="{middle + 5}">{place.name}</text>'
    return [line, name, *parts, *(shape for span in mixtures for shape in mixture(*span, y))]


def drawing():
    """Return the whole picture as SVG."""
    places = list(PLACEMENTS.values())
    width, height = LEFT + len(NAMES) * STEP, TOP + len(places) * (HIGH + 22)
    titles = [
        f'<text class="part" x="{LEFT + part * STEP + WIDE / 2:g}" y="28">{name}</text>'
        for part, name in enumerate(NAMES)
    ]
    rows = [shape for n, place in enumerate(places) for shape in row(place, TOP + n * (HIGH + 22))]
    page = f'<rect class="page" width="{width}" height="{height}" rx="8"/>'
    shapes = "\n".join([f"<style>{STYLE}</style>", page, *titles, *rows])
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{shapes}\n</svg>\n'


if __name__ == "__main__":
    FILE.write_text(drawing())
