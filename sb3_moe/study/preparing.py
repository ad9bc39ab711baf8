"""What a study finds out before it trains: its random policy's level, and what can be built."""

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
from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study.building import (
    algorithm_class,
    arguments_of,
    build_callbacks,
    build_env,
    build_model,
    is_off_policy,
    plain_env,
    schedule_of,
    value_of_argument,
)
from sb3_moe.study.config import RunConfig
from sb3_moe.study.engine import child_environment, environment
from sb3_moe.study.folder import Job
from sb3_moe.study.grid import StudyConfig
from sb3_moe.study.training import begin_with, take_over
from sb3_moe.vec_env.evaluating import evaluate_tasks, is_told_masks, random_actions
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env

# Transitions that a replay buffer has room for where nothing is learned, and in a rehearsal.
SMALL, ENOUGH = 100, 10_000
# Minibatches in a rehearsed rollout: the time per step hardly depends on how long rollouts are.
MINIBATCHES = 4


class _AtRandom:
    """A policy that draws its actions uniformly, of those that are allowed."""

    def __init__(self, env: VecEnv, masked: bool) -> None:
        self._env, self._masked = env, masked

    def predict(self, obs: Any, **_: Any) -> tuple[Any, None]:
        return random_actions(self._env, masked=self._masked), None


def measure_random_policy(study: StudyConfig, root: Path) -> None:
    """Play each task with actions drawn uniformly, unless ``random.json`` has its returns."""
    from sb3_moe_envs.schedules import Interleave

    try:
        random_means(study, root)
        return
    except ValueError:  # not there, damaged, or of what the study was before
        pass
    run, episodes = study.runs()[0], study.random_episodes
    with environment(child_environment(root)):
        like = plain_env(run, len(run.games), 0, Interleave())
        env = make_pinned_env(like, evaluation_copies(like, episodes), seed=0)
        like.close()
        env.action_space.seed(0)
        masked = bool(_of(study)["masked"]) and env.has_attr("action_masks")
        player: Any = _AtRandom(env, masked)
        returns = evaluate_tasks(player, env, episodes).returns
        env.close()
    rounded = np.round(returns, 6).tolist()
    values = {"of": _of(study), "returns": dict(zip(study.games, rounded, strict=True))}
    write_json(root / "random.json", values)


def random_means(study: StudyConfig, root: Path) -> dict[str, float]:
    """Read the random policy's mean return on each task.

    :raises ValueError: if it was not measured, or in other environments
    """
    found = read_json(root / "random.json")
    if found.get("of") != _of(study):
        raise ValueError(
            f"random.json must be of {_of(study)}, got {found.get('of')}: run the study, which "
            "measures it again"
        )
    return {task: float(np.mean(values)) for task, values in found["returns"].items()}


def _of(study: StudyConfig) -> dict[str, Any]:
    """Say what decides how well a random policy plays."""
    world = {name: study.to_dict()[name] for name in ("games", "tasks", "env", "no_op_max")}
    masked = is_told_masks(algorithm_class(study.algorithm))
    return {**world, "episodes": study.random_episodes, "masked": masked}


def check_networks(runs: Sequence[RunConfig], root: Path) -> None:
    """Build the algorithm with each architecture, in the spaces of all tasks, and let it act once.

    :param runs: of one study, one at least
    :param root: folder of the study
    :raises ValueError: naming the architecture, and why it can't be built, or the actions that the
        algorithm can't take
    """
    from sb3_moe_envs.schedules import Cycle

    first, built = runs[0], dict[str, BaseAlgorithm]()
    with environment(child_environment(root)):
        # PPO wants more than one sample to a rollout, whatever `n_steps` is.
        env = build_env(first, 2, 0, Cycle(1, order=first.games[:1]))
    try:
        try:
            build_model(first, env, device="cpu", _init_setup_model=False)
        except AssertionError as error:
            raise ValueError(
                f"`algorithm` {first.algorithm} can't be trained here: {error}"
            ) from error
        for name, run in {run.architecture.name: run for run in runs}.items():
            try:
                built[name] = _build(run, env)
                _check_start(run, built)
                _check_callbacks(run, built[name])
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error
    finally:
        env.close()


def _build(run: RunConfig, env: VecEnv) -> BaseAlgorithm:
    arguments = arguments_of(run)
    if is_off_policy(run.algorithm):
        # What it would hold isn't needed, and may be more than there is room for.
        arguments["buffer_size"] = SMALL
    with warnings.catch_warnings():
        # That a batch is larger than a rollout is so with two parallel environments only.
        warnings.simplefilter("ignore")
        model = build_model(run, env, device="cpu", **arguments)
    # Some policies can be built in spaces that they can't see.
    obs: Any = model.observation_space.sample()
    model.predict(obs)
    policy: Any = model.policy
    if isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "_last_lstm_states"):
        with th.no_grad():  # what a rollout calls
            policy(policy.obs_to_tensor(obs)[0])
    policy_activations(policy, obs)  # which every run measures from its first step on
    return model


def _check_start(run: RunConfig, built: Mapping[str, BaseAlgorithm]) -> None:
    """Try what a network will begin with, where it is there already.

    :param built: new models of the networks so far, which starts are among: they come first
    """
    start, model = run.architecture.start_from, built[run.architecture.name]
    if start is not None and start.model is not None:
        begin_with(model, run, Path(start.model))
    elif start is not None and start.architecture in built:
        take_over(model, built[start.architecture], start, run.architecture.name)


def _check_callbacks(run: RunConfig, model: BaseAlgorithm) -> None:
    """Build a run's callbacks, and ask those that can say it whether they take the model.

    No more of them is called: at step 0 they might find the files of a run that goes on.
    """
    with TemporaryDirectory() as folder:
        for each in build_callbacks([*run.callbacks, *run.architecture.callbacks], Path(folder)):
            check = getattr(each, "check_model", None)
            if callable(check):
                check(model)


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


def rehearsed_pace(run: RunConfig, seconds: float) -> Pace:
    """Train a network for a moment in this process, and say how fast its runs would be.

    :param run: of the network
    :param seconds: to train, if that is enough for two updates
    """
    begun = time.monotonic()
    threads = th.get_num_threads()
    th.set_num_threads(1)
    env = build_env(run, run.n_envs, 0, schedule_of(run))
    try:
        model: Any = build_model(run, env, seed=0, device=run.device, **_short(run))
        if is_off_policy(run.algorithm) and not isinstance(model.replay_buffer, HerReplayBuffer):
            model.learning_starts = 0  # waiting is faster than what is measured
        model.set_logger(Logger(None, []))
        start = time.monotonic() - begun
        watch = _Stopwatch(seconds)
        model.learn(run.total_steps, callback=watch)
        lengths = [episode["l"] for episode in model.ep_info_buffer]
        length = float(np.mean(lengths)) if lengths else model.num_timesteps / run.n_envs
    finally:
        env.close()
        th.set_num_threads(threads)
    visits = run.total_steps // run.steps_per_task
    # One before training, and then at most one after each rollout.
    evaluations = 1 + min(visits * run.evaluation.points, run.total_steps // run.rollout)
    steps = evaluations * run.evaluation.episodes * len(run.games) * length
    evaluating = steps * watch.collecting / model.num_timesteps
    return Pace(run.total_steps / (run.total_steps / watch.rate + evaluating), start)


def _short(run: RunConfig) -> dict[str, Any]:
    """Give a run's arguments with short rollouts and a small buffer."""
    arguments, batch = arguments_of(run), value_of_argument(run, "batch_size")
    if is_off_policy(run.algorithm):
        arguments["buffer_size"] = min(value_of_argument(run, "buffer_size"), ENOUGH)
    elif batch:
        few = math.ceil(MINIBATCHES * batch / run.n_envs)
        arguments["n_steps"] = min(value_of_argument(run, "n_steps"), max(few, 2))
    return arguments


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
