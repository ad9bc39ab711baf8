"""Independent random streams for the schedule, each task and the action space, from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class TaskSeeds:
    """Deal out seeds that follow from one: each key's once per rewind, when it is first played."""

    def __init__(self) -> None:
        self._entropy: Any = None
        self._taken: set[tuple[int, ...]] = set()
        self._renewals: dict[tuple[int, ...], int] = {}

    @property
    def started(self) -> bool:
        """Whether there was a rewind."""
        return self._entropy is not None

    def rewind(self, seed: int | Sequence[int] | None) -> None:
        """Start all streams again; None draws a seed from the operating system."""
        entropy: Any = np.random.SeedSequence(seed).entropy
        # Plain numbers, so that the state is JSON.
        self._entropy = np.asarray(entropy, object).tolist()
        self._taken, self._renewals = set(), {}

    @property
    def schedule(self) -> np.random.SeedSequence:
        """The schedule's seed."""
        return self._stream(0)

    @property
    def actions(self) -> int:
        """The action space's seed."""
        return _integer(self._stream(1))

    def take(self, *key: int) -> int | None:
        """Return a task's seed, the first time it is asked for; then None: the task goes on.

        :param key: the task, and whatever else distinguishes its environments
        """
        if key in self._taken:
            return None
        self._taken.add(key)
        renewals = self._renewals.get(key, 0)
        return _integer(self._stream(3, renewals, *key) if renewals else self._stream(2, *key))

    def renew(self, *key: int) -> None:
        """Deal another seed to a key that has had one: its environments could not be restored."""
        if key in self._taken:
            self._taken.remove(key)
            self._renewals[key] = self._renewals.get(key, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "entropy": self._entropy,
            "taken": sorted(list(key) for key in self._taken),
            "renewals": sorted([list(key), count] for key, count in self._renewals.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._entropy = state["entropy"]
        self._taken = {tuple(key) for key in state["taken"]}
        self._renewals = {tuple(key): count for key, count in state["renewals"]}

    def _stream(self, *key: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._entropy, spawn_key=key)


def _integer(stream: np.random.SeedSequence) -> int:
    # ALE takes seeds below 2**31, and vector environments add the slot's index.
    return int(stream.generate_state(1)[0]) % (2**31 - 2**16)
