"""What SB3's buffers hold, as a policy takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_moe.observations.batches import Obs


def stored_obs(stored: Any, space: spaces.Space[Any], index: Any = ...) -> Obs:
    """Take observations out of a buffer, which gives a Discrete one an axis more.

    :param stored: arrays or tensors, or a dict of them
    :param space: of one observation
    :param index: which ones
    """
    if isinstance(space, spaces.Dict):
        return {key: _numpy(stored[key][index], each) for key, each in space.spaces.items()}
    return _numpy(stored[index], space)


def _numpy(values: Any, space: spaces.Space[Any]) -> np.ndarray:
    array = values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
    return array.reshape(-1, *(space.shape or ()))
