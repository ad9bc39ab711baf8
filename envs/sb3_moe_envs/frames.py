"""Images of environments: of one size, whichever task drew them, and of stacks of binary maps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

# What these modes render is shown or read, not recorded.
_NO_IMAGES = (None, "human", "ansi")
# Tableau's ten colors, then as many lighter ones.
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


class Canvas:
    """The size of the largest task's images; smaller ones are put in its middle, on black.

    Pixels stay as they are. A task whose images outgrow its first one is not cut.
    """

    def __init__(self) -> None:
        self._height, self._width = 0, 0

    def measure(self, env: Any) -> None:
        """Make room for what an environment, or a vector environment, draws at its start.

        Its first seeded reset must come later, since this one draws random numbers.
        """
        if env.render_mode in _NO_IMAGES:
            return
        env.reset()
        for image in _images(env.render()):
            height, width = image.shape[:2]
            self._height, self._width = max(self._height, height), max(self._width, width)

    def fit(self, rendered: Any) -> Any:
        """Return what a task rendered (an image, a list of them or neither) in this size."""
        if isinstance(rendered, list):
            return [self.fit(image) for image in rendered]
        if not isinstance(rendered, np.ndarray) or rendered.ndim < 2:
            return rendered
        height, width = rendered.shape[:2]
        missing = max(self._height - height, 0), max(self._width - width, 0)
        sides = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
        return (
            np.pad(rendered, sides + [(0, 0)] * (rendered.ndim - 2)) if any(missing) else rendered
        )


def _images(rendered: Any) -> Iterable[np.ndarray]:
    if isinstance(rendered, list | tuple):
        for part in rendered:
            yield from _images(part)
    elif isinstance(rendered, np.ndarray) and rendered.ndim >= 2:
        yield rendered


def color_channels(observation: np.ndarray) -> np.ndarray:
    """Draw each channel's non-zero cells in a color of its own, on black.

    :param observation: (H, W, C), as MinAtar's; in each cell the first channel that is on shows
    :return: (16 H, 16 W, 3), uint8
    """
    height, width, channels = observation.shape
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for channel in reversed(range(channels)):
        image[observation[:, :, channel] != 0] = PALETTE[channel % len(PALETTE)]
    return image.repeat(CELL, axis=0).repeat(CELL, axis=1)
