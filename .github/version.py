"""Print the version that pyproject.toml names."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
print(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
