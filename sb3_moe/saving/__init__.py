"""Files: models that are safe to open, and runs that stop and go on as if they never had."""

from sb3_moe.saving.model_file import load, save
from sb3_moe.saving.model_parts import NormalizerLeftOutWarning
from sb3_moe.saving.snapshot import DamagedError, resume, save_snapshot
from sb3_moe.saving.values import UnsafeFileError

__all__ = [
    "DamagedError",
    "NormalizerLeftOutWarning",
    "UnsafeFileError",
    "load",
    "resume",
    "save",
    "save_snapshot",
]
