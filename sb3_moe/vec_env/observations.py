"""Observations: batches, images, and the tensors in which buffers keep them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_obs_shape, is_image_space
from torch import Tensor

Obs = np.ndarray | dict[str, np.ndarray]
Shape = tuple[int, int, int]


def map_observation(function: Callable[..., Any], *observations: Any) -> Any:
    """Apply a function to an array, or to each entry of a dict of arrays.

    :param function: takes as many arrays as there are observations
    :param observations: all arrays, or all dicts with the same keys
    """
    first = observations[0]
    if isinstance(first, dict):
        return {key: function(*(obs[key] for obs in observations)) for key in first}
    return function(*observations)


def select(obs: Obs, index: Any) -> Obs:
    """Take some samples of a batch of observations."""
    return map_observation(lambda array: array[index], obs)


def concatenate(batches: Sequence[Obs]) -> Obs:
    """Join batches of observations of one space."""
    return map_observation(lambda *arrays: np.concatenate(arrays), *batches)


def spread(batch: Obs, count: int) -> Obs:
    """Take ``count`` samples of a batch, evenly spread."""
    length = len(next(iter(batch.values())) if isinstance(batch, dict) else batch)
    return select(batch, np.arange(count) * length // count)


# Images.


def is_image(space: spaces.Space) -> bool:
    """Say whether a space holds images: a Box of three axes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def channel_axis(space: spaces.Space, *, normalized: bool = False) -> int:
    """Return the channel axis of images in the form in which a policy gets them.

    Boxes that SB3 takes for images (uint8 in [0, 255]) reach a policy with the channels first,
    because SB3 wraps the environment in ``VecTransposeImage``. In other images the channels are on
    the first axis if it is shorter than both other axes, else on the last.

    :param space: of an image
    :param normalized: whether SB3 takes any Box of three axes for an image, as it does with
        ``normalize_images=False``; then SB3's rule holds, by which the first axis also has the
        channels if another axis is as short
    """
    if is_image_space(space) and not normalized:
        return 0
    assert space.shape is not None
    return _shortest_axis(space.shape, ties_first=normalized)


def plane_axis(space: spaces.Box) -> int:
    """Return the axis of the channels in an image whose last channels are one plane for each task.

    The environment refuses images in which this is not where it put the planes
    (``sb3_moe_envs.spaces.interface``).
    """
    return _shortest_axis(space.shape, ties_first=is_image_space(space))


def _shortest_axis(shape: tuple[int, ...], *, ties_first: bool) -> int:
    """Return 0 where the first axis is the shortest, else 2.

    :param ties_first: whether the first axis is taken if another is as short, as SB3 does for
        images; otherwise a cube such as MinAtar's (10, 10, 10) is channels-last
    """
    first = shape[0]
    others = min(shape[1:])
    return 0 if first < others or (ties_first and first == others) else 2


def image_shape_of(space: spaces.Space, axis: int) -> Shape:
    """Return (C, H, W) of an image space with its channels on that axis."""
    assert space.shape is not None
    a, b, c = space.shape
    return (a, b, c) if axis == 0 else (c, a, b)


# What buffers hold.


def allocate(space: spaces.Space, leading: tuple[int, ...], device: th.device) -> Any:
    """Return zeros for observations of a space, one for each index of the leading shape.

    :param space: a Dict of spaces, or one that SB3 stores as an array
    :param leading: shape in front of each observation's own
    :param device: where the tensors live
    """
    if isinstance(space, spaces.Dict):
        return {key: allocate(entry, leading, device) for key, entry in space.spaces.items()}
    shape: Any = get_obs_shape(space)
    return th.zeros((*leading, *shape), dtype=torch_dtype(space.dtype), device=device)


def torch_dtype(dtype: Any) -> th.dtype:
    """Return the torch dtype of a numpy dtype."""
    return th.from_numpy(np.zeros(0, dtype)).dtype


def write(tensor: Tensor, values: Any) -> None:
    """Copy an array into a tensor of as many elements.

    :param tensor: the destination, on any device
    :param values: numpy array
    """
    # A Discrete observation comes as (n_envs,), and is stored as (n_envs, 1).
    source = th.from_numpy(np.require(values, requirements=["C", "W"])).reshape(tensor.shape)
    tensor.copy_(source, non_blocking=True)


def write_row(tensors: Any, row: int, observation: Any) -> None:
    """Copy an observation of every environment into a row of a buffer's tensors."""
    map_observation(lambda tensor, array: write(tensor[row], array), tensors, observation)


def stored_obs(stored: Any, space: spaces.Space, index: Any = ...) -> Obs:
    """Take observations out of a buffer, without the extra axis of stored Discrete ones.

    :param stored: arrays or tensors, or a dict of them
    :param space: of one observation
    :param index: selects the observations
    """

    def taken(values: Any, part: spaces.Space) -> np.ndarray:
        chosen = values[index]
        array = chosen.cpu().numpy() if isinstance(chosen, Tensor) else np.asarray(chosen)
        return array.reshape(-1, *(part.shape or ()))

    parts = space.spaces if isinstance(space, spaces.Dict) else space
    return map_observation(taken, stored, parts)
