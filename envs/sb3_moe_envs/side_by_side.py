"""Notice that lone environments are copies of each other that a vector environment steps."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

# Training and evaluation take turns too, but with many steps each.
ROUNDS = 3


class LoneSteps:
    """Warn once if environments of the same tasks step in turn, each as if it were the only one.

    Vector environments that build copies by themselves, such as those of SB3's `make_vec_env`,
    tell a copy neither how many there are nor which of them it is.

    :param task_names: what copies have in common
    """

    # A copy knows of the others only by what they leave here.
    _last: ClassVar[LoneSteps | None] = None
    _told: ClassVar[set[tuple[str, ...]]] = set()

    def __init__(self, task_names: list[str]) -> None:
        self._names = tuple(task_names)
        self._rounds, self._in_a_row = 0, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> LoneSteps:
        # A copy of an environment looks ahead in its place; vector environments build theirs.
        return self

    def count(self) -> None:
        """Follow a step of this environment."""
        last, LoneSteps._last = LoneSteps._last, self
        self._in_a_row = self._in_a_row + 1 if last is self else 1
        # One that took several steps was evaluated in between, not stepped side by side.
        alternate = last is not None and last._names == self._names and last._in_a_row == 1
        self._rounds = self._rounds + 1 if alternate and last is not self else 0
        if self._rounds == ROUNDS and self._names not in self._told:
            self._told.add(self._names)
            warnings.warn(
                f"several copies of a MultiTaskEnv of {list(self._names)} step side by side, but "
                "each counts only its own steps and begins with the same task: build them with "
                "sb3_moe.make_multitask_vec_env(tasks, n_envs) or gymnasium.make_vec(id, num_envs) "
                "without `vectorization_mode`, or give each its `num_envs` and `env_index` "
                "(`num_envs=1` if it is meant so)",
                stacklevel=4,
            )
