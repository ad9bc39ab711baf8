"""Where experts can sit: a row of data for each placement."""

from dataclasses import dataclass
from typing import Literal, get_args

from sb3_moe.layers.tokens import TokenKind

TOKENS = get_args(TokenKind)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which parts of a network become experts.

    :param name: its name in options, files and layers
    :param meaning: what becomes experts, as half a sentence for reports
    :param hidden: which hidden layers: None; ``"each"`` by itself; all of them as ``"one"``; or the
        number of a single one, counted from the input, or from the head with -1, -2, ...
    :param head: None: it stays dense; ``"own"``: it has experts of its own; ``"inside"``: each
        expert, which is all hidden layers, holds a head too, and the image encoder
    """

    name: str
    meaning: str
    hidden: Literal["each", "one"] | int | None = None
    head: Literal["own", "inside"] | None = None

    @property
    def has_experts(self) -> bool:
        """Whether there are any experts."""
        return self.hidden is not None or self.head is not None

    @property
    def whole(self) -> bool:
        """Whether each expert is a whole network."""
        return self.head == "inside"

    def takes(self, layer: int, depth: int) -> bool:
        """Say whether a hidden layer becomes experts by itself.

        :param layer: number of the layer, counted from the input
        :param depth: number of hidden layers
        """
        if isinstance(self.hidden, int):
            return layer == self.hidden % max(depth, 1)
        return self.hidden == "each"


PLACEMENTS = {
    row.name: row
    for row in (
        Placement(name="none", meaning="no experts"),
        Placement(name="middle", meaning="experts in place of the last hidden layer", hidden=-1),
        Placement(name="final", meaning="experts in place of the output layer", head="own"),
        Placement(name="all", meaning="experts in place of every layer", hidden="each", head="own"),
        Placement(
            name="body", meaning="each expert all hidden layers, before one head", hidden="one"
        ),
        Placement(name="big", meaning="each expert a whole network", hidden="one", head="inside"),
    )
}


def register_placement(placement: Placement) -> Placement:
    """Let options call a placement by its name.

    :param placement: the placement
    """
    PLACEMENTS[placement.name] = placement
    return placement


def find_placement(given: str | Placement) -> Placement:
    """Return the placement that an option means.

    :param given: a name, or a placement
    :raises ValueError: if there is no such name
    """
    if isinstance(given, Placement):
        return given
    if isinstance(given, str) and given in PLACEMENTS:
        return PLACEMENTS[given]
    raise ValueError(f"`placement` must be one of {list(PLACEMENTS)}, got {given!r}")
