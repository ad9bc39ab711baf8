"""The random generators that training draws from, as a value."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th


def get_generators() -> dict[str, Any]:
    """Return the states of the generators of Python, numpy and torch."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Put the generators into states that :func:`get_generators` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    # Those of devices that this machine lacks have nowhere to go.
    for device, each in enumerate(state["cuda"][: th.cuda.device_count()]):
        th.cuda.set_rng_state(each, device)


@contextmanager
def preserved_generators(*others: np.random.Generator) -> Iterator[None]:
    """Leave the generators as they were, so that a measurement does not change what follows.

    :param others: besides those of Python, numpy and torch, such as an action space's
    """
    state = get_generators()
    other_states = [each.bit_generator.state for each in others]
    try:
        yield
    finally:
        set_generators(state)
        for each, other_state in zip(others, other_states, strict=True):
            each.bit_generator.state = other_state
