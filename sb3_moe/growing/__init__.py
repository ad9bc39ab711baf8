"""Models that grow: from dense ones to experts, and back."""

from sb3_moe.growing.densifying import to_dense
from sb3_moe.growing.distilling import Distilled, distil
from sb3_moe.growing.upcycling import upcycle

__all__ = ["Distilled", "distil", "to_dense", "upcycle"]
