"""A callback that says, in a small file, how far a run is."""

from __future__ import annotations

import time
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.callbacks.evaluate import MultiTaskEvalCallback
from sb3_moe.saving.files import write_json
from sb3_moe.vec_env.tasks import short_names, task_names


class Heartbeat(BaseCallback):
    """Write ``live.json`` while a run goes on: steps, rate, and the last returns of each task.

    At the end of a rollout, but not more often than once in so many seconds, and at the end.
    The returns are those that :class:`~sb3_moe.callbacks.TaskRolloutCallback`, which comes before
    it in the list of callbacks, has just logged.

    :param path: of the file
    :param total_steps: of the whole run
    :param seconds: between two times: a rollout off-policy may be a single step
    :param evaluation: a callback that comes before it too; how long each evaluation of this run
        took is written with the rest
    """

    def __init__(
        self,
        path: Path,
        total_steps: int,
        seconds: float = 0.5,
        evaluation: MultiTaskEvalCallback | None = None,
    ) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.seconds = seconds
        self.path = path
        self.total_steps = total_steps

    def _on_training_start(self) -> None:
        self._begun = self._due = time.monotonic()
        self._last_returns: dict[str, float] = {}
        self._first_step = self.num_timesteps
        names = task_names(self.training_env)
        self._names = dict(zip(short_names(names), names, strict=True))

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._last_returns |= self._returns()
        if time.monotonic() >= self._due:
            self._write()

    def _on_training_end(self) -> None:
        self._write()

    def _write(self) -> None:
        seconds = time.monotonic() - self._begun
        evaluations = [] if self.evaluation is None else self.evaluation.seconds
        self._due = time.monotonic() + self.seconds
        write_json(
            self.path,
            {
                "steps": self.num_timesteps,
                "total_steps": self.total_steps,
                "seconds": round(seconds, 2),
                "rate": round((self.num_timesteps - self._first_step) / max(seconds, 1e-9), 1),
                "returns": self._last_returns,
                "evaluations": [round(each, 3) for each in evaluations],
            },
        )

    def _returns(self) -> dict[str, float]:
        """Read ``rollout/<task>/ep_rew_mean``."""
        values = self.logger.name_to_value
        means = {
            name: values.get(f"rollout/{key}/ep_rew_mean") for key, name in self._names.items()
        }
        return {name: round(float(mean), 3) for name, mean in means.items() if mean is not None}
