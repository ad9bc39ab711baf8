"""Learning rates for tasks that come one after another."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LinearPerBlock:
    """A schedule that falls to zero over each block of training, and starts again at the next.

    ``PPO(..., learning_rate=LinearPerBlock(5e-3, num_blocks=6))`` for six blocks of equal length.

    :param initial: learning rate at the beginning of a block
    :param num_blocks: number of blocks in the whole run
    """

    initial: float
    num_blocks: int

    def __call__(self, progress_remaining: float) -> float:
        """Return the rate for the remaining progress of the run, 1 to 0."""
        done = round((1.0 - progress_remaining) * self.num_blocks, 9)
        # SB3 ends a run with a whole rollout, which may be more steps than it was asked for.
        done = min(done, self.num_blocks)
        # SB3 asks for the rate after a block's last step, which still belongs to that block.
        within = done - math.ceil(done) + 1.0 if done > 0 else 0.0
        return self.initial * (1.0 - within)


@dataclass(frozen=True)
class Restarted:
    """A schedule that begins again in the middle of a run.

    :param schedule: from the remaining progress, 1 to 0, to a value
    :param begin: remaining progress at which it begins again
    """

    schedule: Any
    begin: float

    def __call__(self, progress_remaining: float) -> float:
        """Return the value for a remaining progress of at most ``begin``."""
        return self.schedule(min(1.0, 1.0 - (self.begin - progress_remaining)))
