"""Metrics of multi-task and continual learning, on plain arrays."""

from sb3_moe.metrics.specialisation import agreement, load_entropy, specialisation

__all__ = ["agreement", "load_entropy", "specialisation"]
