"""Whether the networks of a study can be built, and how fast they train, before any run starts."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.measures.activations import policy_activations
from sb3_moe.saving.files import read_json
from sb3_moe.study.run.cell import build_env, build_model
from sb3_moe.study.run.jobs import Job
from sb3_moe.study.run.starting import begin_with, take_over
from sb3_moe.study.spec.algorithms import arguments_of, default_of, is_off_policy
from sb3_moe.study.spec.components import build_callbacks, schedule_of
from sb3_moe.study.spec.config import CellConfig

# PPO wants more than one sample to a rollout, whatever `n_steps` is.
N_ENVS = 2
# Transitions that a replay buffer has room for.
SMALL = 100
ENOUGH = 10_000
# Minibatches in a rehearsed rollout: the time per step hardly depends on how long rollouts are.
MINIBATCHES = 4


def check_networks(cells: Sequence[CellConfig]) -> None:
    """Build the algorithm with each architecture, in the spaces of all tasks, and let it act once.

    :param cells: of one study, one at least
    :raises ValueError: naming the architecture, and why it can't be built, or the actions that the
        algorithm can't take
    """
    from sb3_moe_envs.schedules import Cycle

    games = cells[0].games
    env = build_env(cells[0], N_ENVS, 0, Cycle(1, order=games[:1]))
    try:
        try:
            build_model(cells[0], env, device="cpu", _init_setup_model=False)
        except AssertionError as error:
            name = cells[0].algorithm
            raise ValueError(f"`algorithm` {name} can't be trained here: {error}") from error
        built: dict[str, BaseAlgorithm] = {}
        for name, cell in {cell.architecture.name: cell for cell in cells}.items():
            try:
                built[name] = _build(cell, env)
                callbacks = _callbacks(cell)
                _check_start(cell, built)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error
            for callback in callbacks:
                _check_callback(callback, built[name], name)
    finally:
        env.close()


def _build(cell: CellConfig, env: VecEnv) -> BaseAlgorithm:
    arguments = arguments_of(cell)
    if is_off_policy(cell.algorithm):
        # What it would hold isn't needed, and may be more than there is room for.
        arguments["buffer_size"] = SMALL
    with warnings.catch_warnings():
        # That a batch is larger than a rollout is so with two parallel environments only.
        warnings.simplefilter("ignore")
        model = build_model(cell, env, device="cpu", **arguments)
    # Some policies can be built in spaces that they can't see.
    obs: Any = model.observation_space.sample()
    model.predict(obs)
    policy: Any = model.policy
    if isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "_last_lstm_states"):
        with th.no_grad():  # what a rollout calls
            policy(policy.obs_to_tensor(obs)[0])
    policy_activations(policy, obs)  # which every run measures from its first step on
    return model


def _callbacks(cell: CellConfig) -> list[BaseCallback]:
    with TemporaryDirectory() as folder:
        return build_callbacks([*cell.callbacks, *cell.architecture.callbacks], Path(folder))


def _check_start(cell: CellConfig, built: Mapping[str, BaseAlgorithm]) -> None:
    """Try what a network will begin with, where it is there already.

    :param built: new models of the networks so far, which starts are among: they come first
    """
    start = cell.architecture.start_from
    if start is None:
        return
    model = built[cell.architecture.name]
    if start.model is not None:
        begin_with(model, cell, Path(start.model))
    elif start.architecture is not None and start.architecture in built:
        take_over(model, built[start.architecture], start, cell.architecture.name)


def _check_callback(callback: BaseCallback, model: BaseAlgorithm, architecture: str) -> None:
    """Ask a callback that can say it, the user's own too, whether it takes the model.

    No more of it is called: at the model's step 0 it might find the files of a run that goes on.
    """
    check = getattr(callback, "check_model", None)
    if not callable(check):
        return
    try:
        check(model)
    except Exception as error:  # the user's own may raise anything
        why = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"architecture {architecture!r} can't have {type(callback).__name__}: {why} (the "
            "study's `callbacks` are for every architecture, its own for it alone)"
        ) from error


class Pace(NamedTuple):
    """How long a network's runs take.

    :param rate: environment steps per second, evaluation included
    :param start: seconds before the first step
    """

    rate: float
    start: float = 0.0


def past_pace(job: Job) -> Pace | None:
    """Give the pace of a run's last attempt; None if it isn't done, or had nothing left to do."""
    if job.state.status != "done":
        return None
    done = read_json(job.folder.path / "done.json")
    attempt = done["last_attempt"]
    steps = done["steps"] - attempt["start"]
    return Pace(steps / max(attempt["seconds"], 1e-2)) if steps else None


def rehearsed_pace(cell: CellConfig, seconds: float) -> Pace:
    """Train a network for a moment in this process, and say how fast its runs would be.

    :param cell: a run of the network
    :param seconds: to train, if that is enough for two updates
    """
    begun = time.monotonic()
    threads = th.get_num_threads()
    th.set_num_threads(1)
    env = build_env(cell, cell.n_envs, 0, schedule_of(cell))
    try:
        model: Any = build_model(cell, env, seed=0, device=cell.device, **_short(cell))
        if is_off_policy(cell.algorithm) and not isinstance(model.replay_buffer, HerReplayBuffer):
            model.learning_starts = 0  # waiting is faster than what is measured
        model.set_logger(Logger(None, []))
        start = time.monotonic() - begun
        watch = _Stopwatch(seconds)
        model.learn(cell.total_steps, callback=watch)
        lengths = [episode["l"] for episode in model.ep_info_buffer]
        length = float(np.mean(lengths)) if lengths else model.num_timesteps / cell.n_envs
    finally:
        env.close()
        th.set_num_threads(threads)
    evaluating = _evaluated_episodes(cell) * length * watch.collecting / model.num_timesteps
    training = cell.total_steps / watch.rate
    return Pace(cell.total_steps / (training + evaluating), start)


def _short(cell: CellConfig) -> dict[str, Any]:
    """Give a run's arguments with short rollouts and a small buffer."""
    arguments = arguments_of(cell)

    def value(name: str) -> Any:
        return arguments.get(name, default_of(cell.algorithm, name))

    if is_off_policy(cell.algorithm):
        arguments["buffer_size"] = min(value("buffer_size"), ENOUGH)
    elif value("batch_size"):
        few = math.ceil(MINIBATCHES * value("batch_size") / cell.n_envs)
        arguments["n_steps"] = min(value("n_steps"), max(few, 2))
    return arguments


def _evaluated_episodes(cell: CellConfig) -> int:
    """Count the episodes of all tasks that a whole run's evaluations play."""
    visits = cell.total_steps // cell.steps_per_task
    # One before training, and then at most one after each rollout.
    evaluations = 1 + min(visits * cell.evaluation.points, cell.total_steps // cell.rollout)
    return evaluations * cell.evaluation.episodes * len(cell.games)


class _Stopwatch(BaseCallback):
    """Stop training when its time is up, but not before the second update."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._starts: list[tuple[float, int]] = []
        self.collecting = 0.0

    @property
    def rate(self) -> float:
        """Steps per second, without the first rollout and update, which compile and allocate."""
        (begun, first), (end, last) = self._starts[1], self._starts[-1]
        return (last - first) / max(end - begun, 1e-9)

    def _on_training_start(self) -> None:
        self._end = time.monotonic() + self._seconds

    def _on_rollout_start(self) -> None:
        self._starts.append((time.monotonic(), self.num_timesteps))

    def _on_rollout_end(self) -> None:
        self.collecting += time.monotonic() - self._starts[-1][0]

    def _on_step(self) -> bool:
        return len(self._starts) < 3 or time.monotonic() < self._end
