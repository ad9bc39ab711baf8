"""Pictures of one size, whichever task drew them: a video takes no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

# What these modes render is shown or read, not recorded.
_NO_PICTURES = (None, "human", "ansi")


class Canvas:
    """The size of the largest task's pictures; smaller ones are put in its middle, on black.

    Pixels stay as they are. A task whose pictures outgrow its first one is not cut.
    """

    def __init__(self) -> None:
        self._height, self._width = 0, 0

    def measure(self, env: Any) -> None:
        """Make room for what an environment, or a vector environment, draws at its start.

        Its first seeded reset must come later, since this one draws random numbers.
        """
        if env.render_mode in _NO_PICTURES:
            return
        env.reset()
        for picture in _pictures(env.render()):
            height, width = picture.shape[:2]
            self._height, self._width = max(self._height, height), max(self._width, width)

    def fit(self, rendered: Any) -> Any:
        """Return what a task rendered (a picture, a list of them or neither) in this size."""
        if isinstance(rendered, list):
            return [self.fit(picture) for picture in rendered]
        if not isinstance(rendered, np.ndarray) or rendered.ndim < 2:
            return rendered
        height, width = rendered.shape[:2]
        missing = max(self._height - height, 0), max(self._width - width, 0)
        if not any(missing):
            return rendered
        sides = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
        return np.pad(rendered, sides + [(0, 0)] * (rendered.ndim - 2))


def _pictures(rendered: Any) -> Iterable[np.ndarray]:
    """Yield the pictures among what was rendered: one, or lists and tuples of them."""
    if isinstance(rendered, list | tuple):
        for part in rendered:
            yield from _pictures(part)
    elif isinstance(rendered, np.ndarray) and rendered.ndim >= 2:
        yield rendered
