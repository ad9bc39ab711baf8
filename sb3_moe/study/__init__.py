"""Grids of training runs that resume, and end in a report anyone can check."""

# ruff: noqa: E402  what is missing is said before it is imported

from sb3_moe.layers.extras import require

_NEEDED = "filelock jinja2 matplotlib pandas pydantic rich scipy tyro yaml"
require("sb3_moe.study", *_NEEDED.split())

from sb3_moe.study.config import Architecture, Evaluation, RunConfig, StudyConfig, load_study
from sb3_moe.study.folder import RunFolder
from sb3_moe.study.training import train_run

__all__ = [
    "Architecture",
    "Evaluation",
    "RunConfig",
    "RunFolder",
    "StudyConfig",
    "load_study",
    "train_run",
]
