"""Batches of observations, plain arrays or Dict, as tensors that stay on one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape


def map_observation(function: Callable[..., Any], *observations: Any) -> Any:
    """Apply a function to an array, or to each entry of a dict of them.

    :param function: takes as many arrays as there are observations
    :param observations: all arrays, or all dicts with the same keys
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(obs[key] for obs in observations)) for key in first}
    return function(*observations)


def allocate(space: spaces.Space[Any], leading: tuple[int, ...], device: th.device) -> Any:
    """Return zeros for observations of a space, one for each index of the leading shape.

    :param space: a Dict of spaces, or one that SB3 stores as an array
    :param leading: shape in front of each observation's own
    :param device: where the tensors live
    """
    if isinstance(space, spaces.Dict):
        return {key: allocate(entry, leading, device) for key, entry in space.spaces.items()}
    shape = get_obs_shape(space)
    assert isinstance(shape, tuple)
    return th.zeros((*leading, *shape), dtype=torch_dtype(space.dtype), device=device)


def write(tensor: th.Tensor, values: Any) -> None:
    """Copy an array into a tensor of as many elements.

    :param tensor: the destination, on any device
    :param values: numpy array
    """
    # A Discrete observation comes as (n_envs,), and is stored as (n_envs, 1).
    source = th.from_numpy(np.require(values, requirements=["C", "W"])).reshape(tensor.shape)
    tensor.copy_(source, non_blocking=True)


def torch_dtype(dtype: Any) -> th.dtype:
    """Return torch's name of a numpy dtype."""
    return th.from_numpy(np.zeros(0, dtype)).dtype
