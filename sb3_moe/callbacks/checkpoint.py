"""Snapshots from which training goes on as if it had never stopped."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.env_state import SavedEnv, save_env
from sb3_moe.callbacks.generators import get_generators
from sb3_moe.callbacks.periodic import PeriodicCallback

MODEL, REPLAY_BUFFER, STATE = "model.zip", "replay_buffer.pkl", "state.pkl"


class RunState(NamedTuple):
    """What SB3's own ``save`` leaves out.

    :param algorithm: the model's class
    :param env: the training environment
    :param generators: of Python, numpy and torch
    :param action_space: with its generator, which DQN and warm-up draw from
    """

    algorithm: type[BaseAlgorithm]
    env: SavedEnv
    generators: dict[str, Any]
    action_space: Any


class SnapshotCallback(PeriodicCallback):
    """Save everything from which :func:`sb3_moe.resume` goes on, at the start of a rollout.

    A snapshot is a folder ``checkpoints/step-<global steps>`` with the model and its optimiser, the
    replay buffer, the environment with its schedule, normaliser and running episodes, and the
    random generators. It appears under its name when it is whole. Put this callback last in the
    list, so that it sees what the others did at the same step.

    When training starts, snapshots of later steps than the model's are removed: they belong to an
    earlier run in the same folder, or to what a resumed run is about to do again.

    :param every: global steps between snapshots
    :param path: the run's folder
    :param keep: how many of the latest snapshots stay, at least 1
    :param verbose: 1 prints each snapshot
    :raises ValueError: if a number is below 1, or the environment's state can't be saved
    """

    def __init__(self, every: int, path: str | Path, *, keep: int = 2, verbose: int = 0) -> None:
        super().__init__(every, verbose=verbose)
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1, got {keep}")
        self.folder = Path(path) / "checkpoints"
        self.keep = keep

    def _resume(self, step: int) -> int | None:
        for path in self.folder.glob("step-*"):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        # There is nothing to save before training, nor where a run has just been resumed.
        return step

    def act(self, step: int) -> bool:
        """Save, and remove what is older."""
        target = self.folder / f"step-{step:012d}"
        save_snapshot(self.model, target)
        for old in sorted(self.folder.glob("step-*"))[: -self.keep]:
            shutil.rmtree(old)
        if self.verbose:
            print(f"Snapshot at {step} steps: {target}")
        return True


def save_snapshot(model: BaseAlgorithm, path: Path) -> None:
    """Write a snapshot of a model that is about to start a rollout, or to end its training.

    :param model: with its environment
    :param path: a folder, which appears when it is whole
    :raises ValueError: if the environment's state can't be saved
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    env = model.get_env()
    assert isinstance(env, VecEnv)
    state = RunState(type(model), save_env(env), get_generators(), model.action_space)
    model.save(temporary / MODEL)
    if isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(temporary / REPLAY_BUFFER)
    (temporary / STATE).write_bytes(pickle.dumps(state))
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
