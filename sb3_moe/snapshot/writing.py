"""A snapshot on disk: a folder with all from which training goes on as if it had never stopped."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.files.atomic import temporary_name
from sb3_moe.snapshot.carried import Carried, get_carried
from sb3_moe.snapshot.env_state import SavedEnv, save_env
from sb3_moe.snapshot.generators import get_generators

MODEL, REPLAY_BUFFER, STATE = "model.zip", "replay_buffer.pkl", "state.pkl"


class RunState(NamedTuple):
    """What SB3's own ``save`` leaves out.

    :param algorithm: the model's class
    :param env: the training environment
    :param generators: of Python, numpy and torch
    :param action_space: with its generator, which DQN and warm-up draw from
    :param carried: what the next rollout takes over; None in a snapshot of version 0.1
    :param whole: False if training was ended in the middle of a rollout
    """

    algorithm: type[BaseAlgorithm]
    env: SavedEnv
    generators: dict[str, Any]
    action_space: Any
    carried: Carried | None = None
    whole: bool = True


def save_snapshot(
    model: BaseAlgorithm, path: Path, *, drawn: bool = True, whole: bool = True
) -> None:
    """Write a snapshot of a model that is about to start a rollout, or to end its training.

    :param model: with its environment
    :param path: a folder, which appears when it is whole
    :param drawn: False at the end of training, where no rollout has drawn gSDE's noise yet
    :param whole: False in the middle of a rollout, which then can't be gone on with exactly
    :raises ValueError: if the environment's state can't be saved
    """
    with _temporary(path) as temporary:
        _write(model, temporary, drawn=drawn, whole=whole)
        if isinstance(model, OffPolicyAlgorithm):
            model.save_replay_buffer(temporary / REPLAY_BUFFER)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)


def try_snapshot(model: BaseAlgorithm, folder: Path) -> None:
    """Find out whether snapshots can be written, and leave none.

    :param model: with its environment
    :param folder: of the snapshots
    :raises ValueError: if the environment, the model or its buffer can't be saved
    :raises OSError: if the folder can't be written to
    """
    try:
        with _temporary(folder / snapshot_name(model.num_timesteps)) as temporary:
            _write(model, temporary, drawn=False, whole=True)
    except OSError as error:
        raise type(error)(
            f"snapshots can't be written to {folder} ({error}): pass a `path` that can be written"
        ) from error
    if isinstance(model, OffPolicyAlgorithm):
        _try_buffer(model.replay_buffer)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which is gone afterwards unless it was renamed."""
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(model: BaseAlgorithm, folder: Path, *, drawn: bool, whole: bool) -> None:
    """Write all but the replay buffer."""
    env = model.get_env()
    assert isinstance(env, VecEnv)
    saved, carried = save_env(env), get_carried(model, drawn=drawn)
    generators = get_generators()
    state = RunState(type(model), saved, generators, model.action_space, carried, whole)
    # SB3 leaves a file open that it opened itself, if it fails.
    with _named("model"), (folder / MODEL).open("wb") as file:
        model.save(file)
        # Unlike pickle, this takes what was defined in a function too.
        (folder / STATE).write_bytes(cloudpickle.dumps(state))


class _WithoutArrays(pickle.Pickler):
    """Pickle all but the arrays, which are large and known to pickle."""

    def persistent_id(self, obj: Any) -> str | None:
        return "array" if isinstance(obj, np.ndarray | th.Tensor) else None


def _try_buffer(buffer: Any) -> None:
    with _named("replay buffer"), open(os.devnull, "wb") as nowhere:
        _WithoutArrays(nowhere).dump(buffer)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what it is that can't be pickled."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # what others' classes raise when they are pickled can be anything
        raise ValueError(
            f"the {what} can't be saved, since a part of it can't be pickled "
            f"({type(error).__name__}: {error}); define its class at the top of a module, or give "
            "that part a `__getstate__`"
        ) from error


def snapshots_in(folder: Path) -> list[Path]:
    """List the snapshots, oldest first; what else lies there isn't ours."""
    named = [path for path in folder.glob("step-*") if path.name[len("step-") :].isdecimal()]
    return sorted((path for path in named if path.is_dir()), key=step_of)


def snapshot_name(step: int) -> str:
    """Return the folder's name of a snapshot at so many global steps."""
    return f"step-{step:012d}"


def step_of(path: Path) -> int:
    """Return the global steps of a snapshot, from its folder's name."""
    return int(path.name.removeprefix("step-"))
