"""Train one cell of a study in its folder."""

from __future__ import annotations

import pickle
import time
import zipfile
import zlib
from pathlib import Path

import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    RoutingCallback,
    SnapshotCallback,
    TaskRolloutCallback,
)
from sb3_moe.snapshot.resuming import resume
from sb3_moe.study.run.folder import CellFolder, atomic
from sb3_moe.study.run.heartbeat import Heartbeat
from sb3_moe.study.run.learner import build, described, ppo_arguments
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.spec.config import CellConfig

# What loading raises if bytes are wrong, and not the code.
DAMAGE = (pickle.UnpicklingError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error)


def train_cell(cell: CellConfig, folder: CellFolder) -> None:
    """Train from the last snapshot that is whole, or from the start, to the end.

    :param cell: what to train
    :param folder: where its files go; ``done.json`` last
    :raises ValueError: if there are snapshots, but the scores don't reach to one
    :raises RuntimeError: if a snapshot is whole, but can't be loaded
    """
    th.set_num_threads(1)
    begun = time.monotonic()
    folder.start({"cell": cell.to_dict(), "ppo": described(ppo_arguments(cell)), **provenance()})
    model, env = _restored(cell, folder) or build(cell)
    start = model.num_timesteps
    logger = _logger(folder, start)
    model.set_logger(logger)
    try:
        model.learn(
            cell.total_steps - start,
            callback=_callbacks(cell, model, folder),
            reset_num_timesteps=False,
        )
    finally:
        logger.close()
        env.close()
    with atomic(folder.path / "model.zip") as temporary, temporary.open("wb") as file:
        model.save(file)
    attempt = {"start": start, "seconds": round(time.monotonic() - begun, 2)}
    folder.finish({"steps": model.num_timesteps, "last_attempt": attempt})


def _restored(cell: CellConfig, folder: CellFolder) -> tuple[PPO, VecEnv] | None:
    """Load the latest snapshot that can be, if there is one."""
    for snapshot in reversed(folder.snapshots()):
        try:
            return resume(snapshot, device=cell.device)
        except DAMAGE as error:
            print(f"{snapshot} is damaged: {error!r}")
        except Exception as error:
            raise RuntimeError(_cure(snapshot, error)) from error
    return None


def _cure(snapshot: Path, error: Exception) -> str:
    return (
        f"{snapshot.name} can't be gone on from ({type(error).__name__}: {error}); delete it to "
        "go on from an earlier one, or to start anew if there is none"
    )


def _logger(folder: CellFolder, start: int) -> Logger:
    """Log into a file of this attempt: SB3's CSV writer erases what it opens."""
    path = folder.path / f"progress-{start:09d}.csv"
    return Logger(str(folder.path), [CSVOutputFormat(str(path))])


def _callbacks(cell: CellConfig, model: PPO, folder: CellFolder) -> list[BaseCallback]:
    """Evaluate every task and look inside the network, as often as the cell says."""
    path = folder.path
    every = max(1, cell.steps_per_task // cell.evaluation.points)
    snapshots = max(1, cell.total_steps // (cell.checkpoints + 1))
    callbacks: list[BaseCallback] = [
        MultiTaskEvalCallback(
            every,
            cell.evaluation.episodes,
            deterministic=cell.evaluation.deterministic,
            log_path=path,
        ),
        PlasticityCallback(every, ntk_size=0, log_path=path),
        TaskRolloutCallback(),
        Heartbeat(path / "live.json", cell.total_steps),
    ]
    if getattr(model.policy, "moe_layers", dict)():
        callbacks.append(RoutingCallback(every, log_path=path))
    # Last, so that a snapshot is of everything that the others did at its step.
    # Two, so that there is another if one is damaged.
    # A run starts anew only where no snapshot can be gone on from.
    return [*callbacks, SnapshotCallback(snapshots, path, keep=2, overwrite=True)]
