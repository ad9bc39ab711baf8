"""The page of a replay: one HTML file that loads nothing.

Shapes: T steps, W numbers of one kind in a step, N tasks, n episodes, E experts.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_moe.watching.frames import data_of

if TYPE_CHECKING:
    from sb3_moe.watching.replays import Replay, Track

SCRIPTS = ("data.js", "draw.js", "card.js", "player.js")
# Characters that could end a script element of HTML; ``json.dumps`` escapes all but ASCII.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def page_of(replay: Replay) -> str:
    """Return a replay's page.

    :param replay: any
    """
    parts = {"style": _part("page.css"), "script": "".join(map(_part, SCRIPTS))}
    # The page's content security policy allows only the style and the script with these hashes.
    for name, text in list(parts.items()):
        digest = hashlib.sha256(text.encode()).digest()
        parts[f"{name}-hash"] = base64.b64encode(digest).decode()
    parts |= {"title": html.escape(replay.title), "data": _json(_data(replay))}
    # In one pass, so that text in the data that looks like a placeholder stays as it is.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def in_frame(page: str) -> str:
    """Return an iframe that shows a page in a notebook, isolated from the notebook's own page.

    :param page: HTML
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" title="Replay" sandbox="allow-scripts" '
        'style="width: 100%; height: 900px; border: 0"></iframe>'
    )


def _part(name: str) -> str:
    return files("sb3_moe.watching").joinpath("page", name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """Write JSON that is safe in a script element, whatever texts it holds."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, default=_table)
    for sign, escape in ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def _table(numbers: Any) -> dict[str, Any]:
    """Return numbers (T,) or (T, W) as little-endian float32 in base64, which can hold NaN."""
    found = np.asarray(numbers, "<f4")
    width = found.shape[1] if found.ndim == 2 else 1
    return {"width": width, "data": base64.b64encode(found.tobytes()).decode()}


def _data(replay: Replay) -> dict[str, Any]:
    pictures: dict[str, int] = {}
    found = replay.importance
    return {
        "kind": replay.kind,
        "critics": replay.critics,
        "noFrames": replay.no_frames,
        "bounds": replay.bounds,
        "mixtures": [vars(each) for each in replay.mixtures],
        "runs": [
            {**vars(run), "tracks": [_track(track, pictures) for track in run.tracks]}
            for run in replay.runs
        ],
        "frames": list(pictures),
        "importance": found
        and {
            "network": found.network,
            "tasks": found.task_names,
            "episodes": found.returns.shape[2],
            "rows": found.rows,
            "cells": found.cells(),
        },
    }


def _track(track: Track, pictures: dict[str, int]) -> dict[str, Any]:
    """Return a track for JSON; its images join the table of all images.

    :param pictures: the number of each image, by its data; new images are added
    """
    numbers = [pictures.setdefault(data_of(each), len(pictures)) for each in track.frames]
    return {
        "task": track.task,
        "steps": len(track),
        "size": list(track.frames[0].shape[1::-1]) if track.frames else None,
        # Where there is no image, the index is -1 and finds the last entry, -1.
        "frame": np.array([*numbers, -1])[track.frame_T],
        "actions": track.actions_TD,
        "preferences": track.preferences,
        "values": track.values_TV,
        "rewards": track.rewards_T,
        "starts": track.starts_T,
        "gates": track.gates,
        "belief": track.belief_TE,
        "returns": np.array(track.returns),
        "names": track.actions,
        "dormant": [
            {
                "layer": each.layer,
                "shares": np.array([each.share, *each.per_expert]),
                "reached": each.reached,
            }
            for each in track.dormant
        ],
    }
