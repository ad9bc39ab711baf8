"""What the parts of a world return, laid together in the order of its slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_moe_envs.spaces import Interface
from sb3_moe_envs.vector.infos import join_infos, row_of
from sb3_moe_envs.vector.parts import Part, in_order


class Joined:
    """Lay together what parts return, one entry for each of them.

    :param parts: which play all slots
    :param tasks_B: (num_envs,) the task of each slot
    :param interface: of the tasks
    """

    def __init__(self, parts: Sequence[Part], tasks_B: np.ndarray, interface: Interface) -> None:
        self._parts, self._tasks_B, self._interface = parts, tasks_B, interface
        self._in_order, self._num_envs = in_order(parts), len(tasks_B)

    def observations(self, observations: Sequence[Any]) -> Any:
        """Join observations, in the tasks' common space."""
        parts = [
            (part.task, part.rows, obs) for part, obs in zip(self._parts, observations, strict=True)
        ]
        return self._interface.encode_batch(parts, self._tasks_B)

    def arrays(self, arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
        """Join arrays with a row for each copy, in one dtype."""
        if self._in_order:
            return np.concatenate(arrays, dtype=dtype, casting="unsafe")
        joined = np.empty(self._num_envs, dtype)
        for part, array in zip(self._parts, arrays, strict=True):
            joined[part.rows] = array
        return joined

    def infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join infos, which say the task of each slot."""
        rows = [part.rows for part in self._parts]
        joined = join_infos(list(zip(rows, infos, strict=True)), self._num_envs)
        return joined | self._task_infos(np.ones(self._num_envs, dtype=bool))

    def endings(self, infos: Sequence[dict[str, Any]], done: np.ndarray) -> dict[str, Any]:
        """Return the last observations and infos of the episodes that ended, as infos hold them."""
        final, slots = np.empty(self._num_envs, dtype=object), np.arange(self._num_envs)
        own = []
        for part, info in zip(self._parts, infos, strict=True):
            if info.get("final_info"):
                own.append((part.rows, info["final_info"]))
            for index in done[part.rows].nonzero()[0].tolist():
                obs = row_of(info["final_obs"], index)
                final[slots[part.rows][index]] = self._interface.encode(part.task, obs)
        return {
            "final_obs": final,
            "_final_obs": done.copy(),
            "final_info": join_infos(own, self._num_envs) | self._task_infos(done.copy()),
            "_final_info": done.copy(),
        }

    def _task_infos(self, mask: np.ndarray) -> dict[str, Any]:
        return {"task_id": self._tasks_B.copy(), "_task_id": mask}
