"""Spaces that several tasks share."""

from sb3_moe_envs.spaces.interface import Interface

__all__ = ["Interface"]
