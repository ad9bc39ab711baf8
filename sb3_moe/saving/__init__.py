"""Save models in files that are safe to open, and runs in snapshots that they resume from."""

from sb3_moe.saving.model_file import load, save
from sb3_moe.saving.model_parts import WrapperLeftOutWarning
from sb3_moe.saving.snapshot import DamagedError, resume, save_snapshot
from sb3_moe.saving.values import UnsafeFileError

__all__ = [
    "DamagedError",
    "UnsafeFileError",
    "WrapperLeftOutWarning",
    "load",
    "resume",
    "save",
    "save_snapshot",
]
