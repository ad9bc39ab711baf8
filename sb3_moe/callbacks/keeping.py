"""Keep snapshots and replays of a run while it goes on."""

import io
import sys
from pathlib import Path

import gymnasium as gym
from stable_baselines3.common.logger import TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.layers.checks import whole
from sb3_moe.saving.snapshot import (
    save_snapshot,
    snapshot_name,
    snapshots_in,
    step_of,
    try_snapshot,
)
from sb3_moe.watching.films import Sheet, save_gif
from sb3_moe.watching.recording import watch
from sb3_moe.watching.replays import Replay

FPS = 10
SIZE = 160


class SnapshotCallback(PeriodicCallback):
    """Save all that :func:`sb3_moe.resume` needs to go on, at the start of a rollout.

    A snapshot is a file ``checkpoints/step-<global steps>.zip``: SB3's zip of the model, to which
    are added the replay buffer, the environment with its schedule, normalizer and running episodes,
    and the states of the random generators. The file gets its name only when it is complete. Put
    this callback last in the list, so that a snapshot holds what the other callbacks did at the
    same step. Whether all this can be saved is tried before training starts.

    A model that stands at the step of one of the folder's snapshots, or beyond all of them,
    continues that run; snapshots of later steps are removed, since the run repeats these steps. Any
    other model, such as one that starts at step 0, belongs to another run and is refused.

    :param every: global steps between snapshots
    :param path: the run's folder
    :param keep: how many of the latest snapshots stay, at least 1
    :param overwrite: whether another run may start in the folder; that removes its snapshots
    :param verbose: 1 prints each snapshot
    :raises TypeError: if ``every`` is no number, or ``keep`` no int
    :raises ValueError: if a number is below 1, the environment, the model or its buffer can't be
        saved, or the folder holds another run's snapshots
    :raises OSError: if the folder can't be written to
    """

    def __init__(
        self,
        every: int,
        path: str | Path,
        *,
        keep: int = 2,
        overwrite: bool = False,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        whole("keep", keep)
        self.folder = Path(path) / "checkpoints"
        self.keep = keep
        self.overwrite = overwrite

    def _init_callback(self) -> None:
        # Check before training starts: only then do other callbacks change files of earlier runs.
        self._within_rollout = self._ended = False
        step = self.model.num_timesteps
        steps = [step_of(p) for p in snapshots_in(self.folder)]
        self._is_another_run = step not in steps and max(steps, default=0) > step
        if self._is_another_run and not self.overwrite:
            raise ValueError(
                f"{self.folder} holds snapshots of another run (the latest at step {steps[-1]}), "
                f"and this one is at step {step}: go on from them with sb3_moe.resume, choose "
                "another `path`, or pass `overwrite=True` to remove them"
            )
        try_snapshot(self.model, self.folder)

    def _resume(self, step: int) -> int | None:
        old = [p for p in snapshots_in(self.folder) if self._is_another_run or step_of(p) > step]
        for path in [*self.folder.glob(".step-*.tmp"), *old]:
            path.unlink()
        # As if a snapshot had just been saved: there is nothing new to save at the start of a run,
        # nor where one has just been resumed.
        return step

    def _on_rollout_start(self) -> None:
        self._within_rollout = True
        super()._on_rollout_start()

    def _on_rollout_end(self) -> None:
        self._within_rollout = False

    def _on_training_end(self) -> None:
        self._ended = True
        super()._on_training_end()

    def act(self, step: int) -> None:
        """Save a snapshot, and remove all but the latest ``keep``."""
        target = self.folder / snapshot_name(step)
        is_whole = not (self._ended and self._within_rollout)
        save_snapshot(self.model, target, drawn=not self._ended, whole=is_whole)
        for old in snapshots_in(self.folder)[: -self.keep]:
            old.unlink()
        self.say(f"Snapshot at {step} steps: {target}")


class ReplayCallback(PeriodicCallback):
    """Play every task every so many global steps, and keep a replay of it.

    Training is the same as without this callback: it plays in separate environments and leaves the
    random generators as they were. Each replay is a page, ``replay-<step>.html`` in ``log_path``.
    TensorBoard gets a film of each task, as ``replay/<number of the task>``, and a W&B run that is
    going on gets the page.

    :param every: global steps between replays
    :param env: where to play; None: an environment like the training one, if that can be built
        again
    :param episodes: episodes of each task
    :param max_steps: steps of each task, at most
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
        env: gym.Env | VecEnv | None = None,
        episodes: int = 1,
        max_steps: int = 200,
        deterministic: bool = True,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        whole("episodes", episodes)
        whole("max_steps", max_steps)
        self.env = env
        self.episodes = episodes
        self.max_steps = max_steps
        self.deterministic = deterministic
        self.log_path = None if log_path is None else Path(log_path)

    def act(self, step: int) -> None:
        """Play every task, and pass the replay to all outputs."""
        replay = watch(
            self.model,
            self.env,
            episodes=self.episodes,
            max_steps=self.max_steps,
            seed=self.model.seed or 0,
            deterministic=self.deterministic,
        )
        if self.log_path is not None:
            replay.save(self.log_path / f"replay-{step}.html")
        for board in self.logger.output_formats:
            if isinstance(board, TensorBoardOutputFormat):
                _show_films(replay, board, step)
        wandb = sys.modules.get("wandb")
        if wandb is not None and wandb.run is not None:
            # W&B would add a style sheet from its own server, which the page's policy forbids.
            page = wandb.Html(replay.to_html(), inject=False)
            wandb.log({"replay": page, "replay/step": step})


def _show_films(replay: Replay, board: TensorBoardOutputFormat, step: int) -> None:
    """Put a film of each task into TensorBoard, which shows GIFs as images."""
    # Write GIFs, because SB3's Video needs moviepy 1.
    from tensorboard.compat.proto.summary_pb2 import Summary

    sheet = Sheet(replay, SIZE)
    for k, track in enumerate(replay.runs[0].tracks):
        images = [sheet.draw(track, i) for i in range(len(track))]
        buffer = io.BytesIO()
        save_gif(buffer, images, FPS)
        width, height = images[0].size
        film = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        summary = Summary(value=[Summary.Value(tag=f"replay/{k}", image=film)])
        board.writer.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]
