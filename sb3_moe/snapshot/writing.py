"""A snapshot on disk: a folder with all from which training goes on as if it had never stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.files.atomic import temporary_name
from sb3_moe.files.syncing import sync_file, sync_folder
from sb3_moe.generators import get_generators
from sb3_moe.snapshot import replay_file
from sb3_moe.snapshot.carried import get_carried
from sb3_moe.snapshot.env_state import save_env
from sb3_moe.snapshot.manifest import write_manifest
from sb3_moe.snapshot.model_file import attributes_of, write_model
from sb3_moe.snapshot.noise import noise_state
from sb3_moe.snapshot.run_state import RunState, write_state


def save_snapshot(
    model: BaseAlgorithm, path: str | Path, *, drawn: bool = True, whole: bool = True
) -> None:
    """Write a snapshot of a model that is about to start a rollout, or to end its training.

    :param model: with its environment
    :param path: a folder, which appears when it is whole
    :param drawn: False at the end of training, where no rollout has drawn gSDE's noise yet
    :param whole: False in the middle of a rollout, which then can't be gone on with exactly
    :raises ValueError: if the environment's state can't be saved
    :raises OSError: if it can't be written
    """
    path = Path(path)
    with _temporary(path) as temporary:
        _write(model, temporary, drawn=drawn, whole=whole)
        write_manifest(temporary, unhashed=(replay_file.SAFE,))
        _sync(temporary)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        sync_folder(path.parent)


def try_snapshot(model: BaseAlgorithm, folder: Path) -> None:
    """Find out whether snapshots can be written, and leave none.

    :param model: with its environment
    :param folder: of the snapshots
    :raises ValueError: if the environment, the model or its buffer can't be saved
    :raises OSError: if the folder can't be written to
    """
    try:
        with _temporary(folder / snapshot_name(model.num_timesteps)) as temporary:
            _write(model, temporary, drawn=False, whole=True, trial=True)
            write_manifest(temporary, unhashed=())
    except OSError as error:
        raise type(error)(
            f"snapshots can't be written to {folder} ({error}): pass a `path` that can be written"
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Give a folder to fill, which is gone afterwards unless it was renamed.

    It lies in one that nobody else can enter: what others put into it would be signed as well.
    """
    closed = temporary_name(path)
    try:
        closed.mkdir(parents=True, mode=0o700)
        temporary = closed / path.name
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(closed, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Put a folder on the disk: others may be removed because it is there."""
    for file in folder.iterdir():
        sync_file(file)
    sync_folder(folder)


def _write(
    model: BaseAlgorithm, folder: Path, *, drawn: bool, whole: bool, trial: bool = False
) -> None:
    """Write all but the manifest.

    :param trial: do without the replay buffer's rows
    """
    env = model.get_env()
    assert isinstance(env, VecEnv)
    saved, carried = save_env(env), get_carried(model, drawn=drawn)
    generators = get_generators()
    with _named("model"):
        safe = write_model(model, folder)
    sections: dict[str, Any] = {}
    if safe:
        sections = {"attributes": attributes_of(model), "noise": noise_state(model)}
    if isinstance(model, OffPolicyAlgorithm):
        with _named("replay buffer"):
            sections |= _write_buffer(model, folder, safe=safe, trial=trial)
    algorithm = None if safe else type(model)
    state = RunState(algorithm, saved, generators, model.action_space, carried, whole)
    with _named("model"):
        # Unlike pickle, cloudpickle takes what was defined in a function too.
        write_state(folder, state, sections)


def _write_buffer(
    model: OffPolicyAlgorithm, folder: Path, *, safe: bool, trial: bool
) -> dict[str, Any]:
    """Write a replay buffer, and return what there is to say of its rows."""
    if not (safe and replay_file.is_safe(model)):
        if trial:
            replay_file.try_pickling(model.replay_buffer)
        else:
            model.save_replay_buffer(folder / replay_file.PICKLED)
        return {}
    rows = {} if trial else replay_file.write_rows(model, folder)
    return {"rows": rows, "buffer": replay_file.buffer_attributes(model)}


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
