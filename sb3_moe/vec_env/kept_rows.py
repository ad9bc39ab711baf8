"""Rows of training data that are kept: the latest rows, or a sample of all rows so far."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor

# In each step, one of every `STRIDE` environments has its row kept, in turn: the rows of one step
# are alike.
STRIDE = 8


class RecentRows:
    """Keep some of the latest rows of every environment, in a dict that a model may remember.

    :param size: number of rows to keep; rows that are kept already stay as many
    :param kept: the dict of an earlier instance, or an empty one; it is changed in place
    """

    def __init__(self, size: int, kept: dict[str, Any]) -> None:
        rings = [ring for name, ring in kept.items() if name != "written"]
        self.size = len(rings[0]) if rings else size
        self.kept = kept

    def add(self, step: int, columns: Mapping[str, np.ndarray]) -> None:
        """Keep some rows of a step.

        :param step: number of the step, which decides whose turn it is
        :param columns: (n_envs, ...) each
        """
        written = self.kept.setdefault("written", 0)
        stride = min(STRIDE, len(next(iter(columns.values()))))
        for name, column in columns.items():
            rows = column[step % stride :: stride][: self.size]
            shape = (self.size, *rows.shape[1:])
            ring = self.kept.setdefault(name, np.zeros(shape, rows.dtype))
            ring[(written + np.arange(len(rows))) % self.size] = rows
            self.kept["written"] = written + len(rows)

    def latest(self) -> dict[str, np.ndarray]:
        """Return every column, oldest row first."""
        written = self.kept.get("written", 0)
        count = min(written, self.size)
        order = (written - count + np.arange(count)) % self.size
        return {name: ring[order] for name, ring in self.kept.items() if name != "written"}


class Reservoir:
    """Keep a share of a replay buffer for a sample of all transitions so far.

    :param share: of the buffer, in (0, 0.5]: the rest must hold at least as many new rows
    :raises ValueError: if ``share`` is out of range
    """

    def __init__(self, share: float) -> None:
        if not 0 < share <= 0.5:
            raise ValueError(f"`reservoir_share` must be in (0, 0.5], got {share}")
        self.share = share
        self.kept = 0
        self.seen = 0

    def check(self, buffer: Any) -> None:
        """Refuse a buffer whose rows can't be moved.

        :raises ValueError: if rows depend on their places, or on the rows that follow
        """
        linked = isinstance(buffer, NStepReplayBuffer | HerReplayBuffer)
        if buffer.optimize_memory_usage or hasattr(buffer, "task_ids") or linked:
            raise ValueError(
                "`replay_buffer`='reservoir' needs a buffer whose rows can be moved: one without "
                "`optimize_memory_usage`, and not a MultiTaskReplayBuffer, which balances tasks "
                "itself, nor an NStepReplayBuffer or HerReplayBuffer, which read on from row to "
                f"row; got {type(buffer).__name__}"
            )

    def resume(self, buffer: Any, kept: int, seen: int) -> None:
        """Go on from what an earlier reservoir of the same run had kept and seen.

        :param buffer: the model's buffer, which is empty if it wasn't loaded with the model
        :param kept: number of rows at the front of the buffer that are a sample
        :param seen: number of rows of which they are a sample
        """
        self.kept = min(kept, buffer.size())
        self.seen = seen

    def protect(self, buffer: Any) -> None:
        """Let a full buffer continue behind the sample, so that it doesn't overwrite the sample."""
        if buffer.full:
            buffer.pos = max(buffer.pos, self.kept)

    def reduce(self, buffer: Any, written: int, rng: np.random.Generator) -> None:
        """Move a uniform sample of all rows so far to the front, and let the rest be overwritten.

        The rows that were kept before are themselves a sample, and represent all rows seen until
        then. If more rows were written since then than the rest of the buffer holds, the latest
        ones represent those that were overwritten.

        :param buffer: a replay buffer that :meth:`check` accepts
        :param written: number of rows written since the last call
        :param rng: draws the sample
        """
        filled = buffer.size()
        fresh = filled - self.kept
        # The buffer may hold more: SB3 keeps the rows of an earlier run, but not its step count.
        written = max(written, fresh)
        size = min(int(self.share * buffer.buffer_size), filled)
        from_old = int(rng.hypergeometric(self.seen, written, size)) if self.seen else 0
        from_old = min(from_old, self.kept)
        old = rng.choice(self.kept, from_old, replace=False)
        new = self.kept + rng.choice(fresh, min(size - from_old, fresh), replace=False)
        rows = np.concatenate([old, new])
        leading = (buffer.buffer_size,)
        for value in vars(buffer).values():
            for array in value.values() if isinstance(value, dict) else [value]:
                if isinstance(array, np.ndarray | Tensor) and array.shape[:1] == leading:
                    array[: len(rows)] = array[rows]
        self.kept = buffer.pos = len(rows)
        self.seen += written
        buffer.full = False
