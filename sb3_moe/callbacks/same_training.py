"""What hooks ask that a callback hung up for one training."""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.base_class import BaseAlgorithm


def same_training(model: BaseAlgorithm) -> Callable[[], bool]:
    """Return what says whether the training that has begun is still the one that goes on.

    SB3 tells callbacks nothing of a training that breaks off, and the next may be one without them.

    :param model: in training
    """
    began = model.start_time
    return lambda: model.start_time == began
