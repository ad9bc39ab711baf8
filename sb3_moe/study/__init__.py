"""Grids of training runs that resume, and end in a report anyone can check."""

# ruff: noqa: E402  what is missing is said before it is imported

from importlib.util import find_spec

from sb3_moe.extras import require

if find_spec("fcntl") is None:  # no package brings it: it is of Python where the system has it
    raise ImportError(
        "sb3_moe.study, and with it sb3-moe, needs fcntl, which Windows lacks: run it on Linux, "
        "macOS or WSL; sb3_moe.watch and sb3_moe.hub in Python do without"
    )
_NEEDED = ("jinja2", "matplotlib", "pandas", "pydantic", "rich", "scipy", "tyro", "yaml")
require("sb3_moe.study", *_NEEDED)

from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.spec.config import Architecture, CellConfig
from sb3_moe.study.spec.setup import Evaluation

__all__ = ["Architecture", "CellConfig", "CellFolder", "Evaluation", "train_cell"]
