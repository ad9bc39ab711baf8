"""A film of a replay, with the gates drawn in.

Shapes: T steps, E experts.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_moe.extras import require
from sb3_moe.saving.files import atomic
from sb3_moe.watching.colours import COLOURS
from sb3_moe.watching.pictures import FILMS, shrunk

if TYPE_CHECKING:
    from sb3_moe.watching.replay import Frame, Replay, Track

BACK, INK, EMPTY = "#ffffff", "#1b1f24", "#dfe4ea"
GAP, LINE = 12, 18
# Room for the gates, in pixels.
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
    :param fps: steps a second, at least 1
    :param size: of the square, in pixels, at least 64
    :param max_steps: of each task; None: all
    :raises ValueError: if a number is out of range or the file's kind unknown
    :raises ImportError: if an MP4 needs what isn't installed
    """
    if path.suffix not in FILMS:
        raise ValueError(f"`path` must end in one of {FILMS}, got {path.name!r}")
    limits = (("fps", fps, 1), ("size", size, 64), ("max_steps", max_steps, 1))
    for name, number, least in limits:
        if number is not None and number < least:
            raise ValueError(f"`{name}` must be at least {least}, got {number}")
    if not 0 <= run < len(replay.runs):
        raise ValueError(f"`run` must be in [0, {len(replay.runs)}), got {run}")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Sheet(replay, size)
    pictures = (
        sheet.draw(track, step)
        for track in replay.runs[run].tracks
        for step in range(min(len(track), max_steps or len(track)))
    )
    write = save_gif if path.suffix == ".gif" else _write_mp4
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

        self._replay, self._size = replay, size
        self._font = ImageFont.load_default(size=13)
        lines = sum(each.num_experts + 2 for each in replay.mixtures) + 2
        # Codecs take no odd numbers.
        self._height = max(size, lines * LINE) + 2 * GAP + (2 * GAP + LINE)
        self._height += self._height % 2
        self._beside = max(size, NARROWEST)
        self._width = size + self._beside + 3 * GAP
        self._width += self._width % 2

    def draw(self, track: Track, step: int) -> Any:
        """Return a picture of a step."""
        from PIL import Image, ImageDraw

        sheet = Image.new("RGB", (self._width, self._height), BACK)
        pen = ImageDraw.Draw(sheet)
        left, top = GAP, 2 * GAP + LINE
        self._write(pen, (left, GAP), f"{track.task}, step {step + 1} of {len(track)}")
        if track.frame_T[step] >= 0:
            sheet.paste(_fit(track.frames[track.frame_T[step]], self._size), (left, top))
        else:
            self._write(pen, (left, top), "no pictures")
        self._draw_gates(pen, track, step, 2 * GAP + self._size, top)
        return sheet

    def _draw_gates(self, pen: Any, track: Track, step: int, x: int, y: int) -> None:
        start = np.flatnonzero(track.starts_T[: step + 1])[-1]
        score = float(track.rewards_T[start : step + 1].sum())
        self._write(pen, (x, y), f"return so far {score:.4g}")
        y += 2 * LINE
        for mixture in self._replay.mixtures:
            self._write(pen, (x, y), f"gates of {mixture.name}")
            for k, gate in enumerate(track.gates[mixture.name][step].tolist()):
                y += LINE
                self._bar(pen, x, y, k, gate)
            y += 2 * LINE

    def _bar(self, pen: Any, x: int, y: int, expert: int, gate: float) -> None:
        start, end = x + 24, x + self._beside - 44
        self._write(pen, (x, y), str(expert))
        pen.rectangle((start, y + 3, end, y + LINE - 4), fill=EMPTY)
        if gate:
            full = start + (end - start) * min(abs(gate), 1.0)
            pen.rectangle((start, y + 3, full, y + LINE - 4), fill=COLOURS[expert % len(COLOURS)])
        self._write(pen, (end + 8, y), f"{gate:.2f}")

    def _write(self, pen: Any, place: tuple[int, int], text: str) -> None:
        pen.text(place, text, fill=INK, font=self._font)


def _fit(frame: Frame, size: int) -> Any:
    """Put a frame into the middle of a black square; pixel art grows by whole pixels."""
    from PIL import Image

    if frame.ndim == 2 or frame.shape[2] == 1:
        frame = np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
    image = Image.fromarray(shrunk(frame[..., :3]))
    scale = size / max(image.size)
    how = Image.Resampling.LANCZOS
    if scale > 1:
        scale, how = max(int(scale), 1), Image.Resampling.NEAREST
    image = image.resize(
        (max(round(image.width * scale), 1), max(round(image.height * scale), 1)), how
    )
    square = Image.new("RGB", (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def save_gif(target: Path | io.BytesIO, pictures: Iterable[Any], fps: int) -> None:
    """Write pictures, as :class:`Sheet` draws them, as a GIF.

    :param target: a path or an open file
    :param pictures: at least one
    :param fps: pictures a second
    """
    # One palette for all steps: what stays the same then takes no room.
    first, *others = (each.quantize(64, dither=0) for each in pictures)
    duration = round(1000 / fps)
    first.save(target, "gif", save_all=True, append_images=others, duration=duration, loop=0)


def _write_mp4(path: Path, pictures: Iterator[Any], fps: int) -> None:
    require("an MP4", "imageio_ffmpeg")
    from imageio_ffmpeg import write_frames

    first = next(pictures)
    # The name that it is given ends in no kind.
    film = write_frames(
        str(path), first.size, fps=fps, macro_block_size=2, output_params=["-f", "mp4"]
    )
    film.send(None)
    for each in itertools.chain([first], pictures):
        film.send(each.tobytes())
    film.close()
