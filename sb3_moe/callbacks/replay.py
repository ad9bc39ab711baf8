"""Watch the agent every so often while it trains."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.logger import Image, TensorBoardOutputFormat, Video
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.watching.record import watch
from sb3_moe.watching.replay import Replay, Track
from sb3_moe.watching.video import Sheet

FPS, SIZE = 10, 160


class ReplayCallback(PeriodicCallback):
    """Play every task every so many global steps, and keep a replay of it.

    Training is the same as without it: it plays in environments of its own and leaves the random
    generators as they were. The page goes to ``log_path`` as ``replay-<step>.html``; to TensorBoard
    goes a film of each task as ``replay/<number of the task>`` (the first step alone where moviepy
    is not installed), and to a running W&B the page.

    :param every: global steps between replays
    :param env: where to play; None: an environment like the training one, which must say how it is
        built
    :param episodes: of each task
    :param max_steps: of each task
    :param deterministic: as in ``predict``
    :param log_path: folder for the pages; None: none are kept
    :param verbose: 0 or 1
    :raises ValueError: if a number is below 1
    """

    def __init__(
        self,
        every: int,
        *,
        env: gym.Env[Any, Any] | VecEnv | None = None,
        episodes: int = 1,
        max_steps: int = 200,
        deterministic: bool = True,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        for name, number in (("episodes", episodes), ("max_steps", max_steps)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        self.env = env
        self.episodes = episodes
        self.max_steps = max_steps
        self.deterministic = deterministic
        self.log_path = None if log_path is None else Path(log_path)

    def act(self, step: int) -> bool:
        """Play, and hand on what was seen."""
        replay = watch(
            self.model,
            self.env,
            episodes=self.episodes,
            max_steps=self.max_steps,
            seed=self.model.seed or 0,
            deterministic=self.deterministic,
        )
        if self.log_path is not None:
            self.log_path.mkdir(parents=True, exist_ok=True)
            replay.save(self.log_path / f"replay-{step}.html")
        self._film(replay)
        _tell_wandb(replay, step)
        return True

    def _film(self, replay: Replay) -> None:
        # Only TensorBoard can show it.
        if not any(
            isinstance(each, TensorBoardOutputFormat) for each in self.logger.output_formats
        ):
            return
        sheet = Sheet(replay, SIZE)
        for k, track in enumerate(replay.runs[0].tracks):
            shown = _still(sheet, track) if find_spec("moviepy") is None else _video(sheet, track)
            self.logger.record(f"replay/{k}", shown, exclude=("stdout", "log", "json", "csv"))


def _still(sheet: Sheet, track: Track) -> Image:
    return Image(np.asarray(sheet.draw(track, 0)), "HWC")


def _video(sheet: Sheet, track: Track) -> Video:
    frames_THWC = np.stack([np.asarray(sheet.draw(track, step)) for step in range(len(track))])
    return Video(th.from_numpy(frames_THWC).permute(0, 3, 1, 2).unsqueeze(0), FPS)


def _tell_wandb(replay: Replay, step: int) -> None:
    """Log the page to W&B, if a program has a run of it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.log({"replay": wandb.Html(replay.to_html()), "replay/step": step})
