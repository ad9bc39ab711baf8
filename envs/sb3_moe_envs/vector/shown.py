"""A vector world whose observations are shown in another way, and whose actions may be others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from gymnasium.vector import VectorWrapper


class ShownWorld(VectorWrapper, ABC):
    """What wrappers of a :class:`~sb3_moe_envs.vector.world.VectorWorld` share, autoreset too."""

    @abstractmethod
    def shown(self, observations: np.ndarray) -> np.ndarray:
        """Show observations of the world, one or a batch."""

    def meant(self, actions: Any) -> Any:
        """Give the world's actions for those that were chosen."""
        return actions

    def told(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Tell the world's infos, of all copies, in the same way."""
        return infos

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every copy."""
        world: Any = self.env
        observations, infos = world.reset(seed=seed, options=options)
        return self.shown(observations), self.told(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every copy with its action."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        world: Any = self.env
        world.step_async(self.meant(actions))

    def step_wait(self) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Wait for the step that :meth:`step_async` began."""
        world: Any = self.env
        observations, rewards, terminated, truncated, infos = world.step_wait()
        if "final_obs" in infos:
            for row in np.flatnonzero(infos["_final_obs"]).tolist():
                infos["final_obs"][row] = self.shown(infos["final_obs"][row])
            infos["final_info"] = self.told(infos["final_info"])
        return self.shown(observations), rewards, terminated, truncated, self.told(infos)
