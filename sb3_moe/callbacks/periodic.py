"""When to measure: at the start of a rollout, as soon as so many global steps have passed."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Real

from stable_baselines3.common.callbacks import BaseCallback, EventCallback


class PeriodicCallback(EventCallback):
    """Act before the first rollout, then every so many global steps, and at the end of training.

    A rollout's start is where the policy has learned from all steps so far. Steps are counted over
    all environments.

    :param every: global steps, at least 1
    :param callback: called after each time
    :param verbose: 0 or 1
    :raises TypeError: if ``every`` is no number
    :raises ValueError: if it is below 1, or NaN
    """

    def __init__(
        self, every: int, *, callback: BaseCallback | None = None, verbose: int = 0
    ) -> None:
        super().__init__(callback, verbose)
        check_every(every)
        self.every = every
        self._last: int | None = None
        self._continue = True

    @abstractmethod
    def act(self, step: int) -> bool:
        """Do what is to be done.

        :param step: global steps so far
        :return: False to end the training
        """

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._last = self._resume(self.model.num_timesteps)
        self._continue = True

    def _resume(self, step: int) -> int | None:
        """Return the latest step at which this was done, in a run that stands at ``step``."""
        return self._last if self._last is not None and 0 < self._last <= step else None

    def _on_rollout_start(self) -> None:
        if self._is_due(self.model.num_timesteps):
            self._do(self.model.num_timesteps)

    def _is_due(self, step: int) -> bool:
        return self._last is None or step // self.every > self._last // self.every

    def _on_training_end(self) -> None:
        if self._last != self.model.num_timesteps:
            self._do(self.model.num_timesteps)

    def _do(self, step: int) -> None:
        self._last = step
        self._continue = self.act(step) and self._continue
        if self.callback is not None:
            self._continue = self._on_event() and self._continue

    def _on_step(self) -> bool:
        return self._continue


def check_every(every: object) -> None:
    """Raise unless a value is a number of global steps, such as 10_000 or 1e4.

    :raises TypeError: if it is no number
    :raises ValueError: if it is below 1, or NaN
    """
    if isinstance(every, bool) or not isinstance(every, Real):
        raise TypeError(f"`every` must be a number of global steps, got {every!r}")
    if not float(every) >= 1:
        raise ValueError(f"`every` must be at least 1 global step, got {every}")
