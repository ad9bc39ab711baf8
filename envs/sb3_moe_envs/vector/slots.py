"""One multi-task environment per slot, each with a schedule of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from sb3_moe_envs.closing import close_each
from sb3_moe_envs.multitask import MultiTaskEnv
from sb3_moe_envs.schedules.base import as_list
from sb3_moe_envs.tasks import gave_both
from sb3_moe_envs.vector.all_or_none import AllOrNone
from sb3_moe_envs.vector.infos import MixedInfos


class MultiTaskSyncVectorEnv(MixedInfos, AllOrNone):
    """A `SyncVectorEnv` of `MultiTaskEnv`s with SAME_STEP autoreset.

    :param env_fns: build the environments; each must be a `MultiTaskEnv`
    """

    envs: list[MultiTaskEnv]  # type: ignore[assignment]  # SyncVectorEnv's are any Env

    def __init__(self, env_fns: Sequence[Callable[[], MultiTaskEnv]]) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        self._check_apart()
        self.task_names = self.envs[0].task_names
        self.num_tasks = self.envs[0].num_tasks

    def _check_apart(self) -> None:
        """Raise if two slots, which are stepped side by side, have one environment between them."""
        seen: dict[int, tuple[int, str]] = {}
        for slot, env in enumerate(self.envs):
            for name, inner in env.by_name():
                other, first = seen.setdefault(id(inner.unwrapped), (slot, name))
                if other != slot:
                    close_each(self.envs)
                    raise ValueError(gave_both(first, name))

    def __repr__(self) -> str:
        first = self.envs[0]
        return (
            f"MultiTaskSyncVectorEnv({self.num_envs} x MultiTaskEnv, {first.schedule!r}: "
            f"{', '.join(self.task_names)})"
        )

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every slot; as a seed Gymnasium's own takes no number of numpy's.

        :param seed: of slot 0, one more for each next slot; or one for each
        :param options: as of `MultiTaskEnv`, for all slots
        :raises ValueError: if `task_id` isn't one task; :meth:`set_task` chooses for some slots
        """
        task = (options or {}).get("task_id")
        if isinstance(task, Sequence | np.ndarray) and not isinstance(task, str):
            raise ValueError(
                "`task_id` must be one task for all slots, whose schedules are their own here, got "
                f"{np.asarray(task).tolist()}; `env.set_task(task, indices=[0])` chooses for some"
            )
        return super().reset(
            seed=int(seed) if isinstance(seed, np.integer) else seed, options=options
        )

    def set_task(self, task: int | str | None, indices: Sequence[int] | None = None) -> None:
        """Play this task from each slot's next reset on; None: as scheduled.

        :param indices: the slots meant; None: all
        :raises TypeError: if they aren't a list
        """
        slots = range(self.num_envs) if indices is None else as_list("indices", indices, "slots")
        for index in slots:
            self.envs[index].set_task(task)

    def get_task(self) -> np.ndarray:
        """Return the index of the task that each slot is playing, (num_envs,)."""
        return np.array([env.get_task() for env in self.envs])

    def action_masks(self) -> np.ndarray:
        """Return which actions each slot's task has, (num_envs, num_actions)."""
        return np.stack([env.action_masks() for env in self.envs])

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on; `"exact"` is False if a task can't be restored."""
        states = [env.state_dict() for env in self.envs]
        return {"envs": states, "exact": all(state["exact"] for state in states)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of as many slots.

        :raises ValueError: if the state is of another number of slots, or of other tasks
        """
        if len(state["envs"]) != self.num_envs:
            raise ValueError(
                f"`state` must be of num_envs={self.num_envs} slots, got one of "
                f"{len(state['envs'])}"
            )
        for env, saved in zip(self.envs, state["envs"], strict=True):
            env.load_state_dict(saved)
