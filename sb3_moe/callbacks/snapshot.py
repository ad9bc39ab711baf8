"""Take snapshots while training goes on."""

from __future__ import annotations

import math
from pathlib import Path

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.layers.checks import number
from sb3_moe.saving.snapshot import (
    save_snapshot,
    snapshot_name,
    snapshots_in,
    step_of,
    try_snapshot,
)


class SnapshotCallback(PeriodicCallback):
    """Save everything from which :func:`sb3_moe.resume` goes on, at the start of a rollout.

    A snapshot is a file ``checkpoints/step-<global steps>.zip``: SB3's zip of the model with the
    replay buffer, the environment with its schedule, normalizer and running episodes, and the
    random generators in it. It appears under its name when it is whole. Put this callback last in
    the list, so that it sees what the others did at the same step. That all this can be saved is
    tried before training starts.

    A model that stands at the step of one of the folder's snapshots, or beyond all of them, goes on
    with that run; snapshots of later steps are removed, since it is about to do those again. Any
    other, such as one that starts at step 0, is another run: it is refused.

    :param every: global steps between snapshots
    :param path: the run's folder
    :param keep: how many of the latest snapshots stay, at least 1
    :param overwrite: whether another run may start in the folder; that removes its snapshots
    :param verbose: 1 prints each snapshot
    :raises TypeError: if ``every`` or ``keep`` is no number
    :raises ValueError: if a number is below 1, the environment, the model or its buffer can't be
        saved, or the folder holds another run's snapshots
    :raises OSError: if the folder can't be written to
    """

    def __init__(
        self,
        every: int,
        path: str | Path,
        *,
        keep: int = 2,
        overwrite: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        if not math.isfinite(number("keep", keep)) or keep < 1 or keep != int(keep):
            raise ValueError(f"`keep` must be a whole number of at least 1, got {keep}")
        self.folder = Path(path) / "checkpoints"
        self.keep = int(keep)
        self.overwrite = overwrite
        self._is_another_run = self._within_rollout = self._ended = False

    def _init_callback(self) -> None:
        # Before training starts, and so before the other callbacks touch what earlier runs left.
        self._is_another_run = self._starts_anew(self.model.num_timesteps)
        if self._is_another_run and not self.overwrite:
            raise ValueError(
                f"{self.folder} holds snapshots of another run (the latest at step "
                f"{step_of(snapshots_in(self.folder)[-1])}), and this one stands at step "
                f"{self.model.num_timesteps}: go on from them with sb3_moe.resume, choose another "
                "`path`, or pass `overwrite=True` to remove them"
            )
        try_snapshot(self.model, self.folder)

    def _starts_anew(self, step: int) -> bool:
        steps = [step_of(path) for path in snapshots_in(self.folder)]
        return step not in steps and any(other > step for other in steps)

    def _resume(self, step: int) -> int | None:
        for path in self.folder.glob(".step-*.tmp"):
            path.unlink()
        for path in snapshots_in(self.folder):
            if self._is_another_run or step_of(path) > step:
                path.unlink()
        # There is nothing to save before training, nor where a run has just been resumed.
        return step

    def _on_rollout_start(self) -> None:
        self._within_rollout = True
        super()._on_rollout_start()

    def _on_rollout_end(self) -> None:
        self._within_rollout = False

    def _on_training_end(self) -> None:
        self._ended = True
        super()._on_training_end()

    def _on_training_start(self) -> None:
        self._within_rollout = self._ended = False
        super()._on_training_start()

    def act(self, step: int) -> bool:
        """Save, and remove what is older."""
        target = self.folder / snapshot_name(step)
        whole = not (self._ended and self._within_rollout)
        save_snapshot(self.model, target, drawn=not self._ended, whole=whole)
        for old in snapshots_in(self.folder)[: -self.keep]:
            old.unlink()
        if self.verbose:
            print(f"Snapshot at {step} steps: {target}")
        return True
