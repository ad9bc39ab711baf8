"""Go on with a run from a snapshot."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from sb3_moe.buffers.hindsight import end_running_episodes
from sb3_moe.snapshot.carried import keep_action_noise, set_carried
from sb3_moe.snapshot.env_state import load_env
from sb3_moe.snapshot.generators import set_generators
from sb3_moe.snapshot.writing import MODEL, REPLAY_BUFFER, STATE, RunState, snapshots_in


def resume(path: str | Path, device: th.device | str = "auto") -> tuple[Any, VecEnv]:
    """Return the model and the environment of a snapshot, as they were.

    Go on with ``model.learn(total - model.num_timesteps, reset_num_timesteps=False)``: on a CPU the
    weights are then bit for bit those of a run that was never stopped, for every on- and off-policy
    algorithm of SB3 and sb3-contrib, with recurrent state, action noise, gSDE and every replay
    buffer. Where that can't be, a warning says what is not the same: a task has no state to be
    saved, training was ended in the middle of a rollout, the device or the algorithm is another
    (ARS).

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
    model = _load_model(state.algorithm, folder / MODEL, env, device)
    goes_on = state.env.exact and state.whole
    if isinstance(model, OffPolicyAlgorithm):
        _load_buffer(model, folder / REPLAY_BUFFER, goes_on=goes_on)
    for reason in _inexact(model, state):
        warnings.warn(
            f"{reason}, and the run is not the same, step by step, as one that was never stopped",
            stacklevel=2,
        )
    if state.carried is not None:
        set_carried(model, state.carried)
    if goes_on:
        keep_action_noise(model)
    else:
        model._last_obs = None
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


def _load_model(
    algorithm: type[BaseAlgorithm], path: Path, env: VecEnv, device: th.device | str
) -> Any:
    with warnings.catch_warnings():
        # SB3 takes the class that it chose itself, with its arguments, for one of the user's.
        warnings.filterwarnings("ignore", r"`n_steps=\d+` is ignored .*\(`NStepReplayBuffer`\)")
        return algorithm.load(path, env=env, device=device, force_reset=False)


def _load_buffer(model: OffPolicyAlgorithm, path: Path, *, goes_on: bool) -> None:
    """Load the replay buffer; HER's and others' episodes that don't go on are cut there."""
    model.load_replay_buffer(path, truncate_last_traj=False)
    buffer: Any = model.replay_buffer
    if goes_on or not buffer.size():
        return
    if isinstance(buffer, HerReplayBuffer):
        end_running_episodes(buffer)
        return
    # Steps that are kept as n-step returns or without their next observation must not run on.
    last = buffer.pos - 1
    buffer.timeouts[last][buffer.dones[last] == 0] = 1
    if buffer.optimize_memory_usage:
        buffer.dones[last] = 1


def _restore_generators(model: BaseAlgorithm, env: VecEnv, state: RunState) -> None:
    """Undo the seeding of ``load``; last, since everything before may draw from the generators."""
    model.action_space = state.action_space
    if state.carried is not None and state.carried.shares_space:
        vars(env.action_space).update(vars(state.action_space))
        model.action_space = env.action_space
    set_generators(state.generators)


def _latest(path: Path) -> Path:
    if (path / STATE).exists():
        return path
    all_of_run = snapshots_in(path / "checkpoints")
    if not all_of_run:
        raise ValueError(
            f"{path} has no snapshot; train with SnapshotCallback(every=..., path=folder) to get "
            "one"
        )
    return all_of_run[-1]
