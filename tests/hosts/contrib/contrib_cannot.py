"""What a placement can't do that sb3-contrib's tests ask, why, and in which words it says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import contrib_guests as guests
from tables import Cannot


def attempts(
    algorithms: Sequence[str], placement: str, **kwargs: Any
) -> dict[str, Callable[[], object]]:
    """Return, by name, what is refused: a model of each algorithm."""
    return {name: partial(guests.make, name, placement, **kwargs) for name in algorithms}


# The experts of a recurrent policy stand behind its LSTM, and hold no encoder.
ENCODING = tuple(name for name in guests.EVERY if name != "RecurrentPPO")
NO_EXTRACTOR = (
    "its experts hold the encoder, so there is no place for one before them: name an `encoder` "
    "(but for RecurrentPPO, whose experts stand behind the LSTM)"
)
EXTRACTOR_ERROR = r"`placement`='big' holds the encoder inside each expert, .* got OwnExtractor"
CANNOT = (
    Cannot(
        "gSDE",
        "big",
        "gSDE makes noise of what the actor's last hidden layer gives, and each expert has its "
        "own: name another placement for `pi`",
        r"`use_sde`=True needs the latent .* `placement`='big'",
        {name: partial(guests.with_gsde, name, "big") for name in guests.WITH_GSDE},
    ),
    Cannot(
        "no hidden layer",
        "middle",
        "it replaces the last hidden layer, and there is none: take `final` or `big`",
        "`placement`='middle' replaces the last hidden layer, and `net_arch` has none",
        attempts(guests.EVERY, "middle", net_arch=[]),
    ),
    *(
        Cannot(
            behaviour,
            "big",
            NO_EXTRACTOR,
            EXTRACTOR_ERROR,
            attempts(algorithms, "big", features_extractor_class=guests.OwnExtractor),
        )
        for behaviour, algorithms in (
            ("own extractor", ENCODING),
            ("batch norm in targets", ("QRDQN", "TQC")),
        )
    ),
    Cannot(
        "features_dim",
        "big",
        "its experts take the map itself: give that width as the first of `net_arch`",
        r"`features_dim`=8 adds a layer",
        {
            name: partial(
                guests.make,
                name,
                "big",
                "Cnn",
                guests.env_of(name, guests.PICTURE),
                features_extractor_kwargs={"features_dim": 8},
            )
            for name in ENCODING
            if name in guests.WITH_PICTURES
        },
    ),
)
