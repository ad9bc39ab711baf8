"""Where a picture keeps its channels: one rule for extractors, normalisers and task ids."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

Shape = tuple[int, int, int]


def is_image(space: spaces.Space[Any]) -> bool:
    """Say whether a space holds images: a Box of three axes."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def shortest_axis(shape: tuple[int, ...], *, ties_first: bool) -> int:
    """Return the axis of the channels, 0 or 2: the first where it is the shortest, else the last.

    :param shape: of one picture, three axes
    :param ties_first: whether the first axis is taken where another is as short, as SB3 does in
        what it takes for images; otherwise a cube such as MinAtar's (10, 10, 10) is channels-last
    """
    first, *others = shape
    return 0 if first < min(others) or (ties_first and first == min(others)) else 2


def channel_axis(space: spaces.Space[Any], *, normalized: bool = False) -> int:
    """Return the axis of the channels in pictures as a policy is given them.

    Pictures that SB3 takes for images (uint8 in [0, 255]) reach a policy with the channels first:
    ``VecTransposeImage`` has seen to it. In all others the channels are on the first axis where
    that is shorter than both others, else on the last.

    :param space: of a picture
    :param normalized: whether SB3 was told to take any picture for an image, with
        ``normalize_images=False``; then its own rule holds, which takes the first of two as short
    """
    if is_image_space(space) and not normalized:
        return 0
    assert space.shape is not None
    return shortest_axis(space.shape, ties_first=normalized)


def plane_axis(space: spaces.Box, num_tasks: int) -> int:
    """Return the axis of the channels in a picture that ends in one plane for each task.

    The world put the planes where the channels were, so it is the axis that holds the channels
    once they are gone; where neither axis does, or both, the shortest. Shapes of which that is not
    true are refused by the world (``sb3_moe_envs.spaces.task_id``).

    :param space: of pictures, planes included
    :param num_tasks: how many planes
    """
    ties_first = is_image_space(space)
    fitting = []
    for axis in (0, 2):
        shape = list(space.shape)
        shape[axis] -= num_tasks
        if shape[axis] > 0 and shortest_axis(tuple(shape), ties_first=ties_first) == axis:
            fitting.append(axis)
    return fitting[0] if len(fitting) == 1 else shortest_axis(space.shape, ties_first=ties_first)


def image_shape_of(space: spaces.Space[Any], axis: int) -> Shape:
    """Return (C, H, W) of an image space with its channels on that axis."""
    assert space.shape is not None
    a, b, c = space.shape
    return (a, b, c) if axis == 0 else (c, a, b)
