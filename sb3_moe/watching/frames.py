"""Frames as small files: pixel art in its own size, images of few colors without loss."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from sb3_moe.layers.extras import require

Frame = npt.NDArray[np.uint8]
# Images of up to FEW_COLORS colors are stored without loss. Others are stored with loss, and shrunk
# to at most LARGEST pixels a side.
LARGEST = 480
FEW_COLORS = 256


def as_frame(picture: Any) -> Frame:
    """Return what an environment drew as (height, width, 3).

    :param picture: (height, width), or with 1, 3 or 4 channels as the last axis, uint8
    :raises ValueError: if it is anything else, such as a text or a list of pictures
    """
    frame = np.asarray(picture)
    channels = frame.shape[2:]
    is_picture = frame.ndim >= 2 and channels in ((), (1,), (3,), (4,))
    if frame.dtype != np.uint8 or not is_picture:
        raise ValueError(
            "`render()` must give an array (height, width), or with 1, 3 or 4 channels last, of "
            f"uint8, got {type(picture).__name__} {frame.shape} of {frame.dtype}"
        )
    if channels in ((), (1,)):
        frame = np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
    return np.array(frame[..., :3], order="C")


def shrunk(frame: Frame) -> Frame:
    """Undo an enlargement of an image by a whole factor: the page enlarges it again.

    :param frame: (height, width, 3)
    """
    height, width = frame.shape[:2]
    for factor in range(min(height, width), 1, -1):
        if height % factor or width % factor:
            continue
        small = frame[::factor, ::factor]
        if np.array_equal(small.repeat(factor, 0).repeat(factor, 1), frame):
            return small
    return frame


def data_of(frame: Frame) -> str:
    """Return the part of an image's data URL that follows ``data:image/``.

    :param frame: (height, width, 3)
    """
    require("pictures", "PIL")
    from PIL import Image

    image = Image.fromarray(shrunk(frame))
    buffer = io.BytesIO()
    few = image.getcolors(FEW_COLORS) is not None
    if not few:
        image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, "webp", lossless=few, quality=80)
    return f"webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
