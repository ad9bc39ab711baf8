"""A film of a replay, with the gates drawn in.

Shapes: T steps, E experts.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_moe.layers.extras import require
from sb3_moe.saving.files import atomic
from sb3_moe.watching.frames import Frame, shrunk

if TYPE_CHECKING:
    from sb3_moe.watching.replays import Replay, Track

#: Colors of experts, as on the page (``page/draw.js``): Okabe and Ito's, and a gray.
COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999",
)  # fmt: skip
#: Suffixes of films, which the name of a page must not have.
FILMS = (".gif", ".mp4")
BACK = "#ffffff"
INK = "#1b1f24"
EMPTY = "#dfe4ea"
# In pixels. The gates are as wide as the frame, but at least NARROWEST.
GAP = 12
LINE = 18
NARROWEST = 160


def write_video(
    replay: Replay,
    path: Path,
    *,
    run: int = 0,
    fps: int = 10,
    size: int = 240,
    max_steps: int | None = None,
) -> Path:
    """Write a film of all tasks, one after another, each frame in a square of one size.

    :param replay: what was recorded
    :param path: ends in ``.gif`` or ``.mp4``
    :param run: which run; 0 is the agent as it is
    :param fps: steps a second
    :param size: of the square, in pixels
    :param max_steps: of each task; None: all
    :raises ValueError: if the file's kind is unknown
    :raises ImportError: without Pillow, or for an MP4 without imageio-ffmpeg
    """
    kind = path.suffix.lower()
    if kind not in FILMS:
        raise ValueError(f"`path` must end in one of {FILMS}, got {path.name!r}")
    sheet = Sheet(replay, size)
    pictures = (
        sheet.draw(track, step)
        for track in replay.runs[run].tracks
        for step in range(len(track))[:max_steps]
    )
    write = save_gif if kind == ".gif" else _save_mp4
    with atomic(path) as temporary:
        write(temporary, pictures, fps)
    return path


class Sheet:
    """Draws a step: the frame on the left, the gates of every mixture on the right.

    :param replay: what was recorded
    :param size: of the frame's square, in pixels
    """

    def __init__(self, replay: Replay, size: int) -> None:
        require("films", "PIL")
        from PIL import ImageFont

        self._mixtures = replay.mixtures
        self._size = size
        self._font = ImageFont.load_default(size=13)
        lines = sum(each.num_experts + 2 for each in replay.mixtures) + 2
        self._beside = max(size, NARROWEST)
        # Video codecs need even numbers of pixels.
        width = size + self._beside + 3 * GAP
        height = max(size, lines * LINE) + 4 * GAP + LINE
        self._shape = (width + width % 2, height + height % 2)

    def draw(self, track: Track, step: int) -> Any:
        """Return a picture of a step."""
        from PIL import Image, ImageDraw

        sheet = Image.new("RGB", self._shape, BACK)
        pen = ImageDraw.Draw(sheet)
        top = 2 * GAP + LINE
        self._write(pen, GAP, GAP, f"{track.task}, step {step + 1} of {len(track)}")
        if track.frame_T[step] >= 0:
            frame = track.frames[track.frame_T[step]]
            sheet.paste(_fit(frame, self._size), (GAP, top))
        else:
            self._write(pen, GAP, top, "no pictures")
        self._draw_gates(pen, track, step, 2 * GAP + self._size, top)
        return sheet

    def _draw_gates(self, pen: Any, track: Track, step: int, x: int, y: int) -> None:
        start = np.flatnonzero(track.starts_T[: step + 1])[-1]
        self._write(pen, x, y, f"return so far {track.rewards_T[start : step + 1].sum():.4g}")
        y += 2 * LINE
        left = x + 24
        right = x + self._beside - 44  # of the bars
        for mixture in self._mixtures:
            self._write(pen, x, y, f"gates of {mixture.name}")
            for k, gate in enumerate(track.gates[mixture.name][step].tolist()):
                y += LINE
                self._write(pen, x, y, str(k))
                self._write(pen, right + 8, y, f"{gate:.2f}")
                pen.rectangle((left, y + 3, right, y + LINE - 4), fill=EMPTY)
                full = left + (right - left) * min(abs(gate), 1.0)
                if gate:
                    color = COLORS[k % len(COLORS)]
                    pen.rectangle((left, y + 3, full, y + LINE - 4), fill=color)
            y += 2 * LINE

    def _write(self, pen: Any, x: int, y: int, text: str) -> None:
        pen.text((x, y), text, fill=INK, font=self._font)


def _fit(frame: Frame, size: int) -> Any:
    """Fit a frame into a black square; enlarged pixels keep their edges."""
    from PIL import Image, ImageOps

    image = Image.fromarray(shrunk(frame))
    enlarged = max(image.size) <= size
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (size, size), how)


def save_gif(target: Path | io.BytesIO, pictures: Iterable[Any], fps: int) -> None:
    """Write pictures, as :class:`Sheet` draws them, as a GIF.

    :param target: a path or an open file
    :param pictures: at least one
    :param fps: pictures a second
    """
    # Without dithering, what stays the same from step to step takes hardly any room.
    first, *others = (each.quantize(64, dither=0) for each in pictures)
    duration = round(1000 / fps)
    first.save(target, "gif", save_all=True, append_images=others, duration=duration, loop=0)


def _save_mp4(path: Path, pictures: Iterable[Any], fps: int) -> None:
    require("an MP4", "imageio_ffmpeg")
    from imageio_ffmpeg import write_frames

    rest = iter(pictures)
    first = next(rest)
    # ffmpeg can't tell the format by the suffix of a temporary file.
    kind = ["-f", "mp4"]
    film = write_frames(str(path), first.size, fps=fps, macro_block_size=2, output_params=kind)
    film.send(None)
    for each in itertools.chain([first], rest):
        film.send(each.tobytes())
    film.close()
