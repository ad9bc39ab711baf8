"""Grids of training runs that resume, and end in a report anyone can check."""

# ruff: noqa: E402  what is missing is said before it is imported

from sb3_moe.extras import require

_NEEDED = (
    "filelock",
    "jinja2",
    "matplotlib",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "tyro",
    "yaml",
)
require("sb3_moe.study", *_NEEDED)

from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation

__all__ = ["Architecture", "CellConfig", "CellFolder", "Evaluation", "train_cell"]
