"""Runs that stop and go on as if they had never stopped."""

from sb3_moe.snapshot.resuming import resume
from sb3_moe.snapshot.writing import save_snapshot

__all__ = ["resume", "save_snapshot"]
