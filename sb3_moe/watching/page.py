"""The page of a replay: one HTML file that loads nothing.

Shapes: T steps, W numbers of one kind in a step.
"""

from __future__ import annotations

import base64
import html
import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from sb3_moe.saving.files import digest_of, embedded
from sb3_moe.watching.pictures import data_of

if TYPE_CHECKING:
    from sb3_moe.watching.replay import Replay, Run, Track

SCRIPTS = ("data.js", "draw.js", "card.js", "player.js")


def page_of(replay: Replay) -> str:
    """Return a replay's page.

    :param replay: any
    """
    style, script = _part("page.css"), "".join(map(_part, SCRIPTS))
    parts = {
        "title": html.escape(replay.title),
        "style": style,
        "style-hash": digest_of(style),
        "script": script,
        "script-hash": digest_of(script),
        "data": embedded(_data(replay)),
    }
    # In one pass, so that nothing in the data is filled in.
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda found: parts[found[1]], _part("page.html"))


def in_frame(page: str, height: int = 900) -> str:
    """Return a frame for a notebook that holds a page, apart from the notebook's own.

    :param page: HTML
    :param height: in pixels
    """
    return (
        f'<iframe srcdoc="{html.escape(page)}" title="Replay" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


def _part(name: str) -> str:
    return files("sb3_moe.watching").joinpath("page", name).read_text(encoding="utf-8")


def _data(replay: Replay) -> dict[str, Any]:
    pictures: dict[str, int] = {}
    runs = [_run(run, pictures) for run in replay.runs]
    found = replay.importance
    return {
        "tasks": replay.task_names,
        "kind": replay.kind,
        "critics": replay.critics,
        "noFrames": replay.no_frames,
        "mixtures": [
            {"name": each.name, "experts": each.num_experts, "router": each.router}
            for each in replay.mixtures
        ],
        "runs": runs,
        "frames": list(pictures),
        "importance": found
        and {
            "tower": found.tower,
            "tasks": found.task_names,
            "whenOff": found.when_off,
            "episodes": found.returns.shape[2],
            "rows": found.rows,
            "cells": found.cells(),
        },
    }


def _run(run: Run, pictures: dict[str, int]) -> dict[str, Any]:
    tracks = [_track(track, pictures) for track in run.tracks]
    return {"label": run.label, "note": run.note, "off": run.off, "tracks": tracks}


def _track(track: Track, pictures: dict[str, int]) -> dict[str, Any]:
    """Return a track as JSON; its frames go into the table of all pictures.

    :param pictures: number by data, which grows
    """
    texts = [data_of(frame) for frame in track.frames]
    numbers = [pictures.setdefault(text, len(pictures)) for text in texts]
    shown_T = np.array([numbers[k] if k >= 0 else -1 for k in track.frame_T.tolist()])
    return {
        "task": track.task,
        "steps": len(track),
        "size": list(track.frames[0].shape[1::-1]) if track.frames else None,
        "frame": _table(shown_T),
        "actions": _table(track.actions_TD),
        "preferences": [_table(each) for each in track.preferences],
        "spread": None if track.spread_TD is None else _table(track.spread_TD),
        "values": _table(track.values_TV),
        "rewards": _table(track.rewards_T),
        "starts": _table(track.starts_T),
        "tasks": _table(track.tasks_T),
        "gates": {name: _table(gates_TE) for name, gates_TE in track.gates.items()},
        "strongest": {
            name: [track.strongest(name, k) for k in range(gates_TE.shape[1])]
            for name, gates_TE in track.gates.items()
        },
        "returns": [_number(each) for each in track.returns],
        "names": track.actions,
        "sleep": [
            {
                "layer": each.layer,
                "share": _number(each.share),
                "perExpert": [_number(share) for share in each.per_expert],
            }
            for each in track.sleep
        ],
    }


def _number(value: float) -> float | str:
    """Return what JSON has a word for, and others as the page writes them."""
    return value if math.isfinite(value) else str(value)


def _table(numbers: Any) -> dict[str, Any]:
    """Return numbers (T,) or (T, W) as the bytes of float32, little end first."""
    found_TW = np.asarray(numbers, "<f4")
    found_TW = found_TW.reshape(len(found_TW), -1)
    return {
        "width": found_TW.shape[1],
        "data": base64.b64encode(found_TW.tobytes()).decode(),
    }
