"""Go on with a run from a snapshot."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.callbacks.checkpoint import MODEL, REPLAY_BUFFER, STATE, RunState
from sb3_moe.callbacks.env_state import load_env
from sb3_moe.callbacks.generators import set_generators


def resume(path: str | Path, device: th.device | str = "auto") -> tuple[Any, VecEnv]:
    """Return the model and the environment of a snapshot, as they were.

    Go on with ``model.learn(total - model.num_timesteps, reset_num_timesteps=False)``: the weights
    are then bit for bit those of a run that was never stopped, unless a task has no state to be
    saved (a warning says so) or the policy draws gSDE noise.

    :param path: a snapshot of :class:`~sb3_moe.callbacks.SnapshotCallback`, or the folder of a
        run, for its latest one
    :param device: as in SB3's ``load``
    :raises ValueError: if there is no snapshot
    :return: the model, of the class that was trained, and its environment
    """
    folder = _latest(Path(path))
    # Only what one's own runs wrote is read: unpickling, as SB3's load does too, runs code.
    state: RunState = pickle.loads((folder / STATE).read_bytes())
    env = load_env(state.env)
    model = state.algorithm.load(folder / MODEL, env=env, device=device, force_reset=False)
    if isinstance(model, OffPolicyAlgorithm):
        model.load_replay_buffer(folder / REPLAY_BUFFER)
    if not state.env.exact:
        warnings.warn(
            "a task of this run has no state that can be saved: it starts a new episode, and the "
            "run is not the same, step by step, as one that was never stopped",
            stacklevel=2,
        )
        model._last_obs = None
    _restore_generators(model, state)
    return model, env


def _restore_generators(model: Any, state: RunState) -> None:
    """Undo the seeding of ``load``; last, since everything before may draw from the generators."""
    model.action_space = state.action_space
    set_generators(state.generators)


def _latest(path: Path) -> Path:
    if (path / STATE).exists():
        return path
    snapshots = sorted((path / "checkpoints").glob("step-*"))
    if not snapshots:
        raise ValueError(
            f"{path} has no snapshot; train with SnapshotCallback(every=..., path=folder) to get "
            "one"
        )
    return snapshots[-1]
