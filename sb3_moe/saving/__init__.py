"""Files: models that are safe to open, and runs that stop and go on as if they never had."""

from sb3_moe.saving.container import UnsafeFileError
from sb3_moe.saving.model_file import load, save
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning
from sb3_moe.saving.snapshot import DamagedError, resume, save_snapshot

__all__ = [
    "DamagedError",
    "NormalizerLeftOutWarning",
    "UnsafeFileError",
    "load",
    "resume",
    "save",
    "save_snapshot",
]
