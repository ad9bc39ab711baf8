"""Snapshots of earlier versions: pickles without a manifest, read only with ``trust=True``."""

from __future__ import annotations

import pickle
from pathlib import Path

from sb3_moe.snapshot import run_state
from sb3_moe.snapshot.manifest import MANIFEST, untrusted
from sb3_moe.snapshot.run_state import RunState

MODEL, REPLAY_BUFFER, STATE = "model.zip", "replay_buffer.pkl", "state.pkl"


def is_old(folder: Path) -> bool:
    """Say whether an earlier version wrote a snapshot."""
    if (folder / MANIFEST).exists() or (folder / run_state.STATE).exists():
        return False
    return (folder / STATE).exists() or (folder / MODEL).exists()


def read_old_state(folder: Path, *, trust: bool) -> RunState:
    """Return the state of a run.

    :param folder: of the snapshot
    :param trust: whether it may run code
    :raises UntrustedError: if it may not
    """
    if not trust:
        raise untrusted(folder, "an earlier version wrote it, without a signature")
    state: RunState = pickle.loads((folder / STATE).read_bytes())
    return state
