"""Watch the agent every so often while it trains."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.layers.checks import whole
from sb3_moe.watching.films import Sheet, save_gif
from sb3_moe.watching.recording import watch
from sb3_moe.watching.replays import Replay, Track

FPS, SIZE = 10, 160


class ReplayCallback(PeriodicCallback):
    """Play every task every so many global steps, and keep a replay of it.

    Training is the same as without it: it plays in environments of its own and leaves the random
    generators as they were. The page goes to ``log_path`` as ``replay-<step>.html``; to TensorBoard
    goes a film of each task as ``replay/<number of the task>``, and to a running W&B the page.

    :param every: global steps between replays
    :param env: where to play; None: an environment like the training one, which must say how it is
        built
    :param episodes: of each task
    :param max_steps: of each task
    :param deterministic: as in ``predict``
    :param log_path: folder for the pages; None: none are kept
    :param verbose: 0 or 1
    :raises TypeError: if a number isn't a whole one
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
            whole(name, number)
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
        self._film(replay, step)
        _tell_wandb(replay, step)
        return True

    def _film(self, replay: Replay, step: int) -> None:
        """Put a film of each task into TensorBoard, which shows GIFs as pictures."""
        formats = self.logger.output_formats
        boards = [each for each in formats if isinstance(each, TensorBoardOutputFormat)]
        if not boards:
            return
        sheet = Sheet(replay, SIZE)
        for k, track in enumerate(replay.runs[0].tracks):
            film = _film_of(sheet, track, f"replay/{k}")
            for board in boards:
                board.writer.file_writer.add_summary(film, step)  # type: ignore[attr-defined]


def _film_of(sheet: Sheet, track: Track, tag: str) -> Any:
    """Return a film as TensorBoard keeps it."""
    # SB3's own Video takes moviepy 1.
    from tensorboard.compat.proto.summary_pb2 import Summary

    pictures, buffer = [sheet.draw(track, step) for step in range(len(track))], io.BytesIO()
    save_gif(buffer, pictures, FPS)
    width, height = pictures[0].size
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _tell_wandb(replay: Replay, step: int) -> None:
    """Log the page to W&B, if a program has a run of it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        # It would inject a style sheet of its own, from its network, which the page refuses.
        page = wandb.Html(replay.to_html(), inject=False)
        wandb.log({"replay": page, "replay/step": step})
