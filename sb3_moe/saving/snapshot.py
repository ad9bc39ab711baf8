"""Snapshots of a run on disk, from which training goes on as if it had never stopped."""

import copy
import io
import pickle
import random
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import MethodType
from typing import Any

import cloudpickle
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.saving.environment import UnknownEnvError, load_env, save_env
from sb3_moe.saving.files import atomic
from sb3_moe.saving.model_parts import SCHEDULES, moved
from sb3_moe.vec_env.observations import map_observation
from sb3_moe.vec_env.replay_buffers import end_running_episodes

# Entries that a snapshot has besides those of SB3's zip of the model.
_STATE = "state.pkl"
_REPLAY_BUFFER = "replay_buffer.pkl"
# Arrays of a buffer with a row for each transition; HER's last two say where its episode begins,
# and how long it is.
_ROWS = (
    "observations", "next_observations", "actions", "rewards", "dones", "timeouts",
    "ep_start", "ep_length",
)  # fmt: skip
# Attributes in which gSDE's distribution keeps the noise that was drawn.
_MATRICES = ("exploration_mat", "exploration_matrices")


class DamagedError(ValueError):
    """A file is damaged, or is no snapshot of a run."""


def save_snapshot(
    model: BaseAlgorithm, path: str | Path, *, drawn: bool = True, whole: bool = True
) -> None:
    """Write a snapshot of a model that is about to start a rollout, or to end its training.

    The file is SB3's zip of the model, with the rest of the run in it; SB3's ``load`` opens it too.

    :param model: with its environment
    :param path: the file, which ends in ``.zip``; an older one stays until the new one is whole
    :param drawn: whether the next rollout has drawn gSDE's noise already; False at the end of
        training
    :param whole: False in the middle of a rollout, from which training can't go on exactly
    :raises ValueError: if the environment, the model or its buffer can't be saved
    :raises OSError: naming the file, if it can't be written
    """
    with atomic(Path(path)) as temporary:
        _write(model, temporary, drawn=drawn, whole=whole)


def try_snapshot(model: BaseAlgorithm, folder: Path) -> None:
    """Check that snapshots can be written, by a trial that is removed again.

    :param model: with its environment
    :param folder: the folder of the snapshots
    :raises ValueError: if the environment, the model or its buffer can't be saved
    :raises OSError: if the folder can't be written to
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as trial:
            _write(model, Path(trial, "trial.zip"), drawn=False, whole=True, with_rows=False)
    except OSError as error:
        raise type(error)(
            f"snapshots can't be written to {folder} ({error}): pass a `path` that can be written"
        ) from error


def snapshots_in(folder: Path) -> list[Path]:
    """List the snapshots in a folder, oldest first; all other files are ignored."""
    named = [path for path in folder.glob("step-*.zip") if path.stem[len("step-") :].isdecimal()]
    return sorted(named, key=step_of)


def snapshot_name(step: int) -> str:
    """Return the file name of a snapshot at a global step."""
    return f"step-{step:012d}.zip"


def step_of(path: Path) -> int:
    """Return the global step of a snapshot, from its file's name."""
    return int(path.stem.removeprefix("step-"))


def _write(
    model: BaseAlgorithm, path: Path, *, drawn: bool, whole: bool, with_rows: bool = True
) -> None:
    env = model.get_env()
    assert env is not None
    with _pickled("environment"):
        saved_env = save_env(env)
    state = {
        "algorithm": type(model),
        "env": saved_env,
        "rollout": _rollout_state(model, drawn=drawn),
        "whole": whole,
        "device": model.device.type,
        "action_space": model.action_space,
        # Whether model and environment draw from the same action space object.
        "shares_space": model.action_space is env.action_space,
        "generators": get_generators(),
    }
    zipped = io.BytesIO()  # in memory first: torch raises another error on a full disk
    with _pickled("model"):
        model.save(zipped)
        # Unlike pickle, cloudpickle takes classes that are defined in a function too.
        pickled = cloudpickle.dumps(state)
    path.write_bytes(zipped.getvalue())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_STATE, pickled)
        if isinstance(model, OffPolicyAlgorithm):
            buffer: Any = model.replay_buffer
            buffer = _resize(copy.copy(buffer), _rows_written(buffer) if with_rows else 0)
            entry = archive.open(_REPLAY_BUFFER, "w", force_zip64=True)
            with _pickled("replay buffer"), entry as file:
                pickle.dump(buffer, file, protocol=pickle.HIGHEST_PROTOCOL)


@contextmanager
def _pickled(what: str) -> Iterator[None]:
    """Name the part that can't be pickled; classes of the user's own may raise any error then."""
    try:
        yield
    except (OSError, UnknownEnvError):
        raise
    except Exception as error:
        raise ValueError(
            f"the {what} can't be saved, since a part of it can't be pickled "
            f"({type(error).__name__}: {error}); define its class at the top of a module, or give "
            "that part a `__getstate__`"
        ) from error


def check_snapshot(path: Path) -> None:
    """Compare a snapshot with its checksums: a disk may have failed, or a copy ended early.

    :raises DamagedError: naming the file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            reason = archive.testzip()
            if _STATE not in archive.namelist():
                reason = "it is a model alone, which its algorithm's load opens"
    except Exception as error:  # a damaged file can raise anything
        reason = str(error)
    if reason is not None:
        raise DamagedError(f"{path.name} is not what SnapshotCallback wrote: {reason}")


def resume(path: str | Path, device: th.device | str = "auto") -> tuple[Any, VecEnv]:
    """Return the model and the environment of a snapshot, as they were.

    A snapshot holds pickles, which can run code: like SB3's ``load``, ``resume`` trusts whoever
    wrote it.

    Go on with ``model.learn(total - model.num_timesteps, reset_num_timesteps=False)``: on a CPU the
    weights are then bit for bit those of a run that was never stopped, for every on- and off-policy
    algorithm of SB3 and sb3-contrib, with recurrent state, action noise, gSDE and every replay
    buffer. Where that is not possible, a warning says why: a task has no state that can be saved,
    training was ended in the middle of a rollout, the device is another, or the algorithm is
    neither on- nor off-policy (ARS).

    :param path: a snapshot of :class:`~sb3_moe.callbacks.SnapshotCallback`, or the folder of a run
        or of its snapshots, whose latest snapshot is taken; if that is damaged, the one before it
        is, with a warning
    :param device: as in SB3's ``load``
    :raises ValueError: if there is no snapshot, or it is damaged
    :raises RuntimeError: if torch has no such ``device``
    :return: the model, of the class that was trained, and its environment
    """
    th.empty(0, device=get_device(device))
    path = _latest(Path(path))
    check_snapshot(path)
    with zipfile.ZipFile(path) as archive:
        state = pickle.loads(archive.read(_STATE))
        env, exact = load_env(state["env"])
        model = _load_model(state["algorithm"], path, archive, env, device)
    _set_rollout_state(model, state["rollout"])
    for reason in _inexact(model, state, exact):
        warnings.warn(
            f"{reason}, and the run is not the same, step by step, as one that was never stopped",
            stacklevel=2,
        )
    if exact and state["whole"]:
        if model.action_noise is not None:
            _skip_next(model.action_noise, "reset")
        # Loading may have seeded the environment: the next reset would restart its task schedule.
        env.unwrapped._reset_seeds()
    else:
        model._last_obs = None
        _keep_schedules(env)
        if isinstance(model, OffPolicyAlgorithm):
            end_running_episodes(model.replay_buffer)
    # Last, since everything before may draw from the generators.
    model.action_space = state["action_space"]
    if state["shares_space"]:
        vars(env.action_space).update(vars(model.action_space))
        model.action_space = env.action_space
    set_generators(state["generators"])
    return model, env


def _keep_schedules(env: VecEnv) -> None:
    """Let the next reset start new episodes, but no task schedule, although it has a seed."""
    for each in getattr(env.unwrapped, "envs", ()):
        base: Any = each.unwrapped
        if hasattr(base, "state_dict") and hasattr(base, "load_state_dict"):
            base.load_state_dict(base.state_dict())  # after which it ignores a seed


def _load_model(
    algorithm: type[BaseAlgorithm], path: Path, archive: zipfile.ZipFile, env: VecEnv, device: Any
) -> Any:
    with warnings.catch_warnings():
        # SB3 chose this buffer class itself, but takes it for the user's choice and warns.
        warnings.filterwarnings("ignore", r"`n_steps=\d+` is ignored .*\(`NStepReplayBuffer`\)")
        model: Any = algorithm.load(path, env=env, device=device, force_reset=False)
    if _REPLAY_BUFFER in archive.namelist():
        with archive.open(_REPLAY_BUFFER) as file:
            reader = io.BufferedReader(file)  # type: ignore[type-var]  # what SB3 takes
            model.load_replay_buffer(reader, truncate_last_traj=False)
        _resize(model.replay_buffer, model.replay_buffer.buffer_size)
    return model


def _inexact(model: BaseAlgorithm, state: dict[str, Any], exact: bool) -> Iterator[str]:
    """Yield the reasons why the resumed run is not exactly the same."""
    if not exact:
        yield "a task of this run has no state that can be saved: it starts a new episode"
    if not state["whole"]:
        yield "training was ended in the middle of a rollout: that rollout is lost"
    if not isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm):
        yield f"{type(model).__name__} draws random numbers before a snapshot can be taken"
    if state["device"] != model.device.type:
        yield f"it was trained on {state['device']} and goes on on {model.device.type}"


def _latest(path: Path) -> Path:
    """Return the snapshot at a path, or the latest undamaged one in a folder."""
    if path.is_file():
        return path
    snapshots = snapshots_in(path / "checkpoints") or snapshots_in(path)
    if not snapshots:
        raise ValueError(
            f"`path` must be a snapshot, or the folder of a run with some, got {path}: train with "
            "SnapshotCallback(every=..., path=folder) to get them"
        )
    for latest, before in pairwise(reversed(snapshots)):
        try:
            check_snapshot(latest)
        except DamagedError as error:
            warnings.warn(f"{error}: the run goes on from {before.name}", stacklevel=3)
        else:
            return latest
    return snapshots[0]


# A replay buffer is written without the rows that hold nothing yet.


def _rows_written(buffer: Any) -> int:
    """Return how many rows of a buffer hold something.

    With ``optimize_memory_usage`` the row after the last transition holds its next observation.
    """
    size = int(buffer.buffer_size)
    return size if buffer.full else min(buffer.pos + 1, size)


def _resize(buffer: Any, rows: int) -> Any:
    """Cut or extend a replay buffer's arrays to a number of rows, and return the buffer."""

    def resized(array: Any) -> Any:
        if len(array) >= rows:
            return array[:rows]
        shape = (rows, *array.shape[1:])
        is_numpy = isinstance(array, np.ndarray)
        whole = np.zeros(shape, array.dtype) if is_numpy else array.new_zeros(shape)
        whole[: len(array)] = array
        return whole

    for name in _ROWS:
        if name in vars(buffer):
            vars(buffer)[name] = map_observation(resized, vars(buffer)[name])
    return buffer


# State that SB3 makes anew when it goes on with a saved model. `load` drops the recurrent state and
# schedules that a callback changed. `learn` begins by resetting the action noise. A rollout begins
# by drawing gSDE's noise, before callbacks save: a resumed run would draw it a second time.


def _rollout_state(model: BaseAlgorithm, *, drawn: bool) -> dict[str, dict[str, Any]]:
    """Return the state that the next rollout starts from, on the CPU.

    :param model: with its environment
    :param drawn: whether that rollout has drawn gSDE's noise already
    """
    found = vars(model)
    kept = [name for name in found if name.startswith("_last_") or name in SCHEDULES]
    owner = _sde_owner(model)
    noise = vars(owner.action_dist) if owner is not None and drawn else {}
    state = {
        "model": {name: found[name] for name in kept},
        "sde": {name: noise[name].detach() for name in _MATRICES if name in noise},
    }
    return moved(state, "cpu")


def _set_rollout_state(model: BaseAlgorithm, state: dict[str, dict[str, Any]]) -> None:
    """Put back the state that the next rollout starts from.

    :param model: as loaded
    :param state: what :func:`_rollout_state` returned
    """
    state = moved(state, model.device)
    vars(model).update(state["model"])
    owner = _sde_owner(model)
    if owner is not None and state["sde"]:
        vars(owner.action_dist).update(state["sde"])
        _skip_next(owner.action_dist, "sample_weights")


def _skip_next(of: Any, method: str) -> None:
    """Let the next call of an object's method do nothing."""

    def skip(self: Any, *args: Any, **kwargs: Any) -> None:
        delattr(self, method)

    vars(of)[method] = MethodType(skip, of)


def _sde_owner(model: BaseAlgorithm) -> Any:
    """Return the module that explores with gSDE, if there is one."""
    owner = getattr(model, "actor", model.policy)
    is_sde = isinstance(getattr(owner, "action_dist", None), StateDependentNoiseDistribution)
    return owner if is_sde else None


# The states of the random generators that training draws from.


def get_generators() -> dict[str, Any]:
    """Return the states of the generators of Python, numpy and torch."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_initialized() else [],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Put the generators into states that :func:`get_generators` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    th.set_rng_state(state["torch"])
    # States of devices that this machine lacks are left out.
    for device, each in enumerate(state["cuda"][: th.cuda.device_count()]):
        th.cuda.set_rng_state(each, device)


@contextmanager
def preserved_generators(*others: np.random.Generator) -> Iterator[None]:
    """Leave the generators as they were, so that a measurement does not change what follows.

    :param others: generators besides those of Python, numpy and torch, such as an action space's
    """
    state = get_generators()
    other_states = [each.bit_generator.state for each in others]
    try:
        yield
    finally:
        set_generators(state)
        for each, other_state in zip(others, other_states, strict=True):
            each.bit_generator.state = other_state
