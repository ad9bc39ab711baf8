"""Go on with a run from a snapshot."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.generators import set_generators
from sb3_moe.saving.devices import check_device
from sb3_moe.saving.errors import blaming
from sb3_moe.snapshot import old, replay_file
from sb3_moe.snapshot.carried import keep_action_noise, set_carried
from sb3_moe.snapshot.env_state import load_env
from sb3_moe.snapshot.manifest import MANIFEST, DamagedError, Manifest
from sb3_moe.snapshot.model_file import load_pickled, read_model
from sb3_moe.snapshot.noise import set_noise
from sb3_moe.snapshot.run_state import STATE, RunState, read_state
from sb3_moe.snapshot.writing import snapshots_in
from sb3_moe.vec_env.replay_buffers import end_running_episodes


def resume(
    path: str | Path, device: th.device | str = "auto", *, trust: bool = False
) -> tuple[Any, VecEnv]:
    """Return the model and the environment of a snapshot, as they were.

    Go on with ``model.learn(total - model.num_timesteps, reset_num_timesteps=False)``: on a CPU the
    weights are then bit for bit those of a run that was never stopped, for every on- and off-policy
    algorithm of SB3 and sb3-contrib, with recurrent state, action noise, gSDE and every replay
    buffer. Where that can't be, a warning says what is not the same: a task has no state to be
    saved, training was ended in the middle of a rollout, the device or the algorithm is another
    (ARS).

    :param path: a snapshot of :class:`~sb3_moe.callbacks.SnapshotCallback`, or the folder of a
        run, or of its snapshots, for the latest one; with a warning for the one before where that
        is not what the run wrote
    :param device: as in SB3's ``load``
    :param trust: read a snapshot that your own runs did not sign, such as another user's or one of
        an earlier version: it can run code. Your own are signed with a key that is made at first
        use, ``~/.config/sb3_moe/key`` or the file that ``SB3_MOE_KEY_FILE`` names.
    :raises ValueError: if there is no snapshot, or no such ``device``
    :raises UnsafeFileError: if it is not signed with your key, or not what the run wrote
    :return: the model, of the class that was trained, and its environment
    """
    check_device(device)
    folder = _latest(Path(path), trust=trust)
    read = _read_old if old.is_old(folder) else _read
    state, model, env = read(folder, device, trust=trust)
    goes_on = state.env.exact and state.whole
    if isinstance(model, OffPolicyAlgorithm) and not goes_on:
        end_running_episodes(model.replay_buffer)
    for reason in _inexact(model, state):
        warnings.warn(
            f"{reason}, and the run is not the same, step by step, as one that was never stopped",
            stacklevel=2,
        )
    if state.carried is not None:
        set_carried(model, state.carried)
    if goes_on:
        keep_action_noise(model)
        # The next reset is no first one: a seed would rewind the schedule.
        env.unwrapped._reset_seeds()
    else:
        model._last_obs = None
    with blaming(folder):
        _restore_generators(model, env, state)
    return model, env


def _inexact(model: BaseAlgorithm, state: RunState) -> Iterator[str]:
    """Say what is not as it was."""
    if not state.env.exact:
        yield "a task of this run has no state that can be saved: it starts a new episode"
    if not state.whole:
        yield "training was ended in the middle of a rollout: that rollout is lost"
    if not isinstance(model, OnPolicyAlgorithm | OffPolicyAlgorithm):
        yield f"{type(model).__name__} draws random numbers before a snapshot can be taken"
    if state.carried is not None and state.carried.device != model.device.type:
        yield f"it was trained on {state.carried.device} and goes on on {model.device.type}"
    if state.carried is None and (model.use_sde or hasattr(model, "_last_lstm_states")):
        yield "version 0.1 saved neither a recurrent state nor gSDE's noise: they start anew"


def _read(folder: Path, device: th.device | str, *, trust: bool) -> tuple[RunState, Any, VecEnv]:
    """Read what the folder's manifest lists."""
    manifest = Manifest(folder, trust=trust)
    state, sections = read_state(manifest)
    env = load_env(state.env)
    model = read_model(manifest, state.algorithm, env, device)
    vars(model).update(sections.get("attributes", {}))
    set_noise(model, sections.get("noise", {}))
    if replay_file.SAFE in manifest:
        replay_file.read_rows(model, manifest, sections["rows"], sections["buffer"])
    elif replay_file.PICKLED in manifest:
        replay_file.read_pickled(model, manifest.read(replay_file.PICKLED))
    return state, model, env


def _read_old(
    folder: Path, device: th.device | str, *, trust: bool
) -> tuple[RunState, Any, VecEnv]:
    """Read what an earlier version wrote."""
    state = old.read_old_state(folder, trust=trust)
    env = load_env(state.env)
    assert state.algorithm is not None
    model = load_pickled(state.algorithm, folder / old.MODEL, env, device)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(folder / old.REPLAY_BUFFER, truncate_last_traj=False)
    return state, model, env


def _restore_generators(model: BaseAlgorithm, env: VecEnv, state: RunState) -> None:
    """Undo the seeding of ``load``; last, since everything before may draw from the generators."""
    model.action_space = state.action_space
    if state.carried is not None and state.carried.shares_space:
        vars(env.action_space).update(vars(state.action_space))
        model.action_space = env.action_space
    set_generators(state.generators)


def _latest(path: Path, *, trust: bool) -> Path:
    """Return the folder of the snapshot that a path means."""
    if not path.exists():
        raise ValueError(f"`path` must be a snapshot's folder, or a run's: {path} doesn't exist")
    if path.is_file():
        raise ValueError(
            f"`path` must be a snapshot's folder, or a run's, got the file {path}; a model alone "
            "is opened by sb3_moe.load, or by its algorithm's load"
        )
    if any((path / name).exists() for name in (MANIFEST, STATE, old.STATE)):
        return path
    all_of_run = snapshots_in(path / "checkpoints") or snapshots_in(path)
    if not all_of_run:
        raise ValueError(
            f"{path} has no snapshot; train with SnapshotCallback(every=..., path=folder) to get "
            "one"
        )
    return _latest_whole(all_of_run, trust=trust)


def _latest_whole(snapshots: list[Path], *, trust: bool) -> Path:
    """Return the latest snapshot that is what the run wrote, or the first if none is.

    :raises UntrustedError: if one may not be read at all
    """
    for latest, before in pairwise(reversed(snapshots)):
        if old.is_old(latest):
            return latest
        try:
            Manifest(latest, trust=trust).check_all()
        except DamagedError as error:
            warnings.warn(f"{error}: the run goes on from {before.name}", stacklevel=4)
        else:
            return latest
    return snapshots[0]
