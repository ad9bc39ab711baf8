"""Frames as small files: pixel art in its own size, few colours without loss."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sb3_moe.extras import require

if TYPE_CHECKING:
    from sb3_moe.watching.replay import Frame

# Photos are drawn no larger than this, in pixels.
LARGEST = 480
PALETTE = 256
# How films end, and pages don't.
FILMS = (".gif", ".mp4")
# What may stand behind height and width.
CHANNELS = ((), (1,), (3,), (4,))


def as_bytes(picture: npt.ArrayLike) -> Frame:
    """Return a picture in whole numbers from 0 to 255, whatever an environment draws in.

    Floats that all lie in [0, 1] are shares of 255, and so is a boolean; other numbers are taken
    as they are, cut to that range. What is no number is 0.

    :param picture: of any shape
    """
    frame = np.asarray(picture)
    if frame.dtype == np.uint8:
        return frame
    values = np.nan_to_num(frame.astype(np.float64), posinf=255.0, neginf=0.0)
    is_share = frame.dtype.kind in "bf" and ((values >= 0.0) & (values <= 1.0)).all()
    return np.clip(np.rint(values * 255.0 if is_share else values), 0.0, 255.0).astype(np.uint8)


def as_frame(picture: Any) -> Frame:
    """Return what an environment drew, or raise for what is no picture.

    :param picture: (height, width), or with 1, 3 or 4 channels behind, of any numbers
    :raises ValueError: if it is anything else, such as a text or a list of pictures
    """
    frame = np.asarray(picture)
    is_picture = frame.ndim in (2, 3) and frame.size > 0 and frame.shape[2:] in CHANNELS
    if frame.dtype.kind not in "buif" or not is_picture:
        raise ValueError(
            "`render()` must give an array of numbers (height, width), or with 1, 3 or 4 channels "
            f"behind, got {type(picture).__name__} {frame.shape if frame.ndim else ''}".rstrip()
        )
    return as_bytes(frame)


def shrunk(frame: Frame) -> Frame:
    """Undo an enlargement by whole pixels, which a page can do again.

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
    """Return what follows ``data:image/`` in an address that holds the picture.

    :param frame: (height, width, 3) or (height, width), uint8
    """
    require("pictures", "PIL")
    from PIL import Image

    if frame.ndim == 2 or frame.shape[2] == 1:
        frame = np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
    small = shrunk(frame[..., :3])
    indexed, buffer = _indexed(small), io.BytesIO()
    if indexed is not None:
        colours, places = indexed
        image = Image.fromarray(places)
        image.putpalette(colours.tobytes())
        image.save(buffer, "png", optimize=True)
        return f"png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image = Image.fromarray(small)
    image.thumbnail((LARGEST, LARGEST))
    image.save(buffer, "webp", quality=80)
    return f"webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _indexed(frame: Frame) -> tuple[Frame, Frame] | None:
    """Return the colours, (C, 3), and each pixel's place among them; None if there are too many."""
    parts = frame.astype(np.int64)
    codes: npt.NDArray[np.int64] = parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
    found, places = np.unique(codes, return_inverse=True)
    if len(found) > PALETTE:
        return None
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1).astype(np.uint8)
    return colours, places.reshape(codes.shape).astype(np.uint8)
