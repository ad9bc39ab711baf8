"""What is a model, said in one line where something else was given."""

from __future__ import annotations

from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm


def model_of_sb3(value: object) -> None:
    """Raise unless a value is a model; a file's name or a policy is not one yet."""
    if not isinstance(value, BaseAlgorithm):
        if isinstance(value, str | Path):
            got = f"{str(value)!r}: open a file by sb3_moe.load first"
        else:
            got = f"a {type(value).__name__}"
        raise TypeError(f"`model` must be an SB3 model, got {got}")
