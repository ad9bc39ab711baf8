"""Files of models that are safe to open."""

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning
from sb3_moe.saving.reading import load
from sb3_moe.saving.writing import save

__all__ = ["NormalizerLeftOutWarning", "UnsafeFileError", "load", "save"]
