"""Pictures of stacks of binary maps, such as MinAtar's observations: a colour a channel."""

from __future__ import annotations

import numpy as np

# Tableau's ten colours, then as many lighter ones.
PALETTE = np.array(
    [
        (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
        (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
        (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150), (197, 176, 213),
        (196, 156, 148), (247, 182, 210), (199, 199, 199), (219, 219, 141), (158, 218, 229),
    ],
    dtype=np.uint8,
)  # fmt: skip
CELL = 16


def colour_channels(observation: np.ndarray) -> np.ndarray:
    """Draw each channel's non-zero cells in a colour of its own, on black.

    :param observation: of shape (H, W, C); of the channels that are on in a cell, the first shows
    :return: of shape (16 H, 16 W, 3), uint8
    """
    height, width, channels = observation.shape
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    for channel in reversed(range(channels)):
        picture[observation[:, :, channel] != 0] = PALETTE[channel % len(PALETTE)]
    return picture.repeat(CELL, axis=0).repeat(CELL, axis=1)
